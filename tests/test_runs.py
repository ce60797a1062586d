"""Correlation over runs: enumeration, scipy, error rates and coverage on simulated studies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from retrieval_heads.stats.correlation import METHODS, correlate
from retrieval_heads.stats.runs import balanced, condition_means, correlate_runs

SCIPY = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
FEW = {"n_resamples": 20, "n_permutations": 30}


def study(
    rng: np.random.Generator, *, tasks: int = 2, conditions: int = 8, bases: int = 2, seeds: int = 3,
    slope: float = 0.0, noise: float = 0.3,
) -> pd.DataFrame:
    """Conditions that differ in recall and f1 (related by `slope`), the same in all tasks, with tasks, base models and
    runs adding to both."""
    index = pd.MultiIndex.from_product(
        [[f"t{i}" for i in range(tasks)], [f"c{i:02}" for i in range(conditions)], [f"b{i}" for i in range(bases)],
         range(seeds)], names=["task", "condition", "base", "seed"])
    shape = (tasks, conditions, bases, seeds)
    recall = rng.normal(size=(1, conditions, 1, 1))
    f1 = slope * recall + math.sqrt(1 - slope**2) * rng.normal(size=(1, conditions, 1, 1))
    shared = 3 * rng.normal(size=(tasks, 1, 1, 1)) + 2 * rng.normal(size=(1, 1, bases, 1))
    columns = [one + shared + noise * rng.normal(size=shape) for one in (recall, f1)]
    return pd.DataFrame({"recall": columns[0].ravel(), "f1": columns[1].ravel()}, index=index).reset_index()


def ranks_within(table: pd.DataFrame, value: str) -> np.ndarray:
    """Centred ranks inside tasks, one row a condition."""
    wide = table.pivot(index="condition", columns="task", values=value).rank()
    return (wide - wide.mean()).to_numpy()


def test_pooled_p_lists_all_exchanges_of_conditions():
    runs = study(np.random.default_rng(0), tasks=2, conditions=5, slope=0.8)
    row = correlate_runs(runs, "recall", "f1", n_resamples=50).set_index("task").loc["all"]
    means = runs.groupby(["task", "condition"])[["recall", "f1"]].mean().reset_index()
    x, y = ranks_within(means, "recall"), ranks_within(means, "f1")
    every = np.array([(x * y[list(order)]).sum() for order in itertools.permutations(range(5))])
    assert row["estimate"] == pytest.approx(every[0] / math.sqrt((x**2).sum() * (y**2).sum()))
    assert row["p"] == (np.abs(every) >= abs(every[0]) - 1e-9).mean()
    assert (row["n"], row["n_runs"], row["n_conditions"], row["n_groups"]) == (10, 60, 5, 2)


@pytest.mark.parametrize("method", METHODS)
def test_one_task_is_the_correlation_of_the_means(method):
    runs = study(np.random.default_rng(1), tasks=2, slope=0.5)
    rows = correlate_runs(runs, "recall", "f1", method=method, **FEW).set_index("task")
    for task, part in runs.groupby("task"):
        means = part.groupby("condition")[["recall", "f1"]].mean()
        assert rows.loc[task, "estimate"] == pytest.approx(SCIPY[method](means.recall, means.f1).statistic)
        assert rows.loc[task, "low"] <= rows.loc[task, "estimate"] <= rows.loc[task, "high"]


def test_error_rate_holds_however_many_runs_repeat_a_condition():
    rng, trials, naive, found = np.random.default_rng(3), 50, [], []
    for trial in range(trials):
        runs = study(rng, tasks=1, conditions=6)
        labels = runs.task + runs.base
        row = correlate(runs.recall, runs.f1, groups=labels, n_resamples=1, n_permutations=60, seed=trial)
        naive.append(row["p"] <= 0.05)
        rows = correlate_runs(runs, "recall", "f1", n_resamples=1, n_permutations=99, seed=trial)
        found.append(rows.p.iloc[-1] <= 0.05)
    assert np.mean(naive) > 0.25
    assert np.mean(found) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


def test_a_relation_is_found_and_its_interval_covers_it():
    rng, trials, found, covered = np.random.default_rng(4), 40, [], []
    truth = 6 / math.pi * math.asin(0.8 / 2)  # Spearman's rho of a bivariate normal distribution
    for trial in range(trials):
        runs = study(rng, conditions=14, slope=0.8, tasks=1, seeds=2, noise=0.05)
        row = correlate_runs(runs, "recall", "f1", n_resamples=150, n_permutations=99, seed=trial).iloc[-1]
        found.append(row["p"] <= 0.05)
        covered.append(row["low"] <= truth <= row["high"])
    assert np.mean(found) > 0.85
    assert np.mean(covered) > 0.8


def test_order_of_rows_does_not_matter():
    runs = study(np.random.default_rng(5))
    mixed = runs.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        correlate_runs(mixed, "recall", "f1", **FEW), correlate_runs(runs, "recall", "f1", **FEW))


def test_undefined_values_leave_out_what_cannot_be_compared():
    runs = study(np.random.default_rng(6), tasks=2, conditions=5)
    runs.loc[(runs.task == "t0") & (runs.condition == "c00"), "recall"] = math.nan  # the whole condition in one task
    runs.loc[(runs.base == "b1") & (runs.seed == 2) & (runs.condition == "c03"), "f1"] = math.nan  # one seed of one
    rows = correlate_runs(runs, "recall", "f1", **FEW).set_index("task")
    assert rows.n_conditions.tolist() == [4, 5, 4]
    assert rows.n_runs.tolist() == [4 * 5, 5 * 5, 2 * 4 * 5]
    assert rows.loc["all", "left_out"] == "t0/c00, t1/c00"
    assert rows.loc["t0", "n_dropped"] == 30 - 20
    kept = runs[(runs.task == "t0") & (runs.condition != "c00") & ~((runs.base == "b1") & (runs.seed == 2))]
    means = kept.groupby("condition")[["recall", "f1"]].mean()
    assert rows.loc["t0", "estimate"] == pytest.approx(stats.spearmanr(means.recall, means.f1).statistic)


def test_means_over_other_seeds_are_not_compared():
    """One good seed is missing for one condition: its mean would fall although nothing differs."""
    runs = study(np.random.default_rng(7), tasks=1, conditions=3, bases=1, seeds=2, noise=0)
    runs["f1"] = runs.seed * 10.0
    runs.loc[(runs.condition == "c01") & (runs.seed == 1), "f1"] = math.nan
    table, left_out = balanced(runs, ["f1"])
    assert condition_means(table, ["f1"]).f1.tolist() == [0, 0, 0]
    assert left_out == []


@pytest.mark.parametrize(("change", "reason"), [
    (lambda runs: runs.assign(recall=1.0), "recall is constant"),
    (lambda runs: runs.assign(f1=math.nan), "fewer than 2 rows"),
    (lambda runs: runs[(runs.condition == "c00") == (runs.seed == 0)][lambda t: t.condition < "c02"],
     "no base model and seed has a value in every condition"),
])
def test_undefined_correlations_say_why(change, reason):
    runs = change(study(np.random.default_rng(8), tasks=1))
    row = correlate_runs(runs, "recall", "f1", **FEW).iloc[0]
    assert math.isnan(row["estimate"])
    assert row["reason"].startswith(reason)
