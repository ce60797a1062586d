"""The committed pages of the report, and the reference pages: nothing that is public is missing."""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from retrieval_heads.cli import parsers
from retrieval_heads.rank.calibration import PREDICTORS
from retrieval_heads.rank.result import Result
from retrieval_heads.store import load_table
from retrieval_heads.tables import all_tables, follow, verb_tables
from tools.book import landing as module
from tools.book.build import profiles_shown, report_problems, verdicts_block
from tools.book.landing import landing, paper_rows
from tools.book.layout import Layout, read_status, table_digests
from tools.book.reference import table_text, verb_text
from tools.book.run import BUILD, USUAL, Pace

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
    assert page[: page.index("::::{grid}")].count("**") == 8, "four points in bold, one of the second study"
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


def test_a_page_on_another_study_makes_no_small_run():
    records = {"07_verdicts": {"profile": "report"}, "10_pretrained": {"profile": "quick"}}
    assert profiles_shown(records) == ["report"]
    assert profiles_shown(records | {"07_verdicts": {"profile": "quick"}}) == ["quick"]


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


def test_the_pretrained_study_is_told_from_its_tables():
    tables = {"verdicts": pd.DataFrame({"claim": ["C1", "C2"], "task": "all", "verdict": ["supported", "not decided"]}),
              "contrasts": pd.DataFrame({"outcome": ["f1", "loss"], "condition": "low_low", "value": [0.17, 9.0],
                                         "low": [0.13, 8.0], "high": [0.2, 10.0], "finding": ["short", None]})}
    assert "C1 is supported and C2 is not decided" in module.pretrained_answer(tables)
    assert "Models trained on template needles in repeated filler are shown to" in module.pretrained_answer(tables)
    [line] = module.pretrained_advice(tables)
    assert "0.17 [0.13, 0.20] after template needles in repeated filler." in line
    assert "no shortfall" not in line
    unclear = tables["contrasts"].assign(condition="high_high", low=-0.01)
    [line] = module.pretrained_advice({"contrasts": unclear})
    assert "after LLM-written needles in real documents, no shortfall is shown (0.17 [−0.01, 0.20])." in line
    assert "F1 is lower" not in line
    assert module.pretrained_advice({}) == []
    assert "nothing is decided" in module.pretrained_answer({})


def test_the_paper_s_numbers_stand_beside_ours():
    rows = BeautifulSoup(paper_rows(), "html.parser").find_all("tr")[1:]
    assert len(rows) == 5
    assert "0.83" in rows[0].text
    assert all(row.select_one(".verdict") for row in rows)


def test_what_is_left_shrinks_and_follows_the_speed_of_the_machine():
    pace = Pace(["00_base_model", "02_lora_finetuning"])
    at_first = pace.left()
    assert at_first == sum(USUAL[name] for name in ("00_base_model", "02_lora_finetuning")) + BUILD
    pace.done("00_base_model", 2 * USUAL["00_base_model"])
    assert pace.left() == pytest.approx(2 * (USUAL["02_lora_finetuning"] + BUILD))
    assert pace.left("02_lora_finetuning", 10) == pytest.approx(pace.left() - 10)
    assert pace.left("02_lora_finetuning", 10**6) == pytest.approx(2 * BUILD)


def test_an_earlier_run_counts_and_unknown_chapters_have_a_guess():
    pace = Pace(["00_base_model", "99_new"], {"00_base_model": 7.0})
    pace.done("00_base_model", 7.0)
    assert "left" in pace.text()
    assert 0 < pace.left() < 200


def test_every_chapter_has_its_usual_time():
    assert list(USUAL) == CHAPTERS


PAGES = Path(__file__).parents[1] / "book" / "reference"
PUBLIC = ("retrieval_heads", "retrieval_heads.data", "retrieval_heads.data.official", "retrieval_heads.figures",
          "retrieval_heads.check", "retrieval_heads.diagnose", "retrieval_heads.rank")
VERBS = sorted(parsers()[1])


def documented() -> list[str]:
    """The full names that the pages have a directive for."""
    names = []
    for page in sorted(PAGES.glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
                module = found[1]
            elif found := re.fullmatch(r"\.\. auto(function|class|exception|data):: (\S+)", line):
                names.append(f"{module}.{found[2]}")
    return names


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_its_place(module: str) -> None:
    public = {f"{module}.{name}" for name in import_module(module).__all__}
    assert public
    assert not public - set(documented())


def test_what_is_documented_is_there_once_and_says_what_it_is() -> None:
    names = documented()
    assert len(set(names)) == len(names)
    assert not [name for name in names if not (resolve_name(name).__doc__ or "").strip()]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_say_arguments_and_errors(module: str) -> None:
    home = import_module(module)
    for name in home.__all__:
        text = getattr(home, name).__doc__
        if text.startswith(f"`{name.replace('iterate_', 'load_')}`, "):
            continue  # the same, one example at a time
        assert any(part in text for part in ("Args:", "Attributes:", "rrors as in")), name
        assert "Raises:" in text or "rrors as in" in text, name


def test_every_verb_has_its_place_and_a_label() -> None:
    page = (PAGES / "commands.md").read_text(encoding="utf-8")
    places = re.findall(r"\(verb-(\S+)\)=\n### `(\S+)`\n\n```\{verb\} (\S+)\n```", page)
    assert sorted(label for label, *_ in places) == VERBS
    assert all(label == title == verb for label, title, verb in places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_a_verb_is_explained(verb: str) -> None:
    text = "\n".join(verb_text(verb))
    assert max(map(len, re.findall(r"(?s)```text\n(.*?)```", text)[0].splitlines())) <= 79
    shown = re.findall(r"(?m)^:::\{option\} (.+)\n(.*)\n:::$", text)
    arguments = [action for action in parsers()[1][verb]._actions if action.dest != "help"]
    for action, (signature, body) in zip(arguments, shown, strict=True):
        assert action.help, action.dest
        names = action.option_strings or [action.metavar or ",".join(action.choices)]
        assert all(name in signature for name in names)
        assert body.removeprefix("**required**: ").strip()
        assert ("**required**" in body) == bool(action.required and action.option_strings)


def test_the_page_of_tables_has_every_dictionary() -> None:
    page = (PAGES / "tables.md").read_text(encoding="utf-8")
    assert re.findall(r"```\{dictionary\} (\S+)\n```", page) == [*verb_tables(), "study"]


def test_every_column_of_a_table_is_in_its_section() -> None:
    everything = {"study": all_tables(), **verb_tables()}
    labels = []
    for whose, tables in everything.items():
        for table in tables.values():
            label, heading, _, row, *_ = lines = list(table_text(whose, table))
            labels.append(label)
            assert heading == f"### `{table.name}`"
            assert len(row) > len("One row: .")
            cells = [line.split(" | ") for line in lines if line.startswith("| `")]
            assert [name.strip("| `") for name, *_ in cells] == [column.name for column in table.columns]
            assert all(meaning.strip(" |") for *_, meaning in cells)
    assert len(set(labels)) == len(labels)


def test_keys_and_kinds_are_said() -> None:
    text = "\n".join(table_text("diagnose", verb_tables()["diagnose"]["answers"]))
    assert "| `condition` | str, **key** |" in text
    assert "| `f1` | float, fraction, may be absent |" in text


def test_the_table_of_rank_follows_its_dictionary() -> None:
    values = pd.DataFrame({name: [0.5, 0.7] for name in PREDICTORS}, index=["a", "b"])
    made = Result(
        values, None, 40, {"a": 5, "b": 5}, values, {"probe_loss": 0.9}, 3, [], {"a": "", "b": ""}, {},
        6, 6, None, 0.1, 512, 1e4, {},
    ).table()
    table = verb_tables()["rank"]["rank"]
    assert len(follow(table, made, "rank.csv")) == 2 * len(PREDICTORS) + 1
    [predictor] = [column for column in table.columns if column.name == "predictor"]
    assert not [name for name in PREDICTORS if f"`{name}`" not in predictor.meaning]
