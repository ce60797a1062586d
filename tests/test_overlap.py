"""Overlap of head sets and of strengths against worked examples, full enumeration and scipy."""

from __future__ import annotations

import itertools
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine as cosine_distance
from scipy.stats import hypergeom

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import (
    COLUMNS,
    THRESHOLDS,
    common_distribution,
    cosine,
    overlap,
    overlap_curve,
    recall_precision,
)
from retrieval_heads.stats.strength import (
    gained,
    rank_biased_overlap,
    shared_strength,
    shared_strength_chance,
    strength,
)

REAL = np.array([[0.9, 0.5, 0.0, 0.05], [0.3, 0.0, 0.2, 0.1]])  # heads above 0.1: 00 01 10 12
SYNTHETIC = np.array([[0.8, 0.0, 0.4, 0.0], [0.0, 0.0, 0.6, 0.0]])  # 00 02 12
MATRICES = arrays(np.float64, (3, 4), elements=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
FEW = {"n_permutations": 20}


def masks(n_heads: int, n_chosen: int) -> list[np.ndarray]:
    """Every set of `n_chosen` heads as a bool vector."""
    return [
        np.isin(np.arange(n_heads), chosen) for chosen in itertools.combinations(range(n_heads), n_chosen)
    ]


def layered_masks(counts: list[int], width: int) -> list[np.ndarray]:
    """Every set with the given number of heads in each layer, as bool `[layers, width]`."""
    return [np.stack(rows) for rows in itertools.product(*(masks(width, count) for count in counts))]


def test_worked_example():
    row = overlap(REAL, SYNTHETIC)
    assert (row["n_heads"], row["n_real"], row["n_synthetic"], row["n_common"]) == (8, 4, 3, 2)
    assert (row["recall"], row["precision"], row["jaccard"]) == (2 / 4, 2 / 3, 2 / 5)
    assert row["subset"] == 0.0
    assert row["cosine"] == pytest.approx(1 - cosine_distance(REAL.ravel(), SYNTHETIC.ravel()))
    assert list(row) == list(COLUMNS)


def test_chance_is_that_of_all_random_sets():
    row, real = overlap(REAL, SYNTHETIC), (REAL > 0.1).ravel()
    common = np.array([(real & drawn).sum() for drawn in masks(8, 3)])
    jaccard = common / (4 + 3 - common)
    assert row["recall_chance"] == pytest.approx((common / 4).mean())
    assert row["precision_chance"] == pytest.approx((common / 3).mean())
    assert row["jaccard_chance"] == pytest.approx(jaccard.mean())
    assert row["overlap_p"] == pytest.approx((common >= 2).mean())
    assert row["subset_chance"] == pytest.approx((common == 3).mean())
    low, high = np.quantile(common, [0.025, 0.975], method="inverted_cdf")
    assert (row["recall_chance_low"], row["recall_chance_high"]) == (low / 4, high / 4)
    assert (row["jaccard_chance_low"], row["jaccard_chance_high"]) == (low / (7 - low), high / (7 - high))


def test_layer_chance_is_that_of_all_sets_with_the_same_layers():
    row, real = overlap(REAL, SYNTHETIC), REAL > 0.1
    common = np.array([(real & drawn).sum() for drawn in layered_masks([2, 1], 4)])
    assert len(common) == 6 * 4
    assert row["recall_layer_chance"] == pytest.approx((common / 4).mean())
    assert row["jaccard_layer_chance"] == pytest.approx((common / (7 - common)).mean())
    assert row["overlap_layer_p"] == pytest.approx((common >= 2).mean())
    assert row["subset_layer_chance"] == pytest.approx((common == 3).mean())
    low, high = np.quantile(common, [0.025, 0.975], method="inverted_cdf")
    assert (row["precision_layer_chance_low"], row["precision_layer_chance_high"]) == (low / 3, high / 3)


def test_large_sets_follow_the_hypergeometric_distribution():
    rng = np.random.default_rng(0)
    row = overlap(rng.random((32, 32)), rng.random((32, 32)), 0.85, **FEW)
    expected = hypergeom(1024, row["n_real"], row["n_synthetic"])
    assert row["recall_chance"] == pytest.approx(row["n_synthetic"] / 1024)
    assert row["precision_chance"] == pytest.approx(row["n_real"] / 1024)
    assert row["recall_chance_low"] * row["n_real"] == pytest.approx(expected.ppf(0.025))
    assert row["recall_chance_high"] * row["n_real"] == pytest.approx(expected.ppf(0.975))
    assert row["overlap_p"] == pytest.approx(expected.sf(row["n_common"] - 1))


def test_heads_in_the_same_layer_are_expected_by_layer_chance_only():
    """Two runs with four of eight heads each in the one layer that has any: half is shared by chance."""
    rng = np.random.default_rng(1)
    rows = []
    for seed in range(200):
        real, synthetic = np.zeros((6, 8)), np.zeros((6, 8))
        real[3, rng.permutation(8)[:4]] = 1
        synthetic[3, rng.permutation(8)[:4]] = 1
        rows.append(overlap(real, synthetic, **FEW, seed=seed))
    mean = {name: np.mean([row[name] for row in rows]) for name in ("recall", "recall_chance", "recall_layer_chance")}
    assert mean["recall_layer_chance"] == pytest.approx(0.5)
    assert mean["recall_chance"] == pytest.approx(4 / 48)
    assert abs(mean["recall"] - 0.5) < 4 * 0.5 / math.sqrt(200 * 4)
    assert np.mean([row["overlap_p"] < 0.05 for row in rows]) > 0.5
    assert np.mean([row["overlap_layer_p"] < 0.05 for row in rows]) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


def test_cosine_chance_is_that_of_all_permutations():
    one, two = np.array([[0.9, 0.1, 0.0], [0.2, 0.4, 0.7]]), np.array([[0.5, 0.3, 0.0], [0.0, 0.1, 0.6]])
    row = overlap(one, two, n_permutations=4000)
    norm = np.linalg.norm(one) * np.linalg.norm(two)
    every = np.array([one.ravel() @ two.ravel()[list(order)] for order in itertools.permutations(range(6))]) / norm
    orders = [list(order) for order in itertools.permutations(range(3))]
    layered = np.array([
        one[0] @ two[0][first] + one[1] @ two[1][second] for first in orders for second in orders
    ]) / norm
    for values, level in ((every, ""), (layered, "layer_")):
        assert row[f"cosine_{level}chance"] == pytest.approx(values.mean())
        share = (values >= row["cosine"] - 1e-12).mean()
        assert row[f"cosine_{level}p"] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000) + 1e-3)
        ends = row[f"cosine_{level}chance_low"], row[f"cosine_{level}chance_high"]
        assert ends == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


def test_empty_sets_give_nan_where_nothing_is_defined_and_zero_where_it_is():
    no_synthetic = overlap(REAL, np.full_like(SYNTHETIC, 0.05), **FEW)
    assert no_synthetic["recall"] == no_synthetic["recall_chance"] == no_synthetic["jaccard"] == 0.0
    undefined = ("precision", "precision_chance", "precision_layer_chance_high", "subset", "subset_chance", "overlap_p")
    assert all(math.isnan(no_synthetic[name]) for name in undefined)
    no_real = overlap(np.zeros_like(REAL), SYNTHETIC, **FEW)
    assert no_real["precision"] == no_real["subset"] == no_real["subset_chance"] == 0.0
    undefined = ("recall", "recall_chance_low", "overlap_p", "overlap_layer_p", "cosine", "cosine_layer_chance")
    assert all(math.isnan(no_real[name]) for name in undefined)
    neither = overlap(REAL, SYNTHETIC, threshold=2.0, **FEW)
    assert all(math.isnan(neither[name]) for name in ("recall", "precision", "jaccard", "jaccard_chance", "subset"))
    assert neither["cosine"] == pytest.approx(cosine(REAL, SYNTHETIC))


def test_a_head_at_the_threshold_is_no_retrieval_head():
    assert overlap([[0.1, 0.2]], [[0.1, 0.2]], 0.1, **FEW)["n_common"] == 1


def test_the_curve_is_the_rows_of_its_thresholds():
    curve = overlap_curve(REAL, SYNTHETIC, seed=4, **FEW)
    assert curve["threshold"].tolist() == list(THRESHOLDS)
    for _, row in curve.iterrows():
        expected = overlap(REAL, SYNTHETIC, row["threshold"], seed=4, **FEW)
        assert row.to_dict() == pytest.approx(expected, nan_ok=True)
    assert (curve["n_real"].diff().dropna() <= 0).all()
    assert list(overlap_curve(REAL, SYNTHETIC, [], **FEW).columns) == list(COLUMNS)


def test_only_the_cosine_depends_on_the_seed():
    first, second = (overlap(REAL, SYNTHETIC, seed=seed, n_permutations=50) for seed in (0, 1))
    assert first == overlap(REAL, SYNTHETIC, seed=0, n_permutations=50)
    changed = {name for name in COLUMNS if first[name] != second[name]}
    assert changed
    assert all(name.startswith("cosine_") for name in changed)


@settings(deadline=None, max_examples=40)
@given(MATRICES, MATRICES, st.permutations(range(3)), st.permutations(range(4)))
def test_bounds_symmetry_and_invariance(real, synthetic, layers, heads):
    row, swapped = overlap(real, synthetic, **FEW), overlap(synthetic, real, **FEW)
    for name, value in row.items():
        assert math.isnan(value) or name.startswith("n_") or -1e-9 <= value <= 1 + 1e-9, name
    for name in ("jaccard", "jaccard_chance", "jaccard_layer_chance", "overlap_p", "overlap_layer_p", "cosine"):
        assert swapped[name] == pytest.approx(row[name], nan_ok=True)
    assert swapped["precision"] == pytest.approx(row["recall"], nan_ok=True)
    assert swapped["recall_layer_chance"] == pytest.approx(row["precision_layer_chance"], nan_ok=True)
    moved = overlap(real[layers][:, heads], synthetic[layers][:, heads], **FEW)
    for name in COLUMNS:
        if not (name.startswith("cosine_") and name.endswith(("p", "low", "high"))):
            assert moved[name] == pytest.approx(row[name], nan_ok=True), name
    if not math.isnan(row["recall"]):
        assert row["recall_chance_low"] <= row["recall_chance"] + 1e-9 or row["n_synthetic"] == 0
        assert overlap(real, real, **FEW)["recall"] == 1.0
        assert overlap(real, real, **FEW)["subset"] == 1.0


@settings(deadline=None, max_examples=40)
@given(arrays(np.bool_, (3, 5)), arrays(np.bool_, (3, 5)))
def test_distribution_of_common_heads(real, synthetic):
    in_layers = real.sum(axis=1), synthetic.sum(axis=1)
    [probabilities] = common_distribution(*(one[None] for one in in_layers), np.full((1, 3), 5))
    assert len(probabilities) == np.minimum(*in_layers).sum() + 1
    assert probabilities.sum() == pytest.approx(1)
    expected = (real.sum(axis=1) * synthetic.sum(axis=1) / 5).sum()
    assert probabilities @ np.arange(len(probabilities)) == pytest.approx(expected)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: overlap(REAL, SYNTHETIC[:1]), r"different models \(got \(\(2, 4\), \(1, 4\)\)\)"),
    (lambda: overlap(REAL[0], SYNTHETIC), r"real: not a matrix .* \(got \(4,\)\)"),
    (lambda: overlap([[0.1, 0.2], [0.3]], SYNTHETIC), "real: not a matrix"),
    (lambda: overlap_curve(REAL, REAL * np.nan), "synthetic: not a matrix of finite scores"),
    (lambda: overlap(REAL, SYNTHETIC, n_permutations=0), r"n_permutations: no permutations \(got 0\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


STRONG = np.array([[0.4, 0.0], [0.2, 0.2]])
OTHERS = np.array([[0.3, 0.1], [0.4, 0.0]])


def test_strengths_have_known_recall_and_precision() -> None:
    # min: .3 + 0 + .2 + 0 = .5, of .8 each
    assert shared_strength(STRONG, OTHERS) == pytest.approx({"recall": 0.625, "precision": 0.625})
    assert shared_strength(STRONG, STRONG / 2) == pytest.approx({"recall": 0.5, "precision": 1.0})
    assert shared_strength(STRONG / 2, STRONG) == pytest.approx({"recall": 1.0, "precision": 0.5})


def test_of_zeros_and_ones_they_are_recall_and_precision_of_sets() -> None:
    rng = np.random.default_rng(1)
    real, other = (rng.random((2, 4, 6)) > 0.6).astype(float)
    row = overlap(real, other, 0.5)
    assert shared_strength(real, other) == pytest.approx({name: row[name] for name in ("recall", "precision")})


def test_what_is_not_defined_is_nan() -> None:
    zeros = np.zeros((2, 2))
    found = shared_strength(zeros, OTHERS)
    assert np.isnan(found["recall"])
    assert found["precision"] == 0
    assert np.isnan(shared_strength(STRONG, zeros)["precision"])
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


def test_bad_strengths_are_said() -> None:
    with pytest.raises(ConfigError, match="below 0"):
        shared_strength(STRONG, -OTHERS)
    with pytest.raises(ConfigError, match="different models"):
        shared_strength(STRONG, OTHERS[:1])
    with pytest.raises(ConfigError, match="persistence"):
        rank_biased_overlap(STRONG, OTHERS, 1.0)
    with pytest.raises(ConfigError, match="no permutations"):
        shared_strength_chance(STRONG, OTHERS, n_permutations=0)
