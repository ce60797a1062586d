"""How far the heads of two runs agree when few are strong: strengths are compared, not sets above a threshold.

A head's strength is its score less its chance level, and not below 0. With r the real run's strengths and s those of
another run: recall = sum(min(r, s)) / sum(r), precision = sum(min(r, s)) / sum(s), both in [0, 1]; of strengths that
are 0 or 1 they are those of sets (`overlap.recall_precision`). Of *gained* strength, what the un-tuned model has at the
same length is taken away first. Rank-biased overlap compares the order of the heads alone.

A measure whose denominator is zero is NaN. Chance permutes the other run's strengths within each layer, as retrieval
heads gather in a few.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import cosines, matrices, recall_precision, some
from retrieval_heads.stats.resample import NAN

PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten ranks then have 86% of the weight (Webber et al. 2010)."""


def strength(scores: ArrayLike, chance: ArrayLike) -> np.ndarray:
    """Scores minus their chance level, in the same shape, but at least 0; NaN where either is NaN."""
    return np.maximum(np.asarray(scores, dtype=np.float64) - np.asarray(chance, dtype=np.float64), 0.0)


def gained(strengths: ArrayLike, base: ArrayLike) -> np.ndarray:
    """By how much the strengths of a run exceed those of the un-tuned model, head by head, but at least 0.

    Both need the same length and RoPE theta: a model at a length that it was not made for has weak heads for that
    reason alone, and strong ones at a shorter length.
    """
    return strength(strengths, base)


def shared_strength(real: ArrayLike, other: ArrayLike) -> dict[str, float]:
    """Strength-weighted `recall` and `precision` of two matrices of strengths `[n_layers, n_heads]`.

    Raises:
        ConfigError: not two matrices of one shape, or values that are not finite numbers from 0.
    """
    one, two = (scores.ravel() for scores in _strengths(real, other))
    return dict(zip(("recall", "precision"), map(float, recall_precision(one, two)), strict=True))


def shared_strength_chance(
    real: ArrayLike, other: ArrayLike, *, n_permutations: int = 1000, seed: int = 0
) -> dict[str, float]:
    """The chance level of `shared_strength`, when the other run's heads are permuted within each layer.

    Returns:
        For `recall` and `precision` the mean, and with `_low` and `_high` the central 95% range.

    Raises:
        ConfigError: as in `shared_strength`, or no permutations.
    """
    one, two = _strengths(real, other)
    rng, found = np.random.default_rng(seed), {}
    permuted = np.array([rng.permuted(two, axis=1).ravel() for _ in range(some(n_permutations))])
    for name, values in zip(("recall", "precision"), recall_precision(one.ravel()[None], permuted), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        found |= {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def rank_biased_overlap(real: ArrayLike, other: ArrayLike, persistence: float = PERSISTENCE) -> float:
    """Rank-biased overlap of all heads in order of their scores, extrapolated (Webber et al. 2010, equation 23).

    The agreement of the first d of both rankings, weighted by `persistence` to the power d - 1. Most heads score 0, so
    ties matter: a head of a tied group is among the first d with the probability that it has when ties are broken at
    random, and the agreement at d is the cosine of both rankings' probabilities (variant b of Corsi and Urbano 2024,
    arXiv 2406.07121, which follows Kendall's tau-b). A ranking agrees with itself by 1, ties or not. Both rank all
    heads, so what is extrapolated beyond the last is an agreement of 1.

    Args:
        real, other: scores `[n_layers, n_heads]`.
        persistence: from 0 (the first rank alone counts) to below 1.

    Returns:
        From 0 to 1; NaN if all heads of one of the two have the same score, which gives no order.

    Raises:
        ConfigError: not two matrices of one shape with finite values, or a persistence outside [0, 1).
    """
    if not 0 <= persistence < 1:
        raise ConfigError("not from 0 to below 1", where="persistence", value=persistence, remedy="Use 0.9, say.")
    one, two = matrices(real, other)
    if not np.ptp(one) or not np.ptp(two):
        return NAN
    agreement = cosines(_membership(one.ravel()), _membership(two.ravel()))
    weights = persistence ** np.arange(len(agreement))
    return float((1 - persistence) * (weights @ agreement) + persistence ** len(agreement) * agreement[-1])


def _membership(scores: np.ndarray) -> np.ndarray:
    """float64 `[depths, heads]`: the probability of each head to be among the first 1, 2, ... when ties are broken."""
    before = rankdata(-scores, method="min") - 1
    size = rankdata(-scores, method="max") - before
    return np.clip((np.arange(1, len(scores) + 1)[:, None] - before) / size, 0.0, 1.0)


def _strengths(real: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, two = matrices(real, other)
    if min(one.min(), two.min()) < 0:
        raise ConfigError("a strength below 0", where="shared_strength", value=float(min(one.min(), two.min())),
                          remedy="Give `strength(scores, chance)`.")
    return one, two
