"""Q1, Q4 and Q5: choices, heads of base models alike by layer, and what varies less in one task than in another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_tables import CONDITIONS, LAYERS, MIXTURES, SYNTHETIC, TASKS, WIDTH, head_scores, runs_table
from scipy import stats

from retrieval_heads.claims.choice import PREDICTORS, choice_rows, choice_verdict
from retrieval_heads.claims.questions import alike_verdict, base_alike_rows, spread_rows, spread_verdict
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED
from retrieval_heads.errors import ResultError

RESAMPLES = {"n_resamples": 200}


def of_predictors(seed: int = 0, tasks=TASKS, **columns) -> pd.DataFrame:
    """Conditions that differ in performance; a column is performance itself ("good"), its contrary ("bad") or noise."""
    rng = np.random.default_rng(seed)
    level = {(task, condition): rng.random() for task in tasks for condition in (*SYNTHETIC, *MIXTURES, "real")}
    table = runs_table(rng, level, PREDICTORS)
    value = table["performance"]
    return table.assign(**{name: value if kind == "good" else -value for name, kind in columns.items()})


@pytest.mark.parametrize(("columns", "verdict"), [
    ({"recall_few": "good"}, SUPPORTED),
    ({"recall_few": "good", "training_loss": "bad"}, IN_PART),  # a low loss is as good a guide
    ({"recall_few": "bad"}, NOT),
    ({}, UNDECIDED),
])
def test_each_verdict(columns: dict, verdict: str) -> None:
    found = choice_verdict(choice_rows(of_predictors(**columns), **RESAMPLES))
    assert found.verdict == verdict
    assert found.claim == "Q1"


def test_the_best_set_is_taken_without_regret_among_the_candidates_only() -> None:
    table = of_predictors(recall_few="good")
    table.loc[table.condition == "real", "performance"] = 5.0  # no candidate
    rows = choice_rows(table, **RESAMPLES)
    own = rows[rows.predictor == "recall_few"]
    assert (own.regret == 0).all()
    assert (own.hits == 1).all()
    assert (own.agreement == 1).all()
    assert set(zip(own.candidates, own.n_candidates, strict=True)) == {("synthetic", 10), ("with_mixtures", 13)}
    pooled = rows[(rows.candidates == "synthetic") & (rows.task == "all")].set_index("predictor")
    worth = table[table.condition.isin(SYNTHETIC)].groupby(["task", "condition"]).performance.mean().unstack()
    assert pooled.loc["recall_few", "gain"] == pytest.approx((worth.max(axis=1) - worth.mean(axis=1)).mean())
    assert pooled.loc["recall_few", "behind_recall_few"] == 0
    noise = pooled.loc["training_loss"]
    assert noise["behind_recall_few"] == pytest.approx(noise["regret"])
    assert noise["behind_recall_few_low"] <= noise["behind_recall_few"] <= noise["behind_recall_few_high"]
    assert (noise["n_choices"], noise["n_bases"], noise["bases_behind"]) == (30, 2, 2)


def test_a_gain_in_one_base_model_alone_is_not_enough() -> None:
    table = of_predictors(recall_few="good")
    table.loc[table.base == "base-1", "recall_few"] *= -1
    rows = choice_rows(table, **RESAMPLES)
    own = rows[(rows.predictor == "recall_few") & (rows.task == "all") & (rows.candidates == "synthetic")].iloc[0]
    assert (own.bases_gaining, own.n_bases) == (1, 2)
    assert choice_verdict(rows).verdict not in (SUPPORTED, IN_PART)


def test_undefined_predictors() -> None:
    table = of_predictors(recall_few="good").assign(cosine_few=np.nan)
    assert "cosine_few" not in set(choice_rows(table, **RESAMPLES).predictor)
    nothing = choice_rows(table.assign(recall_few=np.nan), **RESAMPLES)
    assert nothing.empty
    assert choice_verdict(nothing).verdict == UNDECIDED


FEW = {"n_resamples": 50, "n_permutations": 199}


def two_models(profiles: list[np.ndarray], bases=("base", "base-1"), tasks=("mdqa", "musique")) -> pd.DataFrame:
    """Base models with so many heads in each layer, anywhere in it, and their real runs with the same number."""
    rng = np.random.default_rng(0)
    masks = {}
    for task in tasks:
        for base, counts in zip(bases, profiles, strict=True):
            for condition, seeds in (("base", (0,)), ("real", (1, 2, 3))):
                for seed in seeds:
                    mask = np.arange(WIDTH) < counts[:, None]
                    masks[task, condition, base, seed] = rng.permuted(mask, axis=1)
    return head_scores(rng, masks)


RISING = np.arange(LAYERS)
MIXED = np.array([5, 0, 9, 2, 11, 7, 1, 8, 3, 10, 4, 6])


@pytest.mark.parametrize(("profiles", "verdict"), [
    ([RISING, RISING], SUPPORTED), ([RISING, RISING[::-1]], NOT), ([RISING, MIXED], UNDECIDED),
])
def test_layers_are_compared_whatever_the_order_of_their_heads(profiles: list, verdict: str) -> None:
    table = two_models(profiles)
    rows = base_alike_rows(table, **FEW)
    own = rows[(rows.condition == "real") & (rows.measure == "profile") & (rows.task == "mdqa")].iloc[0]
    assert own.estimate == pytest.approx(stats.spearmanr(*profiles).statistic, abs=0.05)
    assert own.same_base > 0.9
    assert (own.n_layers, own.n_seeds) == (LAYERS, 3)
    assert set(rows.task) == {"mdqa", "musique", "all"}
    assert set(rows.condition) == {"base", "real"}
    assert set(rows.measure) == {"profile", "sorted"}
    assert alike_verdict(rows).verdict == verdict


def test_one_base_model_is_compared_with_none() -> None:
    rows = base_alike_rows(two_models([RISING], bases=("base",)), **FEW)
    assert rows.empty
    assert alike_verdict(rows).verdict == UNDECIDED


def test_base_models_of_different_shapes_are_refused() -> None:
    table = two_models([RISING, RISING])
    with pytest.raises(ResultError, match="different numbers of heads"):
        base_alike_rows(table[(table.base == "base") | (table.layer < 6)])


def runs(spreads: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """Runs whose recall and performance vary over conditions with these standard deviations."""
    rng = np.random.default_rng(1)
    level = {(task, name): spread[1] * rng.normal() for task, spread in spreads.items() for name in CONDITIONS}
    table = runs_table(rng, level, ["recall"], noise=0.01)
    own = {key: spreads[key[0]][0] * rng.normal() for key in level}
    return table.assign(recall=[own[key] for key in zip(table.task, table.condition, strict=True)])


@pytest.mark.parametrize(("mdqa", "verdict"), [
    ((0.02, 0.2), SUPPORTED), ((2.0, 2.0), NOT), ((0.2, 2.0), UNDECIDED),
])
def test_spread(mdqa: tuple[float, float], verdict: str) -> None:
    rows = spread_rows(runs({"mdqa": mdqa, "musique": (0.2, 0.2)}))
    found = spread_verdict(rows)
    assert found.verdict == verdict
    assert found.claim == "Q5"
    if verdict == SUPPORTED:
        assert "varies less is recall" in found.detail


def test_the_variance_is_that_of_the_means_without_real() -> None:
    table = runs({"mdqa": (0.2, 0.2), "musique": (0.2, 0.1)})
    row = spread_rows(table).set_index(["task", "quantity"]).loc[("mdqa", "performance")]
    means = table[table.condition != "real"].groupby(["task", "condition"]).performance.mean().unstack()
    assert row.variance == pytest.approx(means.loc["mdqa"].var())
    assert row.ratio == pytest.approx(means.loc["mdqa"].var() / means.loc["musique"].var())
    assert row.ratio_low <= row.ratio <= row.ratio_high
    assert row.noise == pytest.approx(0.01**2 / 10, rel=0.3)
    assert (row.n_bases, row.n_conditions) == (2, 14)


def test_one_task_or_no_recall_has_no_ratio() -> None:
    table = runs({"mdqa": (0.2, 0.2)})
    assert spread_verdict(spread_rows(table)).verdict == UNDECIDED
    rows = spread_rows(table.assign(recall=np.nan))
    assert set(rows.quantity) == {"performance"}
    assert spread_verdict(rows).verdict == UNDECIDED
