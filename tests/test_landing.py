"""The first page: the answer, the claims beside the paper's numbers, advice; after a small run a banner."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from retrieval_heads.store import load_table
from tools.book import landing as module
from tools.book.landing import landing, paper_rows
from tools.book.layout import Layout

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    root = tmp_path_factory.mktemp("landing")
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "_toc.yml", root)
    return Layout(root)


@pytest.fixture(scope="module")
def page(layout) -> str:
    return landing(layout, ["report"])


def test_the_answer_stands_before_the_figure_and_the_claims(page):
    marks = ("Retrieval heads", "landing_knockout.svg", "The five claims")
    answer, figure, claims = (page.index(text) for text in marks)
    assert answer < figure < claims < page.index("Which data should I use?")
    assert page[: page.index("::::{grid}")].count("**") == 6, "three sentences, each with its point in bold"
    assert "nan" not in page
    assert "small run" not in page


def test_the_figure_has_three_panels_with_texts(page, layout):
    for name in module.PANELS:
        assert (layout.pages / f"landing_{name}.svg").read_text().startswith("<?xml")
        assert f"](chapters/landing_{name}.svg)" in page
        assert f"![{module.PANELS[name][0]}" in page


def test_verdicts_and_effects_are_those_of_the_table(page):
    rows = BeautifulSoup(page, "html.parser").find("table").find_all("tr")[1:]
    verdicts = load_table("report", "verdicts").query("task == 'all'").set_index("claim")
    for row in rows:
        claim = row.find("strong").text
        assert row.select_one(".verdict").text == verdicts.verdict[claim]
        assert f"{verdicts.effect[claim]:.2f}" in row.find_all("td")[2].text
    assert [row.find("strong").text for row in rows] == ["C1", "C2", "C3", "C4", "C5"]


def test_a_small_run_has_a_banner_and_its_verdicts_beside_the_report_s(layout, monkeypatch):
    known = module._by_claim("report")
    small = {claim: row.replace({row.verdict: "not decided"}) for claim, row in known.items()}
    monkeypatch.setattr(module, "_by_claim", lambda profile: known if profile == "report" else small
                        if profile == "quick" else {})
    page = landing(layout, ["report", "quick"])
    assert page.index("This book shows a small run") < page.index("Retrieval heads")
    first = BeautifulSoup(page, "html.parser").find("table").find_all("tr")
    assert "This run (quick)" in first[0].text
    assert [one.text for one in first[1].select(".verdict")] == [known["C1"].verdict, "not decided"]


def test_the_pretrained_study_gets_a_column_when_it_is_there(layout, monkeypatch):
    known = module._by_claim("report")
    monkeypatch.setattr(module, "_by_claim", lambda profile: known if profile in ("report", "pretrained") else {})
    assert "Pretrained model" in landing(layout, ["report"])


def test_the_paper_s_numbers_stand_beside_ours():
    rows = BeautifulSoup(paper_rows(), "html.parser").find_all("tr")[1:]
    assert len(rows) == 5
    assert "0.83" in rows[0].text
    assert all(row.select_one(".verdict") for row in rows)
