"""Retest ceiling of head overlap: closed forms, all splits of a small case, and simulated probe sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import overlap
from retrieval_heads.stats.retest import half_overlap, normalised_overlap, pair_ceiling, strict_subsets


def probes(rng: np.random.Generator, strength: np.ndarray, n: int) -> np.ndarray:
    """Scores of `n` examples, each 1 with the probability `strength` `[n_layers, n_heads]`."""
    return (rng.random((n, *strength.shape)) < strength).astype(float)


def test_mean_over_splits_approaches_that_of_all_splits():
    rng = np.random.default_rng(0)
    one, two = rng.random((2, 6, 2, 4)) * rng.random((2, 1, 2, 4))
    every = []
    for half in itertools.combinations(range(6), 3):
        other = [index for index in range(6) if index not in half]
        every.append(overlap(one[list(half)].mean(0), two[other].mean(0), 0.3, n_permutations=1))
    row = half_overlap(one, two, 0.3, n_splits=400)
    assert (row["n_half"], row["n_splits"], row["undefined"], row["reason"]) == (3, 400, 0, "")
    for name in ("recall", "precision", "cosine"):
        for column, other in ((name, name), (f"{name}_chance", f"{name}_layer_chance")):
            assert row[column] == pytest.approx(np.mean([one[other] for one in every]), abs=0.01), column


def test_retest_of_heads_at_the_threshold_is_binomial():
    """The heads are alike, each in a half's set with probability q, independently: the retest is q, as is chance."""
    rng, n, threshold = np.random.default_rng(1), 20, 0.45
    q = stats.binom(n // 2, 0.5).sf(int(threshold * n / 2))
    rows = [half_overlap(*[probes(rng, np.full((4, 50), 0.5), n)] * 2, threshold, n_splits=4) for _ in range(40)]
    found = np.mean([row["recall"] for row in rows])
    assert abs(found - q) < 4 * math.sqrt(q * (1 - q) / (40 * 200)) + 0.01
    assert np.mean([row["recall_chance"] for row in rows]) == pytest.approx(q, abs=0.03)


def test_runs_of_the_same_heads_reach_their_ceiling_and_no_more():
    """Two detections of one truth on other examples' noise; full-set overlap would pass the ceiling of halves."""
    rng, normalised, naive = np.random.default_rng(2), [], []
    strength = np.where(rng.random((6, 8)) < 0.3, 0.25, 0.02)
    for trial in range(60):
        one, two = probes(rng, strength, 20), probes(rng, strength, 20)
        pairs = (one, two), (one, one), (two, two)
        found, r, s = (half_overlap(*pair, 0.1, n_splits=10, seed=trial) for pair in pairs)
        ceiling = pair_ceiling(r["recall"], s["recall"])
        normalised.append(normalised_overlap(found["recall"], found["recall_chance"], ceiling)["normalised"])
        full = overlap(one.mean(0), two.mean(0), 0.1, n_permutations=1)["recall"]
        naive.append(normalised_overlap(full, found["recall_chance"], ceiling)["normalised"])
    assert abs(np.mean(normalised) - 1) < 4 * np.std(normalised) / math.sqrt(60) + 0.03
    assert np.mean(naive) > np.mean(normalised) + 0.1


def test_retest_without_noise_is_one_and_odd_sets_leave_one_out():
    scores = np.zeros((7, 2, 3))
    scores[:, 0, 1] = 0.5
    row = half_overlap(scores, scores, n_splits=3)
    assert (row["recall"], row["precision"], row["n_half"]) == (1, 1, 3)
    assert row["cosine"] == pytest.approx(1)
    assert row["recall_chance"] == row["cosine_chance"] == pytest.approx(1 / 3)
    assert half_overlap(scores, scores, n_splits=3) == row


def test_runs_without_heads_have_no_retest():
    scores, nothing = np.full((4, 2, 2), 0.5), np.full((4, 2, 2), 0.05)
    row = half_overlap(nothing, scores, n_splits=2)
    assert math.isnan(row["recall"])
    assert row["precision"] == 0
    assert (row["undefined"], row["reason"]) == (1, "recall: the first run has no head in any half")
    row = half_overlap(scores, nothing * 0, n_splits=2)
    assert row["recall"] == 0
    assert row["reason"] == "precision: the second run has no head in any half; cosine: scores are all 0 in any half"


@pytest.mark.parametrize(("values", "expected", "reason"), [
    ((0.5, 0.2, 0.8), 0.5, ""),
    ((0.2, 0.2, 0.8), 0.0, ""),
    ((0.1, 0.2, 0.7), -0.2, ""),
    ((0.9, 0.2, 0.8), 7 / 6, ""),
    ((0.5, 0.5, 0.5), math.nan, "the ceiling is not above chance"),
    ((math.nan, 0.5, 0.6), math.nan, "observed is not defined"),
    ((0.5, 0.5, math.nan), math.nan, "ceiling is not defined"),
])
def test_normalised_overlap(values, expected, reason):
    row = normalised_overlap(*values)
    assert row["normalised"] == pytest.approx(expected, nan_ok=True)
    assert row["reason"] == reason


def test_ceiling_of_a_pair():
    assert pair_ceiling(0.9, 0.4) == pytest.approx(0.6)
    assert math.isnan(pair_ceiling(0.9, math.nan))
    with pytest.raises(ConfigError, match=r"second: a negative retest \(got -0\.1\)"):
        pair_ceiling(0.9, -0.1)


def test_strict_subsets_of_worked_examples():
    real = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    strict = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])  # by chance within layers: 2/3 x 1/3
    neither = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # 1/3
    row = strict_subsets([(real, strict), (real, real), (real, neither), (real, 0 * real)])
    assert {name: row[name] for name in row if name.startswith("n_")} == {
        "n_pairs": 4, "n_empty": 1, "n_strict": 1, "n_equal": 1, "n_neither": 1}
    assert (row["strict"], row["equal"]) == (1 / 3, 1 / 3)
    assert row["strict_chance"] == pytest.approx((2 / 9 + 0 + 1 / 3) / 3)
    none = strict_subsets([(real, 0 * real)])
    assert math.isnan(none["strict"])
    assert none["reason"] == "no pair with a synthetic head"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"first": np.zeros((1, 2, 2))}, r"first: not finite scores of at least two examples.*\(1, 2, 2\)"),
    ({"first": np.full((4, 2, 2), np.nan)}, "first: not finite scores"),
    ({"second": np.zeros((4, 2))}, "second: not finite scores"),
    ({"second": np.zeros((5, 2, 2))}, "half_overlap: scores of different examples"),
    ({"n_splits": 0}, "n_splits: no splits"),
])
def test_bad_input_is_named(arguments, message):
    scores = np.zeros((4, 2, 2))
    with pytest.raises(ConfigError, match=message):
        half_overlap(**({"first": scores, "second": scores} | arguments))
