"""What a chapter teaches by: the finding first, short cells to change, solved exercises; unknown parameters fail."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError
from retrieval_heads.figures.style import check_parameters
from tools.book.run import read_source

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.py"))
LIVE = [path for path in CHAPTERS if not path.stem.startswith("09")]
MOST_LINES = 15


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def live_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read_source(path).cells if "live" in tags(cell)]


def solutions(path: Path) -> list[str]:
    """The code of the folded solutions of a chapter, in order."""
    text = "\n".join(cell.source for cell in read_source(path).cells if cell.cell_type == "markdown")
    found = re.findall(r":::\{dropdown\} Solution\n(.*?)\n:::", text, re.DOTALL)
    return [code for one in found for code in re.findall(r"```python\n(.*?)```", one, re.DOTALL)]


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_cells_to_change_are_short_visible_and_vouched_for(path):
    cells = live_cells(path)
    assert cells
    for cell in cells:
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= MOST_LINES, cell.source
        assert tags(cell) == {"live", "nbval-check-output"}
        assert "profile" not in cell.source, "it has to be the same in every profile"
    assert any("# change this" in cell.source for cell in cells)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_finding_comes_first_the_limits_last_and_checks_are_hidden(path):
    cells = read_source(path).cells
    box = next(place for place, cell in enumerate(cells) if "figures.page.takeaway(" in cell.source)
    shown = [place for place, cell in enumerate(cells) if "figure" in cell.metadata.get("mystnb", {})]
    assert all(tags(cell) & {"remove-cell", "hide-input"} for cell in cells[:box] if cell.cell_type == "code")
    assert not shown or shown[0] > box
    assert "## Limits" in cells[-1].source
    for cell in cells:
        if cell.cell_type == "code" and re.search(r"^assert ", cell.source, re.MULTILINE):
            assert "remove-cell" in tags(cell), cell.source


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_captions_are_short(path):
    for cell in read_source(path).cells:
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        assert len(caption.split()) < 40, caption


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_live_outputs_do_not_depend_on_the_profile(path):
    stored, report = (nbformat.read(folder / f"{path.stem}.ipynb", as_version=4)
                      for folder in (ROOT / "notebooks", ROOT / "book" / "report"))
    times = re.compile(r"\d+ ms")
    one, other = ([[times.sub("TIME", output.get("text", "")) for output in cell.outputs] for cell in page.cells
                   if "live" in tags(cell)] for page in (stored, report))
    assert one == other
    assert any(one)


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_solutions_of_the_exercises_run(path, monkeypatch, capsys):
    codes = solutions(path)
    assert codes
    monkeypatch.chdir(ROOT / "notebooks")
    variables: dict = {}
    for code in [cell.source for cell in live_cells(path)] + codes:
        exec(compile(code, path.stem, "exec"), variables)
    assert capsys.readouterr().out.count("\n") > len(codes)


def test_sizes_of_the_pages():
    sizes = {path.name: path.stat().st_size for folder in ("notebooks", "book/report") for path in
             (ROOT / folder).glob("*.ipynb")}
    assert max(sizes.values()) < 720_000, sizes


DEFAULTS = 'profile = "smoke"\nlimits = {"smoke": 3}\n'


def test_unknown_names_are_refused_and_known_ones_are_not():
    check_parameters(["", DEFAULTS, "# Parameters\nprofile = \"quick\"\nlimits = {}\n", "x = 1"])
    check_parameters(["", DEFAULTS, "more = 1"])
    with pytest.raises(ConfigError, match=r"unknown parameter \(got 'profil, n'\)\. The parameters of this notebook are"
                                          r": profile, limits\."):
        check_parameters(["", DEFAULTS, "# Parameters\nprofil = 1\nn = 2\nprofile = 3\n"])
    check_parameters()  # in no notebook


@pytest.mark.parametrize(("given", "fails"), [({"profile": "quick"}, False), ({"profil": "quick"}, True)])
def test_papermill_by_hand(tmp_path: Path, given: dict[str, str], fails: bool):
    notebook = new_notebook(cells=[
        new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]}),
        new_code_cell("from retrieval_heads import figures\nfigures.style.use_style()\nprint(profile)"),
    ], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    nbformat.write(notebook, tmp_path / "in.ipynb")
    if not fails:
        page = papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", given, progress_bar=False)
        assert page.cells[-1].outputs[-1].text == "quick\n"
        return
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter"):
        papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", given, progress_bar=False)


def test_every_chapter_begins_by_the_call_that_checks():
    for source in sorted((Path(__file__).parents[1] / "notebooks").glob("*.py")):
        assert "figures.style.use_style()" in source.read_text(encoding="utf-8"), source.name


def test_an_installed_package_finds_the_checkout_that_it_is_used_in(monkeypatch, tmp_path: Path):
    root = Path(__file__).parents[1]
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "site-packages" / "retrieval_heads")
    monkeypatch.chdir(root / "notebooks")
    assert paths.checkout() == paths.needed_checkout() == root
    assert paths.resolve_model("models/base") == str(root / "models/base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    assert paths.checkout() is None
    with pytest.raises(ConfigError, match=r"needs the files of the repository.* Run it inside a checkout"):
        paths.resolve_model("models/base")
    assert paths.resolve_model("owner/model") == "owner/model"
