"""Measures of agreement for few heads: known answers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import (
    gained,
    overlap,
    rank_biased_overlap,
    recall_precision,
    shared_strength,
    shared_strength_chance,
    strength,
)

REAL = np.array([[0.4, 0.0], [0.2, 0.2]])
OTHER = np.array([[0.3, 0.1], [0.4, 0.0]])


def test_strengths_have_known_recall_and_precision() -> None:
    # min: .3 + 0 + .2 + 0 = .5, of .8 each
    assert shared_strength(REAL, OTHER) == pytest.approx({"recall": 0.625, "precision": 0.625})
    assert shared_strength(REAL, REAL / 2) == pytest.approx({"recall": 0.5, "precision": 1.0})
    assert shared_strength(REAL / 2, REAL) == pytest.approx({"recall": 1.0, "precision": 0.5})


def test_of_zeros_and_ones_they_are_recall_and_precision_of_sets() -> None:
    rng = np.random.default_rng(1)
    real, other = (rng.random((2, 4, 6)) > 0.6).astype(float)
    row = overlap(real, other, 0.5)
    assert shared_strength(real, other) == pytest.approx({name: row[name] for name in ("recall", "precision")})


def test_what_is_not_defined_is_nan() -> None:
    zeros = np.zeros((2, 2))
    found = shared_strength(zeros, OTHER)
    assert np.isnan(found["recall"])
    assert found["precision"] == 0
    assert np.isnan(shared_strength(REAL, zeros)["precision"])
    assert np.isnan(strength([0.5], [np.nan])).all()


def test_chance_level_and_base_are_taken_away_and_nothing_is_below_0() -> None:
    np.testing.assert_allclose(strength([[0.5, 0.01]], [[0.1, 0.02]]), [[0.4, 0.0]])
    np.testing.assert_allclose(gained([[0.5, 0.3]], [[0.2, 0.4]]), [[0.3, 0.0]])


def test_many_pairs_at_once_are_the_single_ones() -> None:
    rng = np.random.default_rng(2)
    real, other = rng.random((2, 3, 5, 7))
    recall, precision = recall_precision(real, other)
    assert recall.shape == (3, 5)
    single = shared_strength(real[1, 2].reshape(1, 7), other[1, 2].reshape(1, 7))
    assert single == pytest.approx({"recall": recall[1, 2], "precision": precision[1, 2]})


def test_chance_keeps_the_layers() -> None:
    # one head in each of two layers of two: permuted within layers, 0, 1 or 2 are common with 1/4, 1/2, 1/4
    found = shared_strength_chance(np.eye(2), np.eye(2), n_permutations=4000)
    assert found["recall"] == pytest.approx(0.5, abs=0.03)
    assert (found["recall_low"], found["recall_high"]) == (0.0, 1.0)
    # a layer whose heads are equal stays as it is
    same = np.array([[0.3, 0.3], [0.0, 0.0]])
    assert shared_strength_chance(same, same)["precision"] == pytest.approx(1.0)


def by_hand(one: list[int], two: list[int], p: float) -> float:
    """Extrapolated rank-biased overlap of two rankings of the same items without ties, from the definition."""
    n = len(one)
    agreement = [len(set(one[:d]) & set(two[:d])) / d for d in range(1, n + 1)]
    return (1 - p) / p * sum(a * p**d for d, a in enumerate(agreement, 1)) + agreement[-1] * p**n


def test_rank_biased_overlap_without_ties_is_that_of_the_definition() -> None:
    values = np.array([[0.9, 0.7, 0.5, 0.3]])
    for order in permutations(range(4)):
        other = np.empty((1, 4))
        other[0, list(order)] = values[0]
        for p in (0.5, 0.9):
            assert rank_biased_overlap(values, other, p) == pytest.approx(by_hand([0, 1, 2, 3], list(order), p))


def test_rank_biased_overlap_counts_ties_by_the_cosine_of_memberships() -> None:
    real, other = np.array([[0.9, 0.0, 0.0]]), np.array([[0.0, 0.9, 0.0]])
    # depth 1: no head in common; depth 2: (1, .5, .5) and (.5, 1, .5) have the cosine 1.25 / 1.5; depth 3: 1
    p = 0.8
    assert rank_biased_overlap(real, other, p) == pytest.approx((1 - p) * (p * 1.25 / 1.5 + p**2) + p**3)
    assert rank_biased_overlap(real, real) == pytest.approx(1.0)
    assert rank_biased_overlap(real, 2 * real) == pytest.approx(1.0)
    assert np.isnan(rank_biased_overlap(real, np.zeros((1, 3))))


def test_bad_input_is_said() -> None:
    with pytest.raises(ConfigError, match="below 0"):
        shared_strength(REAL, -OTHER)
    with pytest.raises(ConfigError, match="different models"):
        shared_strength(REAL, OTHER[:1])
    with pytest.raises(ConfigError, match="persistence"):
        rank_biased_overlap(REAL, OTHER, 1.0)
    with pytest.raises(ConfigError, match="no permutations"):
        shared_strength_chance(REAL, OTHER, n_permutations=0)
