"""What is said of a study beside its verdicts, and that no page decides a claim otherwise than another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from retrieval_heads import paths
from retrieval_heads.claims.verdict import ALL, VERDICTS, Verdict
from retrieval_heads.config import load_profile
from retrieval_heads.figures.knockout import comparison_sizes
from retrieval_heads.figures.verdicts import FIGURES, task_verdicts_html, verdict_text, verdicts_html
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages import claims
from retrieval_heads.stages.findings import performance_sentence, study_size
from retrieval_heads.store import load_table


def knocked_out() -> pd.DataFrame:
    rows = []
    for condition in ("real", "symbolic"):
        own = {"task": "mdqa", "condition": condition, "n_retrieval": 6}
        rows.append({**own, "set": "none", "k": 0})
        rows += [{**own, "set": name, "k": k} for name in ("retrieval", "random") for k in (1, 5, 10)]
    return pd.DataFrame(rows)


def test_the_size_of_the_comparison_leaves_weaker_heads_out_and_is_that_of_the_task() -> None:
    table = knocked_out()
    assert comparison_sizes(table, (1, 5, 10)) == {"mdqa": 5}
    assert comparison_sizes(table[(table.set != "random") | (table.k < 5)], (1, 5, 10)) == {"mdqa": 1}
    assert comparison_sizes(table, (1, 10)) == {"mdqa": 1}, "5 is the size of a run and none of the profile"
    both = pd.concat([table, table.assign(task="summhay", n_retrieval=0)])
    assert comparison_sizes(both, (1, 5, 10)) == {"mdqa": 5, "summhay": 1}


def test_a_study_that_is_not_complete_says_so() -> None:
    profile = load_profile("smoke", seeds=[0, 1])
    runs = pd.DataFrame([key.columns for key in study_grid(profile)])[RUN]
    assert "not complete" not in study_size(profile, runs)
    assert f"rest on {len(runs)} runs (2 seeds)" in study_size(profile, runs)
    assert "**The study is not complete**" in study_size(profile, runs[runs.seed == 0])
    assert "runs (1 seed)" in study_size(profile, runs[runs.seed == 0])
    two = pd.concat([runs, runs.assign(base="another")])
    assert "runs (2 seeds, 2 base models)" in study_size(profile, two)


def test_sentences_of_verdicts_have_words_and_one_rule_for_p_values() -> None:
    verdicts = load_table("report", "verdicts")
    for column in ("quantity", "rule", "detail"):
        for text in verdicts[column]:
            assert not re.findall(r"[a-z]+_[a-z_]+", text), "names of code"
            assert not re.findall(r"\bp = 0\.\d{4}", text, re.IGNORECASE)


def test_the_mean_of_c1_counts_the_tasks_that_it_is_over() -> None:
    verdicts, means = load_table("report", "verdicts"), load_table("report", "mean_shortfall")
    whole = verdicts[(verdicts.claim == "C1") & (verdicts.task == ALL)].iloc[0]
    of_tasks = means[means.task != ALL]
    assert whole.n == len(of_tasks) == 3
    assert whole.effect == pytest.approx(of_tasks.value.mean(), abs=1e-5)
    assert "each task in its own metric" in whole.quantity


def test_a_verdict_names_the_chapter_that_shows_its_figure() -> None:
    verdicts = load_table("report", "verdicts").drop_duplicates("claim").set_index("claim").chapter
    drawn = {claim: place.partition(".html")[0] for claim, place in FIGURES.items()}
    assert {claim: verdicts[claim] for claim in drawn} == drawn


def test_the_sentence_on_performance_has_numbers_and_no_verdict() -> None:
    rows = [{"task": "mdqa", "condition": condition, "eval_length": length, "metric": "exact_match", "value": value,
             "n": 4} for condition, value in (("real", 0.8), ("rope", 0.25)) for length in (512, 2048)]
    table = pd.DataFrame(rows)
    text = performance_sentence(table[table.condition == "real"], table[table.condition == "rope"])
    assert "At 2,048 tokens the runs on real data solve 80% of mdqa" in text
    assert "against 25% of mdqa without training at the raised RoPE theta" in text
    assert "so few show that the study runs" in text
    assert "C1" not in text


ROOT = Path(__file__).parents[1]
PAGES = {"smoke": ROOT / "notebooks", "report": ROOT / "book" / "report"}
CLAIMS = ("C1", "C2", "C3", "C4", "C5")
SUPERSEDED = ("is not tested here", "is half supported", "not decided by this run", "supported in direction",
              "rule was fixed beforehand", "rules were fixed beforehand")
"""Words of rules that are gone."""


def texts(page: Path) -> Iterator[str]:
    """What a page says: prose, and what its cells print, as Markdown or HTML."""
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            yield from (data[kind] for kind in ("text/markdown", "text/html") if kind in data)


def said(text: str) -> Iterator[tuple[str, str, str]]:
    """Every claim, task and verdict in a text, of sentences and of both tables."""
    for block in re.split(r"(?=Over all tasks, )", text):
        claim = re.match(r"Over all tasks, (C\d) is \*\*([a-z ]+)\*\*", block)
        if claim:
            yield claim[1], ALL, claim[2]
            for task, verdict in re.findall(r"^- (\w+): \*\*([a-z ]+)\*\*", block, re.M):
                yield claim[1], task, verdict
    for claim, verdict in re.findall(r'<strong>(C\d)</strong> [^<]+</td><td><span class="verdict ([\w-]+)"', text):
        yield claim, ALL, verdict.replace("-", " ")
    for claim, row in re.findall(r"<strong>(C\d)</strong></td>(.*?)</tr>", text, re.S):
        for task, verdict in re.findall(r'of-task">(\w+): </span><span class="verdict ([\w-]+)"', row):
            yield claim, task, verdict.replace("-", " ")
    for claim, verdict in re.findall(r"\*\*(C\d) is ([a-z ]+)", text):  # as superseded rules put it
        yield claim, ALL, verdict.strip()


def test_the_search_finds_sentences_both_tables_and_old_words() -> None:
    text = "Over all tasks, C1 is **not decided**: x.\n\n- mdqa: **supported**, 1.\n- summhay: **not decided**"
    assert set(said(text)) == {
        ("C1", ALL, "not decided"), ("C1", "mdqa", "supported"), ("C1", "summhay", "not decided")}
    assert set(said("**C4 is supported**: heads carry")) == {("C4", ALL, "supported")}
    rows = [Verdict(task, "supported in part", 0.5, 0.4, 0.6, 3, "d", "C2", "q", "u", "runs", "r", "c", "t")
            for task in ("mdqa", ALL)]
    table = pd.DataFrame([vars(one) for one in rows])
    assert set(said(verdicts_html(table))) == {("C2", ALL, "supported in part")}
    assert set(said(task_verdicts_html(table, ["mdqa"]))) == {("C2", "mdqa", "supported in part")}


@pytest.mark.parametrize("profile", PAGES)
def test_stored_pages_give_one_verdict_a_claim(profile) -> None:
    found, pages = defaultdict(set), sorted(PAGES[profile].glob("0*.ipynb"))
    assert len(pages) > 5
    for page in pages:
        for text in texts(page):
            for claim, task, verdict in said(text):
                found[claim, task].add((verdict, page.stem))
    for key, verdicts in found.items():
        assert len({verdict for verdict, _ in verdicts}) == 1, f"{key}: {sorted(verdicts)}"
        assert {verdict for verdict, _ in verdicts} <= set(VERDICTS)
    assert {claim for claim, task in found if task == ALL} == set(CLAIMS)
    for claim in CLAIMS:
        assert len({page for _, page in found[claim, ALL]}) >= 2, f"{claim}: in its chapter and in that of verdicts"


@pytest.mark.parametrize("profile", PAGES)
def test_stored_pages_have_no_words_of_superseded_rules(profile) -> None:
    for page in sorted(PAGES[profile].glob("0*.ipynb")):
        for text in texts(page):
            for words in SUPERSEDED:
                assert words not in text, f"{page.name}: {words}"


def test_the_reports_pages_say_what_its_table_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    table = load_table("report", "verdicts").set_index(["claim", "task"]).verdict
    for page in sorted(PAGES["report"].glob("0*.ipynb")):
        for text in texts(page):
            for claim, task, verdict in said(text):
                assert table[claim, task] == verdict, f"{page.name}: {claim}, {task}"


class LikeQuick(claims.Inputs):
    """The tables of the report, cut to the runs of a study of the size of `quick`."""

    def table(self, name: str) -> pd.DataFrame:
        profile = load_profile("quick")
        rows = load_table("report", name)
        rows = rows[rows.task.isin(profile.tasks)]
        untuned = ("base", "rope")
        if "condition" in rows:
            rows = rows[rows.condition.isin([*profile.conditions, *untuned])]
        if "base" in rows:
            rows = rows[rows["base"] == "base"]
        return rows[rows.seed.eq(1) | rows.condition.isin(untuned)] if "seed" in rows else rows


def test_a_study_like_quick_decides_nothing_and_its_chapters_say_so_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    inputs = LikeQuick(load_profile("report", bootstrap=100))
    for claim in CLAIMS:
        verdicts = [one for one in claims.JUDGES[claim](inputs).verdicts if one.claim == claim]
        chapter = set(said(verdict_text(verdicts)))
        table = pd.DataFrame([vars(one) for one in verdicts])
        overview = set(said(verdicts_html(table))) | set(said(task_verdicts_html(table, ["mdqa", "musique"])))
        assert chapter == overview
        assert {verdict for _, _, verdict in chapter} == {"not decided"}
        if claim in ("C1", "C4", "C5"):
            words = "Not decided: 3 synthetic conditions are there, the rule needs 8."
            assert all(words in one.detail for one in verdicts if one.task != ALL)
