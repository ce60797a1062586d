"""A parameter that a chapter does not have fails it, also where papermill is called by hand."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError
from retrieval_heads.figures.style import check_parameters

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
