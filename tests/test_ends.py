"""Ends of intervals from many samples: as other bootstraps give them, with the error that other seeds show."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_heads.stats.resample import bootstrap_crossed, crossed_ends, ends


def values(k: int = 2, bases: int = 2, seeds: int = 4, n: int = 50) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(0.1, 1, (k, bases, seeds, n)) + rng.normal(0, 0.5, (k, bases, 1, 1))


def test_each_of_several_tables_has_the_interval_that_it_has_alone() -> None:
    tables = values()
    found = crossed_ends(tables, n_resamples=40_000)
    for i, table in enumerate(tables):
        for name, expected in (
            ("drawn", bootstrap_crossed(table, n_resamples=40_000, seed=1)),
            ("fixed", bootstrap_crossed(table, fixed=(0,), n_resamples=40_000, seed=1)),
            ("1", bootstrap_crossed(table[1], n_resamples=40_000, seed=1)),
        ):
            assert found[name][i].estimate == pytest.approx(expected.estimate)
            assert tuple(found[name][i].interval) == pytest.approx(tuple(expected), abs=0.03)
    assert crossed_ends(tables[:1], n_resamples=500)["drawn"] == crossed_ends(tables, n_resamples=500)["drawn"][:1]


def test_the_monte_carlo_error_is_that_which_other_seeds_show() -> None:
    found = [crossed_ends(values(k=1), n_resamples=4000, seed=seed)["drawn"][0] for seed in range(60)]
    lows = np.array([one.low for one in found])
    spread = 1.96 * lows.std(ddof=1)
    assert np.mean([one.low_error for one in found]) == pytest.approx(spread, rel=0.4)
    large = crossed_ends(values(k=1), n_resamples=100_000)["drawn"][0]
    assert large.low_error < np.mean([one.low_error for one in found]) / 3


def test_axes_of_one_level_are_not_drawn() -> None:
    one = crossed_ends(values(bases=1, seeds=1), n_resamples=2000)
    assert one["drawn"] == one["fixed"]
    assert np.isfinite(one["drawn"][0].low)
    nothing = crossed_ends(values(bases=1, seeds=1, n=1), n_resamples=100)["drawn"][0]
    assert np.isnan(nothing[1:]).all()
    two = crossed_ends(values(seeds=1, n=1), n_resamples=2000)
    assert np.isfinite(two["drawn"][0].low)
    assert np.isnan(two["fixed"][0].low)


def test_the_error_of_a_quantile_follows_from_order_statistics() -> None:
    found = ends(0.5, np.arange(1001) / 1000)
    reach = 1.96 * np.sqrt(0.025 * 0.975 / 1001)
    assert (found.low, found.low_error) == pytest.approx((0.025, reach), abs=1e-9)
    assert (found.high, found.high_error) == pytest.approx((0.975, reach), abs=1e-9)
