"""Rank correlations against scipy, enumeration and simulated runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.correlation import METHODS, correlate, rank_correlation

SCIPY = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
FEW = {"n_resamples": 50, "n_permutations": 50}


def rate_tolerance(rate: float, trials: int) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / trials)


@pytest.mark.parametrize("method", METHODS)
def test_small_p_values_are_exact(method):
    x, y = [0.1, 0.4, 0.2, 0.9, 0.5, 0.5], [1.0, 3.0, 2.0, 5.0, 2.0, 6.0]
    row = correlate(x, y, method=method, n_resamples=50)
    every = np.array([SCIPY[method](x, order).statistic for order in itertools.permutations(y)])
    assert row["p"] == (np.abs(every) >= row["estimate"] - 1e-10).mean()
    if method == "kendall":
        no_ties = correlate(x[:5], [1, 3, 2, 5, 4], method=method, n_resamples=50)
        assert no_ties["p"] == pytest.approx(stats.kendalltau(x[:5], [1, 3, 2, 5, 4], method="exact").pvalue)


@pytest.mark.parametrize("method", METHODS)
def test_random_permutations_agree_with_scipy(method):
    rng = np.random.default_rng(0)
    x = rng.random(25)
    y = 0.4 * x + 0.3 * rng.random(25)
    expected = stats.permutation_test(
        (y,), lambda values: SCIPY[method](x, values).statistic, permutation_type="pairings", n_resamples=600,
        random_state=1,
    )
    row = correlate(x, y, method=method, n_permutations=3000, n_resamples=50)
    assert row["p"] == pytest.approx(expected.pvalue, abs=0.02)
    assert row["p"] >= 1 / 3001


def test_interval_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x = rng.random(40)
    y = x + rng.random(40)
    expected = stats.bootstrap(
        (x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=1500, random_state=2,
    ).confidence_interval
    row = correlate(x, y, n_permutations=50)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.04)
    wide = correlate(x, y, level=0.99, n_permutations=50)
    assert wide["low"] < row["low"] < row["estimate"] < row["high"] < wide["high"]


def test_coverage_and_error_rate_for_normal_columns():
    rng, n, trials, correlation = np.random.default_rng(3), 40, 200, 0.6
    truth = 6 / math.pi * math.asin(correlation / 2)  # Spearman's rho of a bivariate normal distribution
    covered, rejected = [], []
    for trial in range(trials):
        x, noise = rng.normal(size=(2, n))
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        row = correlate(x, y, n_resamples=200, n_permutations=1, seed=trial)
        covered.append(row["low"] <= truth <= row["high"])
        rejected.append(correlate(x, noise, n_resamples=1, n_permutations=199, seed=trial)["p"] <= 0.05)
    assert np.mean(covered) > 0.93 - rate_tolerance(0.93, trials)
    assert abs(np.mean(rejected) - 0.05) < rate_tolerance(0.05, trials)


def test_groups_remove_what_differs_between_them_only():
    x = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    y = np.array([3.0, 2.0, 1.0, 13.0, 12.0, 11.0])  # falling inside each group, higher in the second
    task = ["mdqa"] * 3 + ["summhay"] * 3
    for method in METHODS:
        assert correlate(x, y, method=method, **FEW)["estimate"] > 0
        row = correlate(x, y, method=method, groups=task, n_resamples=50)
        assert row["estimate"] == pytest.approx(-1)
        assert row["n_groups"] == 2
        assert row["p"] == 2 / 36  # both falling, both rising, of 3! x 3! orders


def test_partial_correlation_is_not_fooled_by_a_common_cause():
    rng, trials, rejected, fooled = np.random.default_rng(6), 200, [], []
    for trial in range(trials):
        base = rng.normal(size=20)
        x, y = base + rng.normal(size=(2, 20))
        fooled.append(correlate(x, y, n_resamples=1, n_permutations=199, seed=trial)["p"] <= 0.05)
        row = correlate(x, y, covariate=base, n_resamples=1, n_permutations=199, seed=trial)
        rejected.append(row["p"] <= 0.05)
    assert np.mean(fooled) > 0.3
    assert np.mean(rejected) < 0.05 + rate_tolerance(0.05, trials) + 0.02


def test_what_the_covariate_determines_has_no_partial_correlation():
    x, y = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]
    row = correlate(x, y, covariate=[10, 20, 30, 40], **FEW)
    assert math.isnan(row["estimate"])
    assert row["reason"] == "x is determined by the covariate"
    assert correlate(x, y, covariate=[7, 7, 7, 7], **FEW)["estimate"] == pytest.approx(0.6)


def test_repeated_conditions_count_once_when_exchanged_whole():
    """Five conditions under four seeds, with no relation between the conditions' recall and performance."""
    rng, trials, naive, whole = np.random.default_rng(7), 200, [], []
    condition = np.repeat(np.arange(5), 4)
    for trial in range(trials):
        x, y = (rng.normal(size=5)[condition] + 0.1 * rng.normal(size=20) for _ in range(2))
        naive.append(correlate(x, y, n_resamples=1, n_permutations=199, seed=trial)["p"] <= 0.05)
        row = correlate(x, y, clusters=condition, exchange="whole", n_resamples=1, n_permutations=120)
        whole.append(row["p"] <= 0.05)
        assert (row["p"] * 120) == pytest.approx(round(row["p"] * 120))  # all 5! exchanges are listed
    assert np.mean(naive) > 0.25
    assert np.mean(whole) < 0.05 + rate_tolerance(0.05, trials)


def test_clusters_widen_the_interval_of_dependent_rows():
    rng = np.random.default_rng(8)
    cluster = np.repeat(np.arange(8), 6)
    level = rng.normal(size=(2, 8))
    x, y = level[:, cluster] + 0.05 * rng.normal(size=(2, 48))
    rows = correlate(x, y, n_permutations=50)
    clustered = correlate(x, y, clusters=cluster, n_permutations=50)
    assert clustered["n_clusters"] == 8
    assert clustered["high"] - clustered["low"] > 1.5 * (rows["high"] - rows["low"])


def test_within_exchange_keeps_every_row_in_its_cluster():
    # two seeds of three conditions; x and y both depend on the seed, and fall together inside one of the two
    x, y, run = [1, 2, 3, 11, 12, 13], [1, 2, 3, 13, 11, 12], [0, 0, 0, 1, 1, 1]
    row = correlate(x, y, clusters=run, n_resamples=50)
    every = [
        stats.spearmanr(x, [*first, *second]).statistic
        for first in itertools.permutations(y[:3]) for second in itertools.permutations(y[3:])
    ]
    assert row["p"] == np.mean(np.abs(every) >= row["estimate"] - 1e-10)
    assert math.isnan(row["low"])
    assert row["reason"] == "no interval: too few clusters or distinct values"


def test_clusters_of_unequal_size_and_in_groups():
    rng = np.random.default_rng(9)
    x, task, run = rng.random(17), np.arange(17) % 2, np.repeat([0, 1, 2, 3], [3, 4, 5, 5])
    for method in METHODS:
        row = correlate(x, x + rng.random(17), method=method, groups=task, clusters=run, **FEW)
        assert row["low"] <= row["estimate"] <= row["high"]
        assert (row["n"], row["n_groups"], row["n_clusters"]) == (17, 2, 4)


def test_rows_with_nan_are_dropped_and_counted():
    x, y = [0.1, math.nan, 0.3, 0.5, 0.2], [1.0, 9.0, 2.0, 3.0, math.nan]
    row = correlate(x, y, groups=["a", "b", "a", "a", "c"], **FEW)
    assert (row["n"], row["n_dropped"], row["n_groups"], row["estimate"]) == (3, 2, 1, pytest.approx(1))


@pytest.mark.parametrize(("x", "y", "more", "reason"), [
    ([], [], {}, "fewer than 2 rows"),
    ([1.0, math.nan], [1.0, 2.0], {}, "fewer than 2 rows"),
    ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], {}, "x is constant"),
    ([1.0, 2.0, 3.0], [1.0, 1.0, 2.0], {"groups": [0, 0, 1]}, "y is constant in every group"),
])
def test_undefined_correlations_say_why(x, y, more, reason):
    for method in METHODS:
        row = correlate(x, y, method=method, **more, **FEW)
        assert row["reason"] == reason
        assert all(math.isnan(row[name]) for name in ("estimate", "low", "high", "p"))


def test_nothing_to_exchange_gives_no_p_value():
    row = correlate([1, 2, 3, 4], [1, 3, 2, 4], clusters=[0, 1, 2, 3], **FEW)
    assert math.isnan(row["p"])
    assert row["estimate"] == pytest.approx(0.8)
    assert row["reason"] == "no p-value: nothing to exchange"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"y": [1, 2]}, r"x, y: columns of different lengths \(got \[3, 2\]\)"),
    ({"x": ["a", "b", "c"]}, r"x: not a list of numbers \(got \['a', 'b', 'c'\]\)"),
    ({"x": [[1, 2, 3]]}, "x: not a list of numbers"),
    ({"covariate": [1]}, "x, y, covariate: columns of different lengths"),
    ({"groups": [0, 1]}, r"groups: not one label for each of the 3 rows"),
    ({"clusters": [0, None, 1]}, "clusters: not one label for each of the 3 rows"),
    ({"clusters": [0, 0, 1], "exchange": "whole"}, r"cannot be exchanged \(got \[1, 2\]\)"),
    ({"method": "pearson"}, r"unknown method \(got 'pearson'\)\. Use one of spearman, kendall"),
    ({"exchange": "all"}, r"unknown exchange \(got 'all'\)"),
    ({"method": "kendall", "covariate": [1, 2, 3]}, "no partial correlation of this kind"),
    ({"n_permutations": 0}, r"got 0"),
    ({"level": 95}, r"between 0 and 1 \(got 95\)"),
])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        correlate(**({"x": [1, 2, 3], "y": [2, 3, 1]} | arguments))


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


def split(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


@settings(deadline=None)
@given(PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_estimate_is_that_of_scipy_with_ties(method, pairs):
    x, y = split(pairs)
    row = correlate(x, y, method=method, **FEW)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(row["estimate"])
        assert row["reason"] == ("x" if len(set(x)) == 1 else "y") + " is constant"
    else:
        assert row["estimate"] == pytest.approx(SCIPY[method](x, y).statistic)


def test_grouped_spearman_is_the_correlation_of_pooled_group_ranks():
    rng = np.random.default_rng(4)
    x, y, task = rng.integers(0, 5, 21), rng.integers(0, 5, 21), np.repeat([0, 1, 2], [5, 7, 9])
    pooled = [
        np.concatenate([(stats.rankdata(part) - (len(part) + 1) / 2) / len(part) for part in np.split(values, [5, 12])])
        for values in (x, y)
    ]
    assert correlate(x, y, groups=task, **FEW)["estimate"] == pytest.approx(stats.pearsonr(*pooled).statistic)


def test_grouped_kendall_counts_the_pairs_inside_groups():
    x, y, task = [1, 2, 2, 4, 1, 3, 2], [2, 1, 3, 3, 5, 1, 4], "aaaabbb"
    pairs = [(i, j) for i, j in itertools.combinations(range(7), 2) if task[i] == task[j]]
    signs = np.array([[np.sign(v[i] - v[j]) for i, j in pairs] for v in (x, y)])
    expected = (signs[0] * signs[1]).sum() / math.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum())
    assert correlate(x, y, method="kendall", groups=list(task), **FEW)["estimate"] == pytest.approx(expected)


def test_partial_correlation_follows_the_textbook_formula():
    rng = np.random.default_rng(5)
    x, y, z = rng.random((3, 30))
    y, x = y + z, x + z
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert correlate(x, y, covariate=z, **FEW)["estimate"] == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.randoms())
@pytest.mark.parametrize("method", METHODS)
def test_bounds_symmetry_and_invariance(method, pairs, random):
    x, y = split(pairs)
    row = correlate(x, y, method=method, **FEW)
    assert row == pytest.approx(correlate(x, y, method=method, **FEW), nan_ok=True)
    if row["reason"] and math.isnan(row["estimate"]):
        return
    assert -1 - 1e-9 <= row["estimate"] <= 1 + 1e-9
    assert 0 < row["p"] <= 1
    swapped = correlate(y, [math.exp(value) for value in x], method=method, **FEW)
    mirrored = correlate([-value for value in x], y, method=method, **FEW)
    assert swapped["estimate"] == pytest.approx(row["estimate"])
    assert mirrored["estimate"] == pytest.approx(-row["estimate"])
    random.shuffle(pairs)
    assert correlate(*split(pairs), method=method, **FEW)["estimate"] == pytest.approx(row["estimate"])


def test_many_resamples_at_once_are_the_same_as_one_by_one():
    rng = np.random.default_rng(10)
    columns, codes = rng.integers(1, 5, (3, 6, 12)), rng.integers(0, 3, (6, 12))
    for method, used in (("kendall", columns[:2]), ("spearman", columns[:2]), ("spearman", columns)):
        together = rank_correlation(method, used, codes)
        alone = [rank_correlation(method, used[:, index], codes[index]) for index in range(6)]
        assert together == pytest.approx(np.array(alone), nan_ok=True)
