"""From a verdict to the figure, the table, the rows and the command: the links of pages, and the files behind them."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.figures import page as sources
from retrieval_heads.figures.verdicts import CLAIMS, FIGURES
from retrieval_heads.manifest import Facts, write_manifest
from retrieval_heads.store import load_table
from retrieval_heads.tables import all_tables
from tools.book.check import figures
from tools.book.data_page import MADE_FROM, data_page, figures_of
from tools.book.layout import Layout
from tools.book.links import (
    copy_linked,
    dead_links,
    mend_code_pages,
    one_deeper,
    open_alone,
    without_dead_links,
)
from tools.book.run import read_source

ROOT = Path(__file__).parents[1]
RUNS = {"base", "data", "finetune", "lengths", "detect", "knockout", "patch", "gold_loss"}
"""Stages whose rows models or generators make; those of all others follow from tables."""


def describe(folder: Path, digest: str) -> None:
    write_manifest(folder / "shortfall.json", Facts(seconds=90.0, device="a card"), table="shortfall", profile="report",
                   config_hash="c", base_digest=None, sha256=digest, rows=1234)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Layout:
    """A checkout with the table `shortfall` among the committed results and, with other rows, among live ones."""
    for name in ("_toc.yml", "notebooks", "configs"):
        (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("root: book/index\n")
    for folder, digest in (("results/report", "a"), ("runs/report/tables", "b")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "shortfall.csv").write_text(f"{digest}\n")
        describe(tmp_path / folder, digest)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.delenv(paths.HOME_VARIABLE, raising=False)
    return Layout(tmp_path)


def page_of(html: str) -> object:
    figure = new_code_cell("x", metadata={"mystnb": {"figure": {"name": "fig-one"}}})
    return new_notebook(cells=[figure, new_code_cell("y", outputs=[new_output("display_data", {"text/html": html})])])


def test_a_link_leads_to_the_committed_table_unless_there_are_newer_rows(checkout) -> None:
    assert sources.table_file("report", "shortfall") == "runs/report/tables/shortfall.csv"
    describe(checkout.root / "runs/report/tables", "a")
    assert sources.table_file("report", "shortfall") == "results/report/shortfall.csv"
    with pytest.raises(ResultError, match="no such table"):
        sources.table_file("report", "spread")


def test_the_line_below_a_figure_names_its_files_and_its_rows(checkout) -> None:
    line = sources.data_line("report", "shortfall", "models/base/train_log.json", rows="metric a < b").data
    assert 'href="../runs/report/tables/shortfall.csv"' in line
    assert 'href="data.html#made-shortfall"' in line
    assert 'href="../models/base/train_log.json"' in line
    assert "Drawn: metric a &lt; b." in line


def test_pages_lie_one_folder_deeper_and_name_files_that_are_gone_without_a_link(checkout) -> None:
    page = one_deeper(page_of(sources.data_line("report", "shortfall").data + '<a href="07.html#x">other</a>'))
    html = page.cells[1].outputs[0].data["text/html"]
    assert 'href="../../runs/report/tables/shortfall.csv"' in html
    assert 'href="07.html#x"' in html
    assert without_dead_links(page, checkout).cells[1].outputs[0].data["text/html"] == html
    (checkout.root / "runs/report/tables/shortfall.csv").unlink()
    html = without_dead_links(page, checkout).cells[1].outputs[0].data["text/html"]
    assert "runs/report" not in html
    assert "<code>shortfall.csv</code> (<a href" in html


def test_the_site_gets_the_linked_files_and_links_that_lead_nowhere_are_found(checkout) -> None:
    chapters = checkout.html / "book" / "chapters"
    chapters.mkdir(parents=True)
    (chapters / "data.html").write_text('<article><h2 id="made-shortfall">x</h2></article>')
    links = ("../../results/report/shortfall.csv", "data.html#made-shortfall", "data.html#made-else", "gone.html",
             "https://example.org/", "#here", "../../results/report/gone.csv")
    text = "".join(f'<a href="{link}">x</a>' for link in links)
    (chapters / "00_line.html").write_text(f"<article>{text}</article>")
    copy_linked(checkout)
    assert (checkout.html / "results/report/shortfall.csv").read_text() == "a\n"
    assert [problem for _, problem in dead_links(checkout, "book/chapters/00_line")] == [
        "book/chapters/00_line: the link to data.html#made-else leads to no such place",
        "book/chapters/00_line: the link to gone.html leads nowhere",
        "book/chapters/00_line: the link to ../../results/report/gone.csv leads nowhere",
    ]


def test_the_page_of_the_data_leads_from_a_figure_to_rows_sources_and_command(checkout) -> None:
    pages = {"02": page_of(sources.data_line("report", "shortfall").data)}
    assert figures_of(pages) == {"made-shortfall": ["fig-one"]}
    text = data_page(checkout, pages, ["report"])
    section = text[text.index("(made-shortfall)="):]
    for part in ('href="../../runs/report/tables/shortfall.csv"', "1,234 rows", "shortfall.json", "90 s on a card",
                 "`answers` (not there yet)", "`python -m retrieval_heads run finetune --profile report`",
                 "{numref}`fig-one`", "{ref}`Columns <table-shortfall>`"):
        assert part in section
    shutil.copy(checkout.root / "results/report/shortfall.csv", checkout.root / "results/report/answers.csv")
    shutil.copy(checkout.root / "results/report/shortfall.json", checkout.root / "results/report/answers.json")
    assert "{ref}`answers <made-answers>`" in data_page(checkout, pages, ["report"])


def test_every_table_is_followed_down_to_rows_that_models_made() -> None:
    assert set(MADE_FROM) == set(all_tables())
    for name in all_tables():
        below, seen = [name], set()
        while below:
            one = below.pop()
            assert one in all_tables(), f"{name} is said to follow from {one}"
            seen.add(one)
            if isinstance(MADE_FROM[one], str):
                table = all_tables()[one]
                assert table.tool or table.stage in RUNS, f"{one} follows from tables, and none is named"
            else:
                assert name not in MADE_FROM[one], f"{name} is said to follow from itself"
                below += [other for other in MADE_FROM[one] if other not in seen]
        assert any(isinstance(MADE_FROM[one], str) for one in seen)


def test_verdicts_lead_to_figures_that_exist_and_every_figure_has_its_data() -> None:
    named = {}
    for source in sorted((ROOT / "notebooks").glob("0[0-8]_*.py")):  # the next one is on data of the reader
        notebook = read_source(source)
        named |= {f"{source.stem}.html#{figure['name']}": source.stem for figure in figures(notebook)}
        for cell, after in pairwise(notebook.cells):
            if "figure" in cell.metadata.get("mystnb", {}):
                assert after.source.startswith("figures.page.data_line("), cell.metadata.mystnb.figure.name
                assert after.metadata.tags == ["remove-input"]
    assert set(FIGURES.values()) <= set(named)
    assert set(CLAIMS) - set(FIGURES) == {"Q4"}, "whether the heads of two base models are alike is drawn nowhere"


def test_every_table_that_a_verdict_names_has_a_section() -> None:
    assert set(load_table("report", "verdicts").table) <= set(MADE_FROM)


def test_pages_of_source_code_lose_their_dead_links(checkout) -> None:
    code = checkout.html / "_modules" / "index.html"
    code.parent.mkdir(parents=True)
    (checkout.html / "page.html").write_text('<p id="known"></p>')
    code.write_text('<article><ul><li><a href="builtins.html">builtins</a></li></ul>'
                    '<a class="viewcode-back" href="../page.html#known">[docs]</a>def one'
                    '<a class="viewcode-back" href="../page.html#unknown">[docs]</a>def two</article>')
    assert len(list(dead_links(checkout, "_modules/index"))) == 2
    mend_code_pages(checkout)
    assert not list(dead_links(checkout, "_modules/index"))
    text = code.read_text()
    assert "page.html#known" in text
    assert "def two" in text
    assert "<li>" not in text


def test_svg_figures_open_alone_once(checkout) -> None:
    page = checkout.html / "book" / "a.html"
    page.parent.mkdir(parents=True)
    page.write_text('<img alt="A." src="../_images/a.svg"/><img alt="B." src="../_images/b.png"/>')
    open_alone(checkout)
    open_alone(checkout)
    assert page.read_text().count('<a class="alone" href="../_images/a.svg"><img alt="A."') == 1
    assert page.read_text().count("<a ") == 1
