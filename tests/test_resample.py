"""Bootstrap intervals and the exactness of their ends: known answers, coverage, and what each level of chance adds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.resample import (
    Interval,
    bootstrap_crossed,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_two_level,
    crossed_ends,
    ends,
    percentile_interval,
)

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def within(covered: float, expected: float, trials: int) -> bool:
    """Whether a share of `trials` is within four binomial standard errors of the expected probability."""
    return abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def contains(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_interval_of_three_values_is_that_of_all_27_samples():
    values = [0.0, 0.3, 1.0]
    means = sorted(np.mean(draw) for draw in itertools.product(values, repeat=3))
    interval = bootstrap_mean(values, level=0.6, n_resamples=20_000)
    expected = np.quantile(means, [0.2, 0.8])
    assert interval.estimate == pytest.approx(1.3 / 3)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-9)


def test_zeros_and_ones_give_the_binomial_quantiles():
    interval = bootstrap_mean([1.0] * 30 + [0.0] * 70, n_resamples=20_000)
    low, high = stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    assert interval == pytest.approx((0.3, low, high), abs=0.011)


def test_coverage_of_the_mean():
    # expected coverage of a percentile interval for normal values: see the module's docstring
    rng, n, trials = np.random.default_rng(0), 20, 1200
    covered = np.mean([
        contains(bootstrap_mean(rng.normal(2.0, 1.0, n), n_resamples=400, seed=trial), 2.0) for trial in range(trials)
    ])
    assert within(covered, 1 - 2 * stats.t(n - 1).sf(1.96 * math.sqrt((n - 1) / n)), trials)


def test_difference_is_the_mean_of_differences_and_gains_from_pairing():
    rng = np.random.default_rng(1)
    difficulty = rng.random(60)
    first, second = difficulty + 0.1 + 0.05 * rng.random(60), difficulty
    interval = bootstrap_difference(first, second)
    assert interval == bootstrap_mean(first - second)
    assert interval.low > 0
    assert interval.high - interval.low < 0.2 * (bootstrap_mean(first)[2] - bootstrap_mean(first)[1])


@pytest.mark.parametrize("same_examples", [True, False])
def test_coverage_of_two_levels(same_examples):
    """Seeds and examples both vary; ignoring the seeds would cover far too seldom."""
    rng, seeds, n, trials = np.random.default_rng(2), 12, 10, 400
    both, ignored = [], []
    for trial in range(trials):
        example = rng.normal(0, 0.5, (1, n)) if same_examples else 0.0
        rows = rng.normal(0, 1, (seeds, 1)) + example + rng.normal(0, 0.5, (seeds, n))
        both.append(contains(
            bootstrap_two_level(list(rows), same_examples=same_examples, n_resamples=200, seed=trial), 0.0
        ))
        ignored.append(contains(bootstrap_mean(rows.ravel(), n_resamples=200, seed=trial), 0.0))
    expected = 1 - 2 * stats.t(seeds - 1).sf(1.96 * math.sqrt((seeds - 1) / seeds))
    # the second level is resampled too, which makes the interval a little wider than that of the seeds' means
    assert expected - 0.04 < np.mean(both) < 0.99
    assert np.mean(ignored) < np.mean(both) - 0.2


def test_rows_that_are_equal_leave_the_chance_of_examples_only():
    row = np.random.default_rng(3).random(40)
    crossed = bootstrap_two_level([row, row, row, row], n_resamples=20_000)
    assert crossed == pytest.approx(bootstrap_mean(row, n_resamples=20_000), abs=0.01)


def test_constant_rows_leave_the_chance_of_seeds_only():
    rows = [[value] * 5 for value in (0.1, 0.4, 0.9)]
    plain = bootstrap_mean([0.1, 0.4, 0.9], level=0.6, n_resamples=5000)
    for same_examples in (True, False):
        interval = bootstrap_two_level(rows, same_examples=same_examples, level=0.6, n_resamples=5000)
        assert interval == pytest.approx(plain, abs=1e-9)


def test_two_levels_take_rows_of_unequal_length_when_examples_differ():
    interval = bootstrap_two_level([[0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], same_examples=False)
    assert interval.estimate == 0.75  # seeds count alike, however many examples they have
    assert interval.low < 0.75 < interval.high


def test_too_few_values_have_no_interval():
    for interval in (bootstrap_mean([0.5]), bootstrap_two_level([[0.25, 0.75]]), bootstrap_difference([1.0], [0.5])):
        assert interval.estimate == 0.5
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_percentile_interval_takes_the_quantiles():
    assert percentile_interval(0.5, np.arange(101) / 100, level=0.9) == pytest.approx((0.5, 0.05, 0.95))


@settings(deadline=None)
@given(SCORES, st.floats(0.1, 5), st.floats(-3, 3))
def test_bounds_seed_and_change_of_unit(values, scale, shift):
    interval = bootstrap_mean(values, n_resamples=50, seed=1)
    assert interval == bootstrap_mean(values, n_resamples=50, seed=1)
    assert min(values) - 1e-9 <= interval.low <= interval.high + 1e-9 <= max(values) + 2e-9
    moved = bootstrap_mean([scale * value + shift for value in values], n_resamples=50, seed=1)
    assert moved == pytest.approx([scale * end + shift for end in interval], abs=1e-9)


@settings(deadline=None)
@given(SCORES)
def test_difference_with_itself_is_nothing(values):
    assert bootstrap_difference(values, values, n_resamples=20) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: bootstrap_mean([]), "values: not a non-empty list of finite numbers"),
    (lambda: bootstrap_mean([0.1, float("nan")]), r"finite numbers \(got \[0.1, nan\]\)"),
    (lambda: bootstrap_mean([[0.1], [0.2]]), "finite numbers"),
    (lambda: bootstrap_mean(["high"]), r"finite numbers \(got \['high'\]\)"),
    (lambda: bootstrap_mean([0.1, 0.2], level=95), r"between 0 and 1 \(got 95\)"),
    (lambda: bootstrap_mean([0.1, 0.2], n_resamples=0), r"n_resamples: no bootstrap samples \(got 0\)"),
    (lambda: bootstrap_difference([0.1], [0.1, 0.2]), r"same examples \(got \(1, 2\)\)"),
    (lambda: bootstrap_two_level([[0.1], [0.1, 0.2]]), r"equally long \(got \[1, 2\]\)"),
    (lambda: bootstrap_two_level([]), "rows of scores must exist"),
    (lambda: bootstrap_two_level([[0.1], []], same_examples=False), "row 1: not a non-empty list"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_crossed_interval_is_that_of_samples_drawn_one_by_one():
    rng = np.random.default_rng(20)
    values = rng.normal(size=(3, 1, 1)) + rng.normal(size=(1, 5, 1)) + rng.normal(size=(1, 1, 9))
    values = values + rng.random((3, 5, 9))
    for fixed in ((), (0,), (1, 2)):
        means = []
        for _ in range(3000):
            index = [np.arange(n) if axis in fixed else rng.integers(n, size=n) for axis, n in enumerate((3, 5, 9))]
            means.append(values[np.ix_(*index)].mean())
        row = bootstrap_crossed(values, fixed=fixed, n_resamples=3000)
        width = row.high - row.low
        assert row.estimate == pytest.approx(values.mean())
        assert (row.low, row.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.08 * width)
    turned = bootstrap_crossed(values.transpose(2, 0, 1), n_resamples=3000)
    assert turned == pytest.approx(bootstrap_crossed(values, n_resamples=3000), abs=0.2)


def test_crossed_interval_of_one_or_two_axes_is_that_of_the_others():
    rng = np.random.default_rng(21)
    rows = rng.random((6, 40)) + rng.random((6, 1))
    width = np.ptp(bootstrap_two_level(rows)[1:])
    assert bootstrap_crossed(rows) == pytest.approx(bootstrap_two_level(rows), abs=0.08 * width)
    assert bootstrap_crossed(rows[:, None]) == bootstrap_crossed(rows)  # an axis of one level is not drawn
    mean = bootstrap_mean(rows[0])
    assert bootstrap_crossed(rows[0]) == pytest.approx(mean, abs=0.08 * (mean.high - mean.low))
    nothing = bootstrap_crossed(rows[:1], fixed=(1,))
    assert nothing.estimate == pytest.approx(rows[0].mean())
    assert math.isnan(nothing.low)


def test_crossed_coverage_needs_more_than_two_levels():
    """Base models x seeds x examples with chance of each, and with base models that do not differ."""
    trials, covered = 150, {0.0: [], 0.3: []}
    for spread, found in covered.items():
        rng = np.random.default_rng(22)
        for trial in range(trials):
            runs = spread * rng.normal(size=(2, 1, 1)) + 0.3 * rng.normal(size=(2, 5, 1))
            values = runs + rng.normal(size=(1, 1, 60)) + rng.normal(size=(2, 5, 60))
            found.append(contains(bootstrap_crossed(values, n_resamples=300, seed=trial), 0.0))
    assert np.mean(covered[0.0]) > 0.91
    assert 0.75 < np.mean(covered[0.3]) < np.mean(covered[0.0])


@pytest.mark.parametrize(("values", "more", "message"), [
    ([[1.0, math.nan]], {}, "values: not a non-empty list of finite numbers"),
    ([[1.0], [1.0, 2.0]], {}, "values: not a non-empty list of finite numbers"),
    (1.0, {}, "values: not a non-empty list"),
    ([[1.0, 2.0]], {"fixed": (2,)}, r"fixed: no such axis \(got \(2,\)\)\. Use 0 to 1"),
    ([[1.0, 2.0]], {"level": 1}, "level"),
])
def test_bad_crossed_tables_are_named(values, more, message):
    with pytest.raises(ConfigError, match=message):
        bootstrap_crossed(values, **more)


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
            assert tuple(found[name][i][:3]) == pytest.approx(tuple(expected), abs=0.03)
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
