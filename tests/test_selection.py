"""Regret of choosing a training set: worked examples, a slow path, closed forms and simulated predictors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from retrieval_heads.stats.prediction import choices, summarise_regret
from retrieval_heads.stats.resample import bootstrap_crossed


def table(f1: np.ndarray, **predictors: np.ndarray) -> pd.DataFrame:
    """Runs of `[tasks, conditions, base models, seeds]` values."""
    names = ["task", "condition", "base", "seed"]
    levels = [[f"{name[0]}{i}" for i in range(n)] for name, n in zip(names, f1.shape, strict=True)]
    columns = {name: np.ravel(np.broadcast_to(values, f1.shape)) for name, values in ({"f1": f1} | predictors).items()}
    return pd.DataFrame(columns, index=pd.MultiIndex.from_product(levels, names=names)).reset_index()


def one_unit(f1: list[float], recall: list[float]) -> pd.DataFrame:
    return table(np.array(f1).reshape(1, -1, 1, 1), recall=np.array(recall).reshape(1, -1, 1, 1))


@pytest.mark.parametrize(("recall", "way", "taken", "regret"), [
    ([0.1, 0.9, 0.5, 0.2], "high", "c1", 0.3),
    ([0.1, 0.9, 0.5, 0.2], "low", "c0", 0.6),
    ([0.1, 0.2, 0.5, 0.9], "high", "c3", 0.0),
    ([0.7, 0.7, 0.5, 0.2], "high", "c0, c1", 0.45),  # either, at random
    ([0.5, 0.5, 0.5, 0.5], "high", "c0, c1, c2, c3", 0.3),  # no better than random
    ([math.nan, 0.1, math.nan, math.nan], "high", "c1", 0.3),
])
def test_worked_choices(recall, way, taken, regret):
    row = choices(one_unit([0.2, 0.5, 0.5, 0.8], recall), {"recall": way}, "f1").iloc[0]
    assert row["taken"] == taken
    assert row["regret"] == pytest.approx(regret)
    assert row["random_regret"] == pytest.approx(0.3)
    assert (row["best"], row["n_candidates"], row["n_unranked"]) == (0.8, 4, np.isnan(recall).sum())


def test_agreement_is_kendalls_tau_and_counts_ties_as_no_order():
    rng = np.random.default_rng(5)
    f1, loss = rng.random((2, 1, 8, 1, 1))
    row = choices(table(f1, loss=loss), {"loss": "low"}, "f1").iloc[0]
    assert row["agreement"] == pytest.approx(-kendalltau(f1.ravel(), loss.ravel()).statistic)
    for recall, expected in (
        ([0.1, 0.2, 0.3], 1), ([0.3, 0.3, 0.9], 2 / 3), ([0.4] * 3, 0), ([0.9, math.nan, 0.1], -1 / 3),
    ):
        row = choices(one_unit([0.2, 0.5, 0.8], recall), {"recall": "high"}, "f1").iloc[0]
        assert row["agreement"] == pytest.approx(expected)


def test_value_of_a_set_is_its_mean_over_seeds():
    f1 = np.array([[0.9, 0.1], [0.6, 0.6]]).reshape(1, 2, 1, 2)  # conditions by seeds
    runs = table(f1, recall=np.array([1.0, 0.0]).reshape(1, 2, 1, 1))
    assert choices(runs, {"recall": "high"}, "f1").regret.tolist() == pytest.approx([0.1, 0.1])


def test_regret_is_that_of_a_loop_over_units():
    rng = np.random.default_rng(0)
    f1, loss = rng.random((2, 3, 6, 2, 4))
    found = choices(table(f1, loss=loss), {"loss": "low"}, "f1")
    for row in found.itertuples():
        t, b, s = (int(name[1:]) for name in (row.task, row.base, row.seed))
        values = f1[t, :, b].mean(axis=1)
        assert row.regret == pytest.approx(values.max() - values[loss[t, :, b, s].argmin()])
        assert row.random_regret == pytest.approx(values.max() - values.mean())
    assert len(found) == 3 * 2 * 4


def test_random_regret_of_uniform_values_has_a_closed_form():
    """The best of k uniform values is k / (k + 1) on average, a random one 1/2; so is that of a useless predictor."""
    rng, k = np.random.default_rng(1), 5
    f1, noise = rng.random((2, 1, k, 400, 1))
    found = choices(table(f1, noise=noise), {"noise": "high"}, "f1")
    expected = k / (k + 1) - 1 / 2
    assert found.random_regret.mean() == pytest.approx(expected, abs=4 * 0.16 / 20)
    assert found.regret.mean() == pytest.approx(expected, abs=4 * 0.33 / 20)


def test_summary_is_the_mean_with_its_crossed_interval():
    rng = np.random.default_rng(2)
    f1, loss = rng.random((2, 2, 5, 2, 6))
    f1 = f1.mean(axis=-1, keepdims=True).repeat(6, axis=-1)  # what a set is worth
    runs = table(f1, loss=loss, recall=f1)
    found = choices(runs, {"loss": "low", "recall": "high"}, "f1")
    rows = summarise_regret(found, "loss").set_index(["task", "predictor"])
    of_loss = found[found.predictor == "loss"].regret.to_numpy().reshape(2, 2, 6)
    by_chance = f1.max(axis=1) - f1.mean(axis=1)
    for task, cut in (("t0", slice(0, 1)), ("all", slice(0, 2))):
        row = rows.loc[(task, "loss")]
        for name, cube in (("regret", of_loss[cut]), ("gain", (by_chance - of_loss)[cut])):
            assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(
                bootstrap_crossed(cube, fixed=(0,)))
        assert (row["over_reference"], row["n_choices"]) == (0, of_loss[cut].size)
    best = rows.loc[("all", "recall")]
    assert (best["regret"], best["hits"], best["agreement"]) == (0, 1, 1)
    mean = found[found.predictor == "loss"].agreement.mean()
    assert rows.loc[("all", "loss"), "agreement"] == pytest.approx(mean)
    assert best["over_reference"] == pytest.approx(of_loss.mean())


def test_good_predictors_are_told_from_useless_ones():
    rng, good, useless = np.random.default_rng(3), [], []
    for trial in range(9):
        truth = rng.normal(size=(2, 10, 1, 1))
        f1 = truth + 0.3 * rng.normal(size=(2, 10, 2, 5))
        runs = table(f1, recall=truth + 0.5 * rng.normal(size=f1.shape), noise=rng.normal(size=f1.shape))
        found = choices(runs, {"recall": "high", "noise": "high"}, "f1")
        rows = summarise_regret(found, "noise", n_resamples=100, seed=trial).set_index(["task", "predictor"])
        good.append(rows.loc[("all", "recall"), "gain_low"] > 0)
        useless.append(rows.loc[("all", "noise"), "gain_low"] <= 0 <= rows.loc[("all", "noise"), "gain_high"])
    assert np.mean(good) > 0.9
    assert np.mean(useless) > 0.75


def test_undefined_choices_say_why_and_are_left_out_for_all():
    rng = np.random.default_rng(4)
    f1, recall = rng.random((2, 2, 4, 2, 3))
    recall[1, :, 0, 2] = math.nan  # no real head in one task, base model and seed
    found = choices(table(f1, recall=recall, loss=f1), {"recall": "high", "loss": "high"}, "f1")
    empty = found[found.regret.isna()]
    assert empty.reason.tolist() == ["recall is not defined for any candidate"]
    rows = summarise_regret(found, "loss").set_index(["task", "predictor"])
    assert rows.loc[("all", "loss"), "n_choices"] == rows.loc[("all", "recall"), "n_choices"] == 2 * 2 * 2
    assert rows.loc[("t0", "recall"), "n_choices"] == 6
    kept = found[(found.predictor == "recall") & (found.seed != "s2")]
    assert rows.loc[("all", "recall"), "regret"] == pytest.approx(kept.regret.mean())
    undefined = choices(one_unit([0.1, 0.2], [math.nan] * 2), {"recall": "high"}, "f1")
    nothing = summarise_regret(undefined, "recall").iloc[0]
    assert math.isnan(nothing["regret"])
    assert nothing["reason"] == "no base model and seed in which all regrets are defined"


def test_one_candidate_is_no_choice_and_one_run_has_no_interval():
    row = choices(one_unit([0.1], [0.2]), {"recall": "high"}, "f1").iloc[0]
    assert row["reason"] == "fewer than 2 candidates"
    of_one = choices(one_unit([0.1, 0.4], [0.9, 0.2]), {"recall": "high"}, "f1")
    single = summarise_regret(of_one, "recall").iloc[0]
    assert single["regret"] == pytest.approx(0.3)
    assert math.isnan(single["regret_low"])
    assert single["reason"] == "no interval: nothing to resample"
