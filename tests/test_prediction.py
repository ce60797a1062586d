"""Leave-one-condition-out prediction: closed forms, a slow path with numpy, and simulated predictors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.stats.prediction import fit_linear, left_out_errors, summarise_errors


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
