"""The numbers behind the verdicts of the report, recomputed from the raw tables in a few lines of pandas and scipy."""

from __future__ import annotations

import claim_tables
import numpy as np
import pandas as pd
import pytest
from claim_tables import TASKS, verdict
from scipy.stats import bootstrap, spearmanr

from retrieval_heads.data.conditions import CONDITIONS

SYNTHETIC = list(claim_tables.SYNTHETIC)
ABLE = 0.2


def scores(answers: pd.DataFrame, task: str) -> pd.DataFrame:
    """Runs (base, seed) by (condition, example); only runs that are there."""
    of_task = answers[answers.task == task]
    return of_task.pivot(index=["base", "seed"], columns=["condition", "example"],
                         values="score" if task == "summhay" else "exact_match")


def common(wide: pd.DataFrame, conditions: list[str]) -> pd.DataFrame:
    """The runs of seeds under which every base model has all these conditions."""
    whole = wide[conditions].dropna()
    seeds = whole.reset_index().groupby("seed").base.nunique()
    kept = seeds[seeds == whole.index.unique("base").size].index
    return whole[whole.index.isin(kept, level="seed")]


@pytest.mark.parametrize("task", TASKS)
def test_c1_shortfalls_are_paired_means(table, task) -> None:
    wide, rows = scores(table("answers"), task), table("shortfall")
    metric = "citation_f1" if task == "summhay" else "exact_match"
    rows = rows[(rows.task == task) & (rows.metric == metric)].set_index("condition")
    for condition in SYNTHETIC:
        both = common(wide, ["real", condition])
        expected = (both["real"] - both[condition]).to_numpy().mean()
        assert rows.loc[condition, "value"] == pytest.approx(expected, abs=1e-5)
        assert rows.loc[condition, ["n_seeds", "n_bases"]].tolist() == [
            both.index.unique("seed").size, both.index.unique("base").size]
    said = verdict(table, "C1", task)
    counted = rows.loc[SYNTHETIC]
    assert f"Of 10 synthetic conditions {((counted.low > 0) & counted.same_sign).sum()} fall short" in said.detail
    every = common(wide, ["real", *SYNTHETIC])
    expected = np.mean([(every["real"] - every[name]).to_numpy().mean() for name in SYNTHETIC])
    assert said.effect == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("task", ["mdqa", "musique"])
def test_c2_precision_of_halves_against_real_runs_of_other_seeds(table, task) -> None:
    heads, found = table("head_scores"), []
    heads = heads[(heads.task == task) & (heads.kind == "copy")]
    sets = {
        (key[0], key[1], key[2], half): rows[f"score_{half}"].to_numpy() > 0.1
        for key, rows in heads.sort_values(["layer", "head"]).groupby(["base", "condition", "seed"])
        for half in ("even", "odd")
    }
    rows = table("subsets")
    rows = rows[(rows.task == task) & (rows.heads == "all") & (rows.threshold == 0.1)].set_index("condition")
    for condition in SYNTHETIC:
        by_base = {}
        for (base, name, seed, half), own in sets.items():
            if name != condition or not own.any():
                continue
            for (other_base, other, other_seed, other_half), real in sets.items():
                if (other_base, other) == (base, "real") and other_seed != seed and other_half != half:
                    by_base.setdefault((base, seed, other_seed), []).append((own & real).sum() / own.sum())
        pairs = pd.Series({key: np.mean(values) for key, values in by_base.items()})
        found.append(pairs.groupby(level=0).mean().mean())
        assert rows.loc[condition, "precision"] == pytest.approx(found[-1], abs=1e-5)
    assert verdict(table, "C2", task).effect == pytest.approx(np.mean(found), abs=1e-5)


def test_precision_over_tasks_has_an_interval_over_the_conditions_that_they_share(table):
    rows = table("subsets")
    decided = [task for task in ("mdqa", "musique", "summhay") if verdict(table, "C2", task).verdict != "not decided"]
    rows = rows[(rows.heads == "all") & (rows.threshold == 0.1) & rows.task.isin(decided)]
    means = rows.pivot(index="condition", columns="task", values="precision").loc[list(SYNTHETIC)].mean(axis=1)
    found = verdict(table, "C2", "all")
    assert found.effect == pytest.approx(means.mean(), abs=1e-5)
    interval = bootstrap((means,), np.mean, method="percentile", random_state=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=2e-3)


@pytest.mark.parametrize("predictor", ["recall", "cosine", "probe_loss", "ngram_overlap"])
@pytest.mark.parametrize("task", ["mdqa", "musique"])
def test_c3_rank_correlations_are_scipys(table, task, predictor) -> None:
    runs, rows = table("run_predictors"), table("correlation_runs")
    left_out = {"real", *(name for name, one in CONDITIONS.items() if not one.dissected)}
    runs = runs[(runs.task == task) & ~runs.condition.isin(left_out)]
    assert not runs[[predictor, "performance"]].isna().any(axis=None)
    means = runs.groupby("condition")[[predictor, "performance"]].mean()
    row = rows[(rows.task == task) & (rows.predictor == predictor) & (rows.method == "spearman") & (rows.base == "all")
               & (rows.conditions == "all") & (rows.threshold == 0.1) & (rows.given == "nothing")].iloc[0]
    assert row.n_conditions == len(means)
    assert row.estimate == pytest.approx(spearmanr(means[predictor], means.performance).statistic, abs=1e-5)


@pytest.mark.parametrize("task", ["mdqa", "musique"])
def test_c4_areas_and_what_all_retrieval_heads_take(table, task) -> None:
    areas, said = table("knockout_area"), verdict(table, "C4", task)
    areas = areas[(areas.task == task) & (areas["mode"] == "zero") & (areas.set == "random") & (areas.start >= ABLE)]
    assert f"Of {len(areas)} able runs" in said.detail
    assert f"above 0 in {(areas.low > 0).sum()} and below 0 in {(areas.high < 0).sum()}" in said.detail
    assert said.low <= areas.value.mean() <= said.high
    curves = table("knockout")
    curves = curves[(curves.task == task) & (curves.metric == "forced_exact_match") & (curves.draw == 0)]
    curves = curves.merge(areas[["condition", "seed", "base"]], on=["condition", "seed", "base"])
    start = curves[curves.set == "none"].value.sum()
    all_out = curves[(curves["mode"] == "zero") & (curves.k == curves.n_retrieval)]
    for name in ("retrieval", "random"):
        left = all_out[all_out.set == name].value.sum()
        assert f"{1 - left / start:.0%}" in said.detail


def test_c5_counts_of_runs_with_a_gap(table) -> None:
    rows = table("patching")
    rows = rows[(rows.metric == "forced_exact_match") & (rows.draw == 0) & rows.condition.isin(SYNTHETIC)]
    wide = rows.set_index(["task", "condition", "seed", "base", "set"])
    source = wide.xs("source", level="set")
    gap = source[(source.change_low > 0) & (source.value >= ABLE)].index
    own = wide.xs("intersection", level="set").reindex(gap)
    said = verdict(table, "C5")
    assert said.n == len(gap)
    assert f"helps in {(own.change_low > 0).sum()} and hurts in {(own.change_high < 0).sum()}" in said.detail
    assert f"By its own interval a part stays open in {(own.closed_high < 1).sum()} runs" in said.detail
    assert f"closes the whole gap by its estimate in {(own.closed >= 1).sum()}." in said.detail
    assert said.effect == pytest.approx(own.change.sum() / source.loc[gap].change.sum(), abs=0.02)


def test_every_claim_and_question_has_a_verdict_over_all_tasks(table) -> None:
    rows = table("verdicts")
    assert set(rows[rows.task == "all"].claim) == {"C1", "C2", "C3", "C4", "C5", "Q1", "Q2", "Q3", "Q4", "Q5"}
    assert rows.rule.str.len().min() > 20
