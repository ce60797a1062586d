"""Left-out conditions and regret of a choice: closed forms, slow paths, simulated predictors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from retrieval_heads.stats.prediction import choices, fit_linear, left_out_errors, summarise_errors, summarise_regret
from retrieval_heads.stats.resample import bootstrap_crossed


def table(x: np.ndarray, y: np.ndarray, **more: np.ndarray) -> pd.DataFrame:
    """Runs of `[tasks, conditions, seeds]` values of one base model."""
    index = pd.MultiIndex.from_product(
        [[f"t{i}" for i in range(y.shape[0])], [f"c{i:02}" for i in range(y.shape[1])], ["b0"], range(y.shape[2])],
        names=["task", "condition", "base", "seed"])
    columns = {"x": x, "y": y} | more
    return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()}, index=index).reset_index()


def test_errors_of_single_runs_are_the_closed_forms():
    """Left-out residuals: e / (1 - h) for the line, n / (n - 1) times the deviation for the mean."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1, 9, 1))
    errors = left_out_errors(table(x, y), ["x"], "y")
    one, two = x.ravel(), y.ravel()
    design = np.stack([np.ones(9), one], axis=1)
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    assert errors.x.to_numpy() == pytest.approx(np.abs((two - hat @ two) / (1 - np.diag(hat))))
    assert errors["mean"].to_numpy() == pytest.approx(9 / 8 * np.abs(two - two.mean()))
    assert errors.observed.to_numpy() == pytest.approx(two)


def test_all_runs_of_the_condition_are_left_out_and_tasks_stay_apart():
    rng = np.random.default_rng(1)
    x, y = rng.random((2, 2, 5, 3))
    errors = left_out_errors(table(x, y), ["x"], "y")
    for (t, c), found in zip(np.ndindex(2, 5), errors.x, strict=True):
        others = [other for other in range(5) if other != c]
        slope, intercept = np.polyfit(x[t, others].ravel(), y[t, others].ravel(), 1)
        assert found == pytest.approx(np.abs(intercept + slope * x[t, c] - y[t, c]).mean())
    assert errors.n_runs.tolist() == [3] * 10


def test_a_constant_predictor_is_the_baseline():
    rng = np.random.default_rng(2)
    y = rng.random((1, 6, 2))
    errors = left_out_errors(table(np.ones_like(y), y), ["x"], "y")
    assert errors.x.to_numpy() == pytest.approx(errors["mean"].to_numpy())
    assert fit_linear(np.ones(3), np.arange(3.0))(np.array([5.0])) == pytest.approx([1.0])


def test_predictors_are_compared_on_the_same_runs():
    rng = np.random.default_rng(3)
    x, y = rng.random((2, 2, 5, 2))
    runs = table(x, y, other=rng.random(x.size))
    runs.loc[(runs.task == "t0") & (runs.condition == "c02"), "other"] = math.nan
    errors = left_out_errors(runs, ["x", "other"], "y")
    assert not ((errors.task == "t0") & (errors.condition == "c02")).any()
    alone = left_out_errors(runs[(runs.task != "t0") | (runs.condition != "c02")], ["x"], "y")
    assert errors.x.tolist() == alone.x.tolist()
    few = left_out_errors(runs[(runs.task == "t1") & (runs.condition < "c02")], ["x"], "y")
    assert few.empty


def test_summary_of_worked_errors():
    errors = pd.DataFrame({
        "task": ["a"] * 3 + ["b"] * 3, "condition": ["u", "v", "w"] * 2, "x": [0.1, 0.2, 0.3, 0.1, 0.1, 0.1],
        "z": [0.2, 0.3, 0.4, 0.2, 0.2, 0.2], "mean": [0.4, 0.4, 0.4, 0.2, 0.2, 0.2]})
    rows = summarise_errors(errors, ["x", "z"]).set_index(["task", "predictor"])
    assert rows.loc[("a", "x"), ["error", "reference_error", "gain", "skill"]].tolist() == pytest.approx(
        [0.2, 0.4, 0.2, 0.5])
    assert rows.loc[("all", "x"), ["error", "gain"]].tolist() == pytest.approx([0.15, 0.15])
    assert rows.loc[("b", "z"), "gain"] == 0
    # always 0.1 apart: no uncertainty in the paired difference, though the errors themselves vary
    paired = summarise_errors(errors, ["x", "z"], "z").set_index(["task", "predictor"]).loc[("all", "x")]
    assert paired[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([0.1] * 3)
    assert paired.error_high - paired.error_low > 0.05
    # 3 of 27 samples hold one condition only, so the 95% range reaches the extremes
    assert rows.loc[("a", "x"), ["error_low", "error_high"]].tolist() == pytest.approx([0.1, 0.3])


def test_conditions_are_drawn_with_all_their_tasks():
    """Errors of a condition are the same in four tasks: no more evidence than one task gives."""
    rng = np.random.default_rng(4)
    one = pd.DataFrame({"task": "t0", "condition": [f"c{i}" for i in range(9)], "x": rng.random(9), "mean": 1.0})
    rows = summarise_errors(pd.concat([one.assign(task=f"t{i}") for i in range(4)]), ["x"]).set_index("task")
    assert rows.loc["all", "gain_low":"gain_high"].tolist() == pytest.approx(
        rows.loc["t0", "gain_low":"gain_high"].tolist())


def test_useful_and_useless_predictors_are_told_apart():
    """Coverage of the difference of two useless predictors, and power for a good one, over simulated studies."""
    rng, better, covered = np.random.default_rng(5), [], []
    for trial in range(24):
        truth = rng.normal(size=(1, 14, 1))
        y = truth + 0.2 * rng.normal(size=(1, 14, 2))
        noise = rng.normal(size=(2, 28))
        runs = table(truth + 0 * y, y, first=noise[0], second=noise[1])
        errors = left_out_errors(runs, ["x", "first", "second"], "y")
        rows = summarise_errors(errors, ["x", "first"], "second", n_resamples=200, seed=trial).set_index("predictor")
        better.append(rows.loc["x", "gain_low"] > 0)
        covered.append(rows.loc["first", "gain_low"] <= 0 <= rows.loc["first", "gain_high"])
    assert np.mean(better) > 0.9
    assert np.mean(covered) > 0.8


def test_few_conditions_and_no_error_say_why():
    errors = pd.DataFrame({"task": "a", "condition": ["u", "v"], "x": [0.1, 0.2], "mean": [0.0, 0.0]})
    row = summarise_errors(errors, ["x"]).iloc[0]
    assert row["gain"] == pytest.approx(-0.15)
    assert all(math.isnan(row[name]) for name in ("gain_low", "error_high", "skill"))
    assert row["reason"] == "no interval: too few conditions; no skill: no error to reduce"


def crossed_runs(f1: np.ndarray, **predictors: np.ndarray) -> pd.DataFrame:
    """Runs of `[tasks, conditions, base models, seeds]` values."""
    names = ["task", "condition", "base", "seed"]
    levels = [[f"{name[0]}{i}" for i in range(n)] for name, n in zip(names, f1.shape, strict=True)]
    columns = {name: np.ravel(np.broadcast_to(values, f1.shape)) for name, values in ({"f1": f1} | predictors).items()}
    return pd.DataFrame(columns, index=pd.MultiIndex.from_product(levels, names=names)).reset_index()


def one_unit(f1: list[float], recall: list[float]) -> pd.DataFrame:
    return crossed_runs(np.array(f1).reshape(1, -1, 1, 1), recall=np.array(recall).reshape(1, -1, 1, 1))


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
    row = choices(crossed_runs(f1, loss=loss), {"loss": "low"}, "f1").iloc[0]
    assert row["agreement"] == pytest.approx(-kendalltau(f1.ravel(), loss.ravel()).statistic)
    for recall, expected in (
        ([0.1, 0.2, 0.3], 1), ([0.3, 0.3, 0.9], 2 / 3), ([0.4] * 3, 0), ([0.9, math.nan, 0.1], -1 / 3),
    ):
        row = choices(one_unit([0.2, 0.5, 0.8], recall), {"recall": "high"}, "f1").iloc[0]
        assert row["agreement"] == pytest.approx(expected)


def test_value_of_a_set_is_its_mean_over_seeds():
    f1 = np.array([[0.9, 0.1], [0.6, 0.6]]).reshape(1, 2, 1, 2)  # conditions by seeds
    runs = crossed_runs(f1, recall=np.array([1.0, 0.0]).reshape(1, 2, 1, 1))
    assert choices(runs, {"recall": "high"}, "f1").regret.tolist() == pytest.approx([0.1, 0.1])


def test_regret_is_that_of_a_loop_over_units():
    rng = np.random.default_rng(0)
    f1, loss = rng.random((2, 3, 6, 2, 4))
    found = choices(crossed_runs(f1, loss=loss), {"loss": "low"}, "f1")
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
    found = choices(crossed_runs(f1, noise=noise), {"noise": "high"}, "f1")
    expected = k / (k + 1) - 1 / 2
    assert found.random_regret.mean() == pytest.approx(expected, abs=4 * 0.16 / 20)
    assert found.regret.mean() == pytest.approx(expected, abs=4 * 0.33 / 20)


def test_summary_is_the_mean_with_its_crossed_interval():
    rng = np.random.default_rng(2)
    f1, loss = rng.random((2, 2, 5, 2, 6))
    f1 = f1.mean(axis=-1, keepdims=True).repeat(6, axis=-1)  # what a set is worth
    runs = crossed_runs(f1, loss=loss, recall=f1)
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
        runs = crossed_runs(f1, recall=truth + 0.5 * rng.normal(size=f1.shape), noise=rng.normal(size=f1.shape))
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
    found = choices(crossed_runs(f1, recall=recall, loss=f1), {"recall": "high", "loss": "high"}, "f1")
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
