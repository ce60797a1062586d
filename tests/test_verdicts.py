"""What is said of claims C2 to C5 when the numbers are strong, weak, negative or absent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.stages.verdicts import (
    comparison_sizes,
    correlation_finding,
    knockout_finding,
    knockout_findings,
    overlap_finding,
    patching_finding,
)

METRIC = "forced_exact_match"


def knocked_out(retrieval: float, random: float, width: float, start: float = 0.9, n: int = 50):
    run = {"task": "mdqa", "seed": 0, "base": "tiny", "metric": METRIC, "n": n}
    table, effects = [], []
    for condition in ("real", "symbolic"):
        own = {**run, "condition": condition, "n_retrieval": 6}
        table.append({**own, "set": "none", "k": 0, "value": start})
        table += [{**own, "set": name, "k": k, "value": 0.5} for name in ("retrieval", "random") for k in (1, 5, 10)]
        over = retrieval - random
        contrasts = {"retrieval": retrieval, "random": random, "bottom": 0.0, "retrieval_over_random": over}
        effects += [
            {**run, "condition": condition, "mode": "zero", "scope": "answer", "contrast": name, "k": k, "value": value,
             "low": value - width, "high": value + width}
            for name, value in contrasts.items() for k in (1, 5, 10)
        ]
    return pd.DataFrame(table), pd.DataFrame(effects)


@pytest.mark.parametrize(("numbers", "verdict"), [
    ((0.8, 0.1, 0.1), "**C4 is supported**: retrieval heads carry what random heads do not. They take 89%"),
    ((0.2, 0.05, 0.1), "lowered but not destroyed"),
    ((0.1, 0.4, 0.1), "**C4 is not supported**"),
    ((0.2, 0.1, 0.3), "**C4 is not decided by this run.**"),
    ((0.0, 0.0, 0.1, 0.1), "**C4 is not tested here.**"),
])
def test_c4(numbers, verdict) -> None:
    text = knockout_finding(*knocked_out(*numbers), k=5)
    assert verdict in text
    assert "n = 50 examples a run, 1 seed" in text
    assert "nan" not in text


def test_the_runs_of_several_base_models_are_counted_and_said_to_be_of_several() -> None:
    tables = [pd.concat([one, one.assign(base="other")]) for one in knocked_out(0.8, 0.1, 0.1)]
    text = knockout_finding(*tables, k=5)
    assert "in 4 of 4 runs" in text
    assert "1 seed, 2 base models" in text


def test_few_examples_are_said_to_be_few() -> None:
    text = knockout_finding(*knocked_out(0.8, 0.1, 0.1, n=4), k=5)
    assert "so few show that the study runs, and nothing about the claim" in text


def test_the_size_of_the_comparison_leaves_weaker_heads_out_and_is_that_of_the_task() -> None:
    table, effects = knocked_out(0.8, 0.1, 0.1)
    assert comparison_sizes(table, (1, 5, 10)) == {"mdqa": 5}
    assert comparison_sizes(table[(table.set != "random") | (table.k < 5)], (1, 5, 10)) == {"mdqa": 1}
    assert comparison_sizes(table, (1, 10)) == {"mdqa": 1}, "5 is the size of a run and none of the profile"
    both = pd.concat([table, table.assign(task="summhay", n_retrieval=0)])
    sizes = comparison_sizes(both, (1, 5, 10))
    assert sizes == {"mdqa": 5, "summhay": 1}
    text = knockout_findings(both, pd.concat([effects, effects.assign(task="summhay")]), sizes, "zero", "answer")
    first, second = text.splitlines()
    assert first.startswith("- **mdqa.** With the 5 strongest heads out")
    assert second.startswith("- **summhay.** With the strongest head out")


def patched(gap: float, closed: float, width: float, heads: int = 5) -> pd.DataFrame:
    rows = []
    for condition in ("high_high", "symbolic"):
        run = {"task": "mdqa", "condition": condition, "seed": 0, "base": "tiny", "metric": METRIC, "draw": 0, "n": 50}
        rows += [
            {**run, "set": name, "n_heads": size, "change": change, "change_low": change - width,
             "change_high": change + width, "closed": share, "closed_low": share - width, "closed_high": share + width}
            for name, size, change, share in (
                ("source", 0, gap, np.nan), ("intersection", heads, gap * closed, closed), ("all", 192, gap, 1.0),
                ("random", heads, 0.0, 0.0), ("none", 0, 0.0, np.nan),
            )
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("numbers", "verdict"), [
    ((0.5, 0.6, 0.1), "**C5 is supported**: it helps and does not close the gap."),
    ((0.5, 1.0, 0.1), "**C5 is half supported**"),
    ((0.5, -0.6, 0.1), "**C5 is not supported**"),
    ((0.5, 0.1, 0.1), "**C5 is not decided by this run.**"),
    ((0.1, 0.6, 0.2), "There is no gap that patching could close: **C5 is not tested here.**"),
    ((0.5, 0.6, 0.1, 0), "No retrieval head is shared or patched alone"),
])
def test_c5(numbers, verdict) -> None:
    text = patching_finding(patched(*numbers))
    assert verdict in text
    assert "nan" not in text


def overlapping(precision: float, recall: float, p: float) -> pd.DataFrame:
    return pd.DataFrame([
        {"condition": condition, "measure": measure, "value": value, "layer_chance": 0.3, "layer_p": p}
        for condition in ("base", "real_limited", "high_high", "symbolic")
        for measure, value in (("precision", precision), ("recall", recall))
    ])


@pytest.mark.parametrize(("numbers", "verdict"), [
    ((0.9, 0.5, 0.01), "**C2 is supported**: they are mostly subsets."),
    ((0.95, 0.95, 0.01), "that says little"),
    ((0.6, 0.5, 0.4), "**C2 is supported in part**"),
    ((0.3, 0.5, 0.4), "**C2 is not supported**"),
    ((np.nan, 0.0, np.nan), "**C2 is not tested here.**"),
])
def test_c2(numbers, verdict) -> None:
    text = overlap_finding(overlapping(*numbers))
    assert verdict in text
    assert "nan" not in text


def correlated(value: float, p: float, low: float = np.nan, reason=None, task: str = "all") -> pd.DataFrame:
    row = {"predictor": "recall", "outcome": "f1", "value": value, "low": low, "high": 0.9, "p": p, "n": 6}
    return pd.DataFrame([{**row, "task": task, "reason": reason}])


@pytest.mark.parametrize(("table", "verdict"), [
    (correlated(0.9, 0.01, 0.5),
     "is 0.90 (strong; p = 0.01, n = 6 conditions, interval 0.50 to 0.90). **C3 is supported.**"),
    (correlated(0.5, 0.04), "**C3 is supported in direction, not in strength.**"),
    (correlated(-0.8, 0.02), "**C3 is not supported**: where recall is higher, performance is lower."),
    (correlated(0.8, 0.33, reason="too few"), "**C3 is not decided by this run**: so few conditions cannot decide it."),
    (correlated(0.1, 0.8), "it cannot be told from chance"),
    (correlated(np.nan, np.nan, reason="recall is constant", task="mdqa"),
     "F1 in mdqa is not defined with n = 6 conditions (recall is constant): **C3 is not tested here.**"),
])
def test_c3(table, verdict) -> None:
    text = correlation_finding(table)
    assert verdict in text
    assert "nan" not in text
