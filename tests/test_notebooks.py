"""Running notebooks and building the book, on a small project of its own; and static checks of the real chapters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from book_project import SOURCE, TOC, make_project
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.book import NotebookError
from tools.book.__main__ import main
from tools.book.build import build_book, gather_pages, html_problems, stored_problems
from tools.book.check import page_problems
from tools.book.layout import STORED_PROFILE, Layout, read_status
from tools.book.run import differences, parameter_values, read_source

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A project whose chapter was stored, run with another profile, and built, with a hostile backend in force."""
    layout = make_project(tmp_path_factory.mktemp("studied"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        for command in (["store"], ["run", "--profile", "quick", "--set", "count", "5"], ["check"], ["build"]):
            assert main(["--root", str(layout.root), *command]) == 0
    return layout


def copy_of(layout: Layout, target: Path) -> Layout:
    shutil.copytree(layout.root, target / "copy")
    return Layout(target / "copy")


def test_stored_outputs_are_those_of_the_defaults(studied):
    stored = nbformat.read(studied.sources / "00_line.ipynb", as_version=4)
    assert stored.cells[1].metadata.tags == ["parameters", "hide-input"]
    assert stored.cells[2].metadata.tags == ["nbval-check-output"]
    assert stored.cells[2].outputs[0].text == "smoke 3\n"
    assert set(stored.metadata) == {"jupytext", "kernelspec", "language_info"}
    assert {key for cell in stored.cells for key in cell.metadata} == {"tags", "mystnb"}
    assert "version" not in stored.metadata.language_info
    assert read_status(studied.sources)["00_line"]["profile"] == STORED_PROFILE
    assert studied.sources.joinpath("00_line.py").read_text() == SOURCE


def test_run_shows_the_values_it_used_and_hides_the_defaults(studied):
    page = nbformat.read(studied.pages / "00_line.ipynb", as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in page.cells]
    assert tags[1] == ["parameters", "hide-input", "remove-cell"]
    assert tags[2] == ["injected-parameters", "hide-input"]
    assert "count = 5" in page.cells[2].source
    assert page.cells[3].outputs[0].text == "quick 5\n"
    record = read_status(studied.pages)["00_line"]
    assert (record["profile"], record["origin"]) == ("quick", "run")
    assert record["seconds"] > 0


def test_a_study_shows_its_first_pages_early_and_the_time_left(tmp_path, capsys):
    layout = make_project(tmp_path)
    (layout.sources / "01_more.py").write_text(SOURCE.replace("fig-line", "fig-more"))
    (layout.root / "_toc.yml").write_text(TOC.replace(
        "- file: book/chapters/status", "- file: book/chapters/01_more\n- file: book/chapters/status"))
    assert main(["--root", str(layout.root), "store"]) == 0
    capsys.readouterr()
    assert main(["--root", str(layout.root), "study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split(":")[0][:11] for line in lines if line]
    assert starts.count("first pages") == 1
    assert starts.index("[1/2] 00_li") < starts.index("first pages") < starts.index("book")
    assert starts.index("[1/2] 00_li") < starts.index("[2/2] 01_mo") < starts.index("book")
    assert "left" in lines[0]
    assert html_problems(layout) == []
    assert "quick 3" in (layout.html / "book/chapters/01_more.html").read_text(), "the second build has the new page"


def test_pictures_survive_a_backend_from_outside(studied):
    page = nbformat.read(studied.pages / "00_line.ipynb", as_version=4)
    assert page_problems(page, studied.root) == []
    assert any(kind.startswith("image/") for kind in page.cells[-1].outputs[0].data)


def test_built_book_is_whole_and_loss_is_noticed(studied, tmp_path):
    assert html_problems(studied) == []
    assert "`quick`" in (studied.pages / "status.md").read_text()
    broken = copy_of(studied, tmp_path)
    (broken.html / "book/chapters/status.html").unlink()
    chapter = broken.html / "book/chapters/00_line.html"
    chapter.write_text(chapter.read_text().replace('<img alt="A rising line"', '<img alt=""'))
    assert "no text for those" in html_problems(broken)[0]
    chapter.write_text(chapter.read_text().replace("<img", "<span"))
    problems = html_problems(broken)
    assert "00_line: the figure `fig-line` has no picture" in problems[0]
    assert "status.html was not built" in problems[1]


def test_a_broken_reference_fails_the_build(studied, tmp_path, capsys):
    broken = copy_of(studied, tmp_path)
    (broken.root / "book/index.md").write_text("# Start\n\nSee {numref}`fig-nowhere`.\n")
    assert main(["--root", str(broken.root), "build"]) == 2
    message = capsys.readouterr().err
    assert "error: book: the book has faults" in message
    assert "fig-nowhere" in message


def test_pages_of_an_older_source_give_way_to_the_stored_ones(studied, tmp_path, capsys):
    changed = copy_of(studied, tmp_path)
    assert gather_pages(changed)["00_line"]["origin"] == "run"
    page = nbformat.read(changed.pages / "00_line.ipynb", as_version=4)
    page.cells[3].source = "print('older')"
    nbformat.write(page, changed.pages / "00_line.ipynb")
    assert gather_pages(changed)["00_line"]["origin"] == "stored"
    assert "source has changed" in capsys.readouterr().out
    (changed.sources / "00_line.py").write_text(SOURCE.replace("print(profile", "print('new', profile"))
    assert stored_problems(changed, "00_line") == ["cell 2 differs from the source"]
    with pytest.raises(NotebookError, match=r"notebooks/00_line\.ipynb: cell 2 differs.*make notebooks"):
        build_book(changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "nope", "1"], "00_line: unknown parameter (got 'nope'). The parameters of this notebook"),
        (["run", "--profile", "huge"], "--profile: unknown profile (got 'huge'). Take one of: quick, smoke."),
        (["run", "--chapters", "07"], "--chapters: no such chapter (got '07'). Give the number or the name of"),
        (["build"], "notebooks/00_line.ipynb: there are no stored outputs. Run `make notebooks`, or `make study`."),
        (["check"], "notebooks/: 00_line: there are no stored outputs."),
    ],
)
def test_bad_requests_give_one_line(tmp_path, capsys, arguments, message):
    layout = make_project(tmp_path)
    assert main(["--root", str(layout.root), *arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (layout.root / "book/chapters").exists()


def test_a_folder_that_is_no_project(tmp_path, capsys):
    assert main(["--root", str(tmp_path), "check"]) == 2
    assert "there is no `_toc.yml` in this folder" in capsys.readouterr().err


def test_parameters_must_be_tagged_and_literal(tmp_path):
    path = tmp_path / "00_line.ipynb"
    for source, message in (
        (SOURCE.replace('"parameters", ', ""), "no cell has the tag"),
        (SOURCE.replace("count = 3", "count = len(profile)"), "default of the parameter `count` is not a literal"),
    ):
        (tmp_path / "00_line.py").write_text(source)
        notebook = read_source(tmp_path / "00_line.py")
        nbformat.write(notebook, path)
        with pytest.raises(NotebookError, match=message):
            parameter_values(notebook, path, {})


def page(source: str = "1", outputs: tuple = (), count: int | None = 1, **metadata) -> list[str]:
    cell = new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)
    return page_problems(new_notebook(cells=[new_markdown_cell("# A"), cell]), Path("/somewhere/checkout"))


HOME = "/ho" + "me/me/x"
PNG = new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
FIGURE = {"figure": {"name": "fig-a", "caption": "A."}, "image": {"alt": "Rises"}}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"count": None}, "not every code cell was run"),
        ({"count": 2}, "not run once each"),
        ({"outputs": (new_output("error", ename="KeyError", evalue="'x'"),)}, "stopped with KeyError: 'x'"),
        ({"outputs": (new_output("stream", name="stderr", text="Warning: old"),)}, "standard error: 'Warning: old'"),
        ({"outputs": (new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),)}, "widget"),
        ({"outputs": (new_output("stream", text="in /somewhere/checkout/runs"),)}, "path of this machine: /somewhere"),
        ({"outputs": (new_output("execute_result", {"text/html": f"<b>{HOME}</b>"}),)}, "path of this machine"),
        ({"outputs": (new_output("stream", text="<object at 0x7f12345678>"),)}, "memory address"),
        ({"source": f"open('{HOME}')"}, "path of one machine"),
        ({"outputs": (PNG,)}, "picture without a caption"),
        ({"mystnb": FIGURE}, "is a figure, but shows 0 pictures"),
        ({"mystnb": FIGURE | {"image": {"alt": " "}}, "outputs": (PNG,)}, "without mystnb image.alt"),
        ({"mystnb": FIGURE | {"figure": {"name": "a"}}, "outputs": (PNG,)}, "without mystnb figure.caption"),
        ({"source": "#" * 2**20}, "bytes are more than"),
    ],
)
def test_what_a_page_must_not_have(arguments, problem):
    (found,) = page(**arguments)
    assert problem in found


def test_a_good_page_has_no_problems():
    assert page(mystnb=FIGURE, outputs=(PNG,)) == []
    assert page(outputs=(new_output("stream", text="see https://host/home/me and results/home/x"),)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_are_thin_and_vouch_for_something(path):
    source = read_source(path)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    tags = [tag for cell in code for tag in cell.metadata.get("tags", ())]
    assert source.cells[0].source.startswith("# ")
    assert tags.count("parameters") == 1
    assert f'profile = "{STORED_PROFILE}"' in path.read_text()
    assert "nbval-check-output" in tags, "nbval would compare nothing"
    shown = [cell for cell in code if not {"remove-input", "live"} & set(cell.metadata.get("tags", ()))]
    assert len(shown) <= 16
    assert max(len(cell.source.splitlines()) for cell in code) <= 30


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_stored_chapters_are_pages(path):
    assert stored_problems(Layout(ROOT), path.stem) == []
    assert path.stem in read_status(path.parent)
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert differences(read_source(path), stored) == []


def test_jupytext_synchronises_inside_the_folder_and_changes_nothing(tmp_path: Path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    names = ("jupytext.toml", "03_head_detection.py", "03_head_detection.ipynb")
    for name in names:
        shutil.copyfile(ROOT / "notebooks" / name, folder / name)
    kept = {name: (folder / name).read_bytes() for name in names}
    source, page = folder / names[1], folder / names[2]

    def sync(path: Path) -> None:
        os.utime(source, (time.time() + 5,) * 2)  # as after an edit
        subprocess.run([sys.executable, "-m", "jupytext", "--sync", path.name], cwd=folder, check=True,
                       capture_output=True)

    for path in (page, source):
        sync(path)
        assert {name: (folder / name).read_bytes() for name in names} == kept
    source.write_text(source.read_text(encoding="utf-8") + "\n# %% [markdown]\n# One more.\n", encoding="utf-8")
    sync(page)
    assert nbformat.read(page, as_version=4).cells[-1].source == "One more."
    assert len(nbformat.read(page, as_version=4).cells[-2].get("outputs", ())) == len(
        nbformat.reads(kept[names[2]].decode(), as_version=4).cells[-1].get("outputs", ()))
