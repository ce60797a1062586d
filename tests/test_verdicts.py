"""What is said of a study beside its verdicts: its size, and at how many heads its runs are compared."""

from __future__ import annotations

import pandas as pd

from retrieval_heads.config import load_profile
from retrieval_heads.figures.knockout import comparison_sizes
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages.findings import performance_sentence, repeats, study_size


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
    assert repeats(1, 2) == "1 seed, 2 base models"


def test_the_sentence_on_performance_has_numbers_and_no_verdict() -> None:
    rows = [{"task": "mdqa", "condition": condition, "eval_length": length, "metric": "exact_match", "value": value,
             "n": 4} for condition, value in (("real", 0.8), ("rope", 0.25)) for length in (512, 2048)]
    table = pd.DataFrame(rows)
    text = performance_sentence(table[table.condition == "real"], table[table.condition == "rope"])
    assert "At 2,048 tokens the runs on real data solve 80% of mdqa" in text
    assert "against 25% of mdqa without training at the raised RoPE theta" in text
    assert "so few show that the study runs" in text
    assert "C1" not in text
