"""Effects of two ordered factors: closed forms, least squares as another path, coverage on simulated runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.claims.axes import contrasts, factorial_effects
from retrieval_heads.stats.resample import bootstrap_crossed, crossed_means

COST = np.array([[0.00, 0.10, 0.15], [0.05, 0.20, 0.30], [0.30, 0.45, 0.70]])  # concept by context, high to low


def effects(costs: np.ndarray, **settings: object) -> dict[str, float]:
    found = factorial_effects(costs, **({"n_resamples": 20} | settings))
    return {name: interval.estimate for name, interval in found.items()}


def simulated(rng: np.random.Generator, cells: np.ndarray, bases: int = 4, seeds: int = 8, n: int = 60) -> np.ndarray:
    """Costs `[3, 3, bases, seeds, n]`: what a run and an example add to each cell, and what they add to all."""
    noise = (0.1 * rng.normal(size=(3, 3, bases, seeds, 1)) + 0.3 * rng.normal(size=(3, 3, 1, 1, n))
             + 0.3 * rng.normal(size=(1, 1, bases, seeds, n)))
    return cells[:, :, None, None, None] + noise


def test_worked_example():
    row = effects(COST)
    assert row["mean"] == pytest.approx(COST.mean())
    assert row["concept"] == pytest.approx((0.30 + 0.35 + 0.55) / 3)
    assert row["context"] == pytest.approx((0.15 + 0.25 + 0.40) / 3)
    assert row["difference"] == pytest.approx(0.4 - 0.8 / 3)
    assert row["interaction"] == pytest.approx(0.70 - 0.30 - 0.15 + 0.00)
    assert row["concept_curvature"] == pytest.approx(COST[1].mean() - (COST[0] + COST[2]).mean() / 2)
    assert row["context_curvature"] == pytest.approx(COST[:, 1].mean() - (COST[:, 0] + COST[:, 2]).mean() / 2)


def test_equally_spaced_lines_weigh_only_the_ends():
    row = effects(COST)
    for name in ("concept", "context"):
        assert row[f"{name}_linear"] == pytest.approx(row[name])
    assert row["linear_by_linear"] == pytest.approx(row["interaction"])


def test_lines_are_those_of_least_squares():
    costs = np.random.default_rng(7).random((4, 5))
    by_row, by_column = (values.ravel() for values in np.meshgrid(np.arange(4) - 1.5, np.arange(5) - 2, indexing="ij"))
    design = np.stack([np.ones(20), by_row, by_column, by_row * by_column], axis=1)
    slopes = np.linalg.lstsq(design, costs.ravel(), rcond=None)[0]
    row = effects(costs)
    assert row["concept_linear"] == pytest.approx(slopes[1] * 3)
    assert row["context_linear"] == pytest.approx(slopes[2] * 4)
    assert row["linear_by_linear"] == pytest.approx(slopes[3] * 3 * 4)


def test_additive_costs_have_no_interaction_and_a_line_no_curvature():
    row = effects(np.array([0.0, 0.15, 0.3])[:, None] + np.array([0.0, 0.1, 0.2]))
    for name in ("interaction", "linear_by_linear", "concept_curvature", "context_curvature"):
        assert row[name] == pytest.approx(0, abs=1e-12), name
    assert row["difference"] == pytest.approx(0.3 - 0.2)
    assert all(abs(weight.sum()) < 1e-12 for weight in contrasts((3, 4)).values())


def test_real_run_cancels_in_all_but_the_mean():
    rng = np.random.default_rng(0)
    performance = rng.random((3, 3, 2, 3, 10))
    one, two = (
        pd.DataFrame(factorial_effects(real - performance, n_resamples=50)).T
        for real in (rng.random((2, 3, 10)), np.zeros((2, 3, 10)))
    )
    np.testing.assert_allclose(one.drop("mean"), two.drop("mean"), atol=1e-12)
    assert abs(one.loc["mean"] - two.loc["mean"]).min() > 0.1


def test_interval_is_that_of_the_contrast_of_each_run_and_example():
    costs = simulated(np.random.default_rng(1), COST)
    found = factorial_effects(costs, n_resamples=300, seed=5)
    for name, weight in contrasts((3, 3)).items():
        each = np.einsum("ij,ij...->...", weight, costs)
        expected = bootstrap_crossed(each, n_resamples=300, seed=5)
        assert found[name] == pytest.approx(expected), name


def test_coverage_and_what_ignoring_the_runs_does():
    """Examples alone leave out the chance of the runs."""
    rng, trials, covered, naive = np.random.default_rng(2), 100, [], []
    truth = {name: (weight * COST).sum() for name, weight in contrasts((3, 3)).items()}
    for trial in range(trials):
        costs = simulated(rng, COST, seeds=5)
        for found, table in ((covered, costs), (naive, costs.mean(axis=(2, 3)))):
            ends = factorial_effects(table, n_resamples=200, seed=trial)
            found.append([ends[name].low <= truth[name] <= ends[name].high for name in ("difference", "interaction")])
    assert np.mean(covered) > 0.87
    assert np.mean(naive) < np.mean(covered) - 0.02


def test_floor_makes_an_interaction_that_log_odds_do_not_have():
    logits = np.array([0.0, 1.0, 3.0])
    error = 1 / (1 + np.exp(2 - logits[:, None] - logits))
    table = np.repeat(error[..., None], 100_000, axis=-1)
    assert effects(table, n_resamples=1)["interaction"] < -0.3
    row = effects(table, scale="log_odds", n_resamples=1)
    assert row["interaction"] == pytest.approx(0, abs=0.001)
    assert row["concept"] == pytest.approx(3, abs=0.001)
    assert "mean" not in row


def test_log_odds_of_certain_cells_are_finite_and_have_intervals():
    rng = np.random.default_rng(3)
    wrong = (rng.random((3, 3, 5, 40)) < COST[..., None, None]).astype(float)
    assert wrong[0, 0].sum() == 0
    found = factorial_effects(wrong, scale="log_odds", n_resamples=100)
    assert np.isfinite(list(found.values())).all()
    assert all(one.low <= one.high for one in found.values())
    errors = wrong.reshape(3, 3, -1).sum(axis=-1)
    odds = np.log((errors + 0.5) / (200 - errors + 0.5))
    expected = odds[2, 2] - odds[2, 0] - odds[0, 2] + odds[0, 0]
    assert found["interaction"].estimate == pytest.approx(expected)


def test_cells_alone_have_no_interval():
    assert np.isnan([one.low for one in factorial_effects(COST).values()]).all()
    assert list(factorial_effects(COST[:2, :2, None])) == [
        "mean", "concept", "concept_linear", "context", "context_linear", "difference", "interaction",
        "linear_by_linear"]


def test_crossed_means_of_one_cell_are_those_of_the_mean():
    values = np.random.default_rng(4).random((4, 3, 7))
    kept = crossed_means(values, kept=(1,), n_resamples=400, seed=1)
    assert kept.shape == (400, 3)
    for index in range(3):
        expected = bootstrap_crossed(values[:, index], n_resamples=400, seed=1)
        assert np.quantile(kept[:, index], [0.025, 0.975]) == pytest.approx(expected[1:])
