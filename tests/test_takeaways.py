"""The boxes at the head of the chapters: what their sentences take from tables, and what they say of a small run."""

from __future__ import annotations

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from retrieval_heads.config import load_profile
from retrieval_heads.figures.page import takeaway
from retrieval_heads.stages.findings import unseen_finding
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import (
    correlation_takeaway,
    knockout_takeaway,
    of_synthetic_heads,
    patching_takeaway,
    subset_sentence,
    verdicts_takeaway,
)
from retrieval_heads.takeaways.training import data_takeaway, finetune_takeaway
from retrieval_heads.wording import listed, p_value, with_minus

NAN = float("nan")


def shortfalls(low: float) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "metric": "exact_match", "value": value}
        for condition, value in (("high_high", 0.1), ("low_low", low), ("low_low_4x", 0.9), ("real_limited", 0.9))
    ])


def scores(condition: str, value: float) -> pd.DataFrame:
    return pd.DataFrame([{"task": "mdqa", "condition": condition, "eval_length": 2048, "metric": "exact_match",
                          "value": value}])


def test_fine_tuning_counts_synthetic_conditions_of_the_usual_size_and_follows_the_sign():
    sizes = pd.DataFrame([{"task": "mdqa", "condition": "low_low", "scale": scale, "value": value}
                          for scale, value in ((0.25, 0.7), (1.0, 0.6), (4.0, 0.5))])
    arguments = (scores("real", 0.9), scores("rope", 0.4), {"mdqa": "exact_match"})
    said = " ".join(finetune_takeaway(shortfalls(0.3), *arguments, sizes))
    assert "lower than models trained on real data, on average by 0.20 on mdqa" in said
    assert "least for `high_high` (0.10), most for `low_low` (0.30" in said
    assert "mdqa from 0.40 to 0.90" in said
    assert "lower the score: 16 times as many examples take mdqa from 0.70 to 0.50" in said
    other = finetune_takeaway(shortfalls(-0.3), *arguments, None)
    assert other[0] == "Synthetic less real score, mean over conditions: +0.10 on mdqa."
    assert len(other) == 3


def test_examples_are_counted_of_the_condition_that_is_spoken_of():
    table = pd.DataFrame([
        {"task": "mdqa", "condition": condition, "split": "train", "n": n, "unseen_forms": forms, "unseen": 0.8,
         "unseen_relations": 0.1}
        for condition, n, forms in (("real", 200, 0.0), ("real_quarter", 50, 0.0), ("low_low", 200, 0.9))
    ])
    assert ": 200 examples cannot show every pair" in unseen_finding(table)
    assert "90% of the sentence forms" in data_takeaway(table)[0]


def subsets(n_real: float) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": task, "condition": condition, "heads": "all", "threshold": 0.1, "precision": precision,
         "chance_high": 0.4, "n_heads": n_real if task == "mdqa" else 0.2}
        for task, precision in (("mdqa", 0.9), ("summhay", 0.1)) for condition in ("real", "low_low", "real_limited")
    ])


def test_subsets_leave_out_tasks_whose_real_runs_have_no_head():
    assert set(of_synthetic_heads(subsets(20), 0.1).task) == {"mdqa"}
    assert "90% of all" in subset_sentence(subsets(20), 0.1)[0]
    assert subset_sentence(subsets(0.5), 0.1) == []


def test_knock_out_says_which_weakest_heads_were_out():
    rows = [{"task": "mdqa", "condition": "real", "mode": "zero", "scope": "answer", "contrast": contrast, "k": k,
             "metric": "forced_exact_match", "value": value}
            for contrast, value in (("retrieval", 0.8), ("random", 0.01), ("bottom", 0.7)) for k in (10, 20)]
    said = knockout_takeaway(pd.DataFrame(rows), {"mdqa": 20}, "zero", "answer")
    assert "0.80 against 0.01 on mdqa (20 heads)" in said[0]
    assert "first layers" in said[1]
    closer = pd.DataFrame([*rows, rows[0] | {"contrast": "retrieval_over_bottom"}])
    assert "weakest heads of the same layers" in knockout_takeaway(closer, {"mdqa": 20}, "zero", "answer")[1]


def test_patching_without_a_gap_says_so_and_draws_no_conclusion():
    rows = pd.DataFrame([{"task": "all", "condition": "all", "set": name, "n_gap": 3, "closed": closed}
                         for name, closed in (("intersection", 0.2), ("random", 0.1), ("complement", 0.6), ("all", 1))])
    assert "closes 20% of the gap" in patching_takeaway(rows)[0]
    assert "differ less" not in patching_takeaway(rows)[1]
    assert "No run here has a gap" in patching_takeaway(rows.assign(n_gap=0))[0]


def test_correlation_of_one_seed_is_not_claimed():
    conditions = pd.DataFrame([{"task": "mdqa", "condition": "low_low", "recall": 0.9}])
    assert "cannot be correlated" in correlation_takeaway(conditions, None, 0.1)[0]


def test_the_report_s_sentences_hold_its_numbers():
    tables = {name: load_table("report", name) for name in ("verdicts", "choice", "correlation_runs", "run_predictors")}
    said = " ".join(verdicts_takeaway(tables["verdicts"], tables["choice"]))
    for row in tables["verdicts"].query("task == 'all' and claim.str.startswith('C')").itertuples():
        assert row.claim in said
        assert row.verdict in said
    said = " ".join(correlation_takeaway(pd.DataFrame(), tables, 0.1))
    found = tables["verdicts"].query("claim == 'C3' and task == 'all'").iloc[0]
    assert f"{found.effect:.2f}" in said
    assert "nan" not in said


def test_a_small_run_is_called_small_and_has_the_report_s_verdict():
    html = takeaway(load_profile("quick"), ["**One** `two`.", "Three < four."], ["C4"]).data
    box = BeautifulSoup(html, "html.parser")
    verdict = load_table("report", "verdicts").query("claim == 'C4' and task == 'all'").verdict.item()
    assert "Profile quick" in box.select_one(".small-run").text
    assert box.select_one(".verdict").text == verdict
    assert box.select_one("li").text == "Three < four."
    assert not BeautifulSoup(takeaway(load_profile("report"), ["One."]).data, "html.parser").select(".small-run")


@pytest.mark.parametrize(("p", "text"), [
    (0.0004, "p < 0.001"), (0.0, "p < 0.001"), (0.0009, "p < 0.001"), (0.0012, "p = 0.001"), (0.012, "p = 0.012")])
def test_a_p_value_is_never_nought(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(("text", "shown"), [
    ("-0.41 (-0.99 to 0.11)", "−0.41 (−0.99 to 0.11)"), ("by -.5, [-1, +2]", "by −.5, [−1, +2]"),
    ("base-1, 2022-05, low_low-4x and k-3 of `-1`", "base-1, 2022-05, low_low-4x and k-3 of `-1`"),
    ("-0.000 to -0.001", "0.000 to −0.001"), ("-0 and -0.0%", "0 and 0.0%")])
def test_numbers_have_a_minus_sign_and_names_keep_their_hyphen(text, shown):
    assert with_minus(text) == shown


def test_lists_are_english():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
