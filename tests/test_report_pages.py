"""The committed pages of the report, checked without running anything; what a changed table or source does to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools.book.build import report_problems, verdicts_block
from tools.book.layout import Layout, read_status, table_digests

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
VERDICTS = "07_verdicts"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_committed_pages_are_whole_and_agree_with_sources_and_tables(chapter) -> None:
    assert report_problems(Layout(ROOT), chapter) == []
    page = nbformat.read(ROOT / "book" / "report" / f"{chapter}.ipynb", as_version=4)
    assert any('profile = "report"' in cell.source for cell in page.cells if cell.cell_type == "code")


def copy_of(chapter: str, target: Path) -> Layout:
    """A project with one chapter, its page and the manifests of the tables."""
    for name in ("notebooks", "book/report", "results/report"):
        (target / name).mkdir(parents=True)
    (target / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    shutil.copy(ROOT / "notebooks" / f"{chapter}.py", target / "notebooks")
    for name in (f"{chapter}.ipynb", "status.json"):
        shutil.copy(ROOT / "book" / "report" / name, target / "book" / "report")
    for path in (ROOT / "results" / "report").glob("*.json"):
        shutil.copy(path, target / "results" / "report")
    return Layout(target)


def test_a_changed_table_or_source_makes_a_page_outdated(tmp_path) -> None:
    chapter = VERDICTS
    layout = copy_of(chapter, tmp_path)
    assert report_problems(layout, chapter) == []
    manifest = layout.tables / "verdicts.json"
    made = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(made | {"sha256": "0"}), encoding="utf-8")
    assert report_problems(layout, chapter) == ["the tables verdicts are not those it was made from"]
    manifest.write_text(json.dumps(made), encoding="utf-8")
    source = layout.sources / f"{chapter}.py"
    changed = source.read_text(encoding="utf-8").replace("## Every claim and question", "## Another heading")
    source.write_text(changed, encoding="utf-8")
    assert "differs from the source" in report_problems(layout, chapter)[0]
    assert report_problems(layout, "99_nothing") == ["there is no page of it in the report"]


def test_pages_record_the_tables_they_were_made_from() -> None:
    layout = Layout(ROOT)
    now = table_digests(layout)
    assert {"verdicts", "answers", "head_scores"} <= set(now)
    for chapter, record in read_status(layout.report).items():
        assert record["tables"] == table_digests(layout, chapter), chapter
    assert set(table_digests(layout, "10_pretrained")) > set(now)


def test_the_landing_page_takes_the_verdicts_as_the_chapter_shows_them(tmp_path) -> None:
    layout = copy_of(VERDICTS, tmp_path)
    shutil.copytree(layout.report, layout.pages)
    table = BeautifulSoup(verdicts_block(layout), "html.parser").find("table")
    claims = [row.find("strong").text for row in table.find_all("tr") if row.find("strong")]
    assert claims == ["C1", "C2", "C3", "C4", "C5", "Q1", "Q2", "Q3", "Q4", "Q5"]
    links = [link["href"] for link in table.find_all("a")]
    assert all(link.startswith(("chapters/0", "chapters/data.html#made-")) for link in links)
    assert sum("#made-" in link for link in links) == len(claims)
