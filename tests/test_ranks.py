"""Estimates of rank correlation, plain, in groups and partial, against scipy and the textbook."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrieval_heads.stats.correlation import METHODS, correlate, rank_correlation

SCIPY = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
FEW = {"n_resamples": 50, "n_permutations": 50}
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
