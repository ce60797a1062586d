"""How far two sets of retrieval heads overlap, how far the strengths of heads do, and how far they would by chance.

With R the heads of the real run and S those of the synthetic run, at one threshold:
recall = |R and S| / |R|, precision = |R and S| / |S|, Jaccard = |R and S| / |R or S|; the cosine compares the whole
score matrices and needs no threshold. Every measure stands beside two chance levels:

* `chance`: random sets of the same sizes among all heads. The number of common heads is then hypergeometric.
* `layer_chance`: random sets with the same number of heads *in each layer*. Retrieval heads gather in a few layers, so
  two unrelated sets share many heads once they share the layers; this level removes that part. The number of common
  heads is a sum of hypergeometric numbers, one per layer.

Both distributions are computed exactly. For the cosine the synthetic scores are permuted, over all heads or within each
layer. "Real" and "synthetic" are roles: two seeds of one condition give the ceiling that detection noise leaves.

When few heads are strong, strengths are compared, not sets above a threshold. A head's strength is its score less its
chance level, and not below 0. With r the real run's strengths and s those of another run: recall = sum(min(r, s)) /
sum(r), precision = sum(min(r, s)) / sum(s), both in [0, 1]; for strengths that are 0 or 1 they are those of sets. Of
*gained* strength, what the un-tuned model has at the same length is taken away first. Rank-biased overlap compares the
order of the heads alone.

A measure whose denominator is zero is NaN (recall without real heads, precision without synthetic heads, Jaccard
without either, the cosine of a matrix of zeros); with real but no synthetic heads recall *is* 0, and so it is given.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import hypergeom, rankdata

from retrieval_heads.errors import ConfigError

NAN = float("nan")

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Thresholds of the curve around the study's 0.1."""

PERMUTATIONS = 1000

PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten ranks then have 86% of the weight (Webber et al. 2010)."""

ROUNDING = 1e-12
"""Of a sum of probabilities, or a cosine."""


def _columns() -> dict[str, str]:
    measures = {
        "recall": "share of the real run's heads that the synthetic run has",
        "precision": "share of the synthetic run's heads that the real run has",
        "jaccard": "common heads as a share of the heads of either run",
        "cosine": "cosine of the two score matrices",
    }
    columns = {
        "threshold": "a head is a retrieval head when its score is above this",
        "n_heads": "heads of the model",
        "n_real": "retrieval heads of the real run",
        "n_synthetic": "retrieval heads of the synthetic run",
        "n_common": "retrieval heads of both",
    }
    for name, meaning in measures.items():
        columns[name] = meaning
        drawn = "scores are permuted over" if name == "cosine" else "as many heads are drawn from"
        for level, which in (("chance", "all heads"), ("layer_chance", "each layer")):
            columns[f"{name}_{level}"] = f"expected {name} when {drawn} {which}"
            columns[f"{name}_{level}_low"] = f"2.5% quantile of {name} when {drawn} {which}"
            columns[f"{name}_{level}_high"] = f"97.5% quantile of {name} when {drawn} {which}"
    return columns | {
        "overlap_p": "probability of at least n_common common heads when as many heads are drawn from all heads",
        "overlap_layer_p": "probability of at least n_common common heads when as many are drawn from each layer",
        "subset": "1 when the real run has every head of the synthetic run, else 0",
        "subset_chance": "probability of such a subset when as many heads are drawn from all heads",
        "subset_layer_chance": "probability of such a subset when as many heads are drawn from each layer",
        "cosine_p": "share of permutations over all heads with at least this cosine",
        "cosine_layer_p": "share of permutations within each layer with at least this cosine",
    }


COLUMNS = _columns()
"""What each column of `overlap` means, for a data dictionary. Shares, cosines and probabilities are in [0, 1]."""


def recall_precision(real: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision `[...]` of sets (bool) or strengths `[..., heads]` along the last axis; NaN where a sum is 0
    or not known."""
    common = np.minimum(real, other).sum(axis=-1)
    return tuple(np.where(whole > 0, common / np.where(whole > 0, whole, 1), NAN)
                 for whole in (real.sum(axis=-1), other.sum(axis=-1)))


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine along the last axis, which is Pearson's correlation of centred rows; NaN where a row is all zeros."""
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(norm > 0, (x * y).sum(axis=-1) / np.where(norm > 0, norm, 1), NAN)


def common_distribution(real: np.ndarray, synthetic: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Probabilities `[pairs, most common heads of any pair + 1]` of 0, 1, ... common heads of random sets that have so
    many out of `width` heads in each group (a layer, or all): int `[pairs, groups]`."""
    # equal groups have equal distributions: each is computed once
    kinds, index = np.unique(np.stack([np.maximum(width, 1), real, synthetic], axis=-1).reshape(-1, 3), axis=0,
                             return_inverse=True)
    most = np.minimum(real, synthetic)
    common = np.arange(int(most.max(initial=0)) + 1)
    in_group = hypergeom.pmf(common, *kinds.T[..., None])
    found = np.zeros((len(real), int(most.sum(axis=1).max(initial=0)) + 1))
    found[:, 0] = 1
    for group in index.reshape(real.shape).T:
        before, own = found, in_group[group]
        found = before * own[:, :1]
        for k in common[1:]:
            found[:, k:] += before[:, : max(0, found.shape[1] - k)] * own[:, k : k + 1]
    return found


def layer_chance(first: np.ndarray, second: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of many pairs of sets with as many heads in each layer: the expected number of common heads, its 97.5% quantile,
    and the probability that the first set lies inside the second; arguments `[pairs, layers]`, results `[pairs]`."""
    probabilities = common_distribution(second, first, width)
    quantile = np.argmax(probabilities.cumsum(axis=1) >= 0.975 - ROUNDING, axis=1)
    whole = np.minimum(first.sum(axis=1), probabilities.shape[1] - 1)
    inside = np.take_along_axis(probabilities, whole[:, None], axis=1)[:, 0]
    expected = (first * second / np.maximum(width, 1)).sum(axis=1)
    return expected, quantile.astype(np.float64), np.where((first <= second).all(axis=1), inside, 0.0)


def overlap(
    real: ArrayLike, synthetic: ArrayLike, threshold: float = 0.1, *, n_permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float]:
    """One tidy row comparing two score matrices `[n_layers, n_heads]`.

    Args:
        real, synthetic: scores of all heads in the two runs.
        threshold: heads with a score above it are the retrieval heads of a run.
        n_permutations, seed: of the cosine's chance level.

    Returns:
        The columns of `COLUMNS`.

    Chance ranges are central 95% ranges. A one-sided p-value is NaN where there is nothing to test: an empty set, or a
    matrix of zeros for the cosine. The cosine's p-value counts the observed arrangement, so it is never below
    1 / (n_permutations + 1).

    Raises:
        ConfigError: matrices of different shapes, not two-dimensional or with values that are not finite.
    """
    return _rows(real, synthetic, [threshold], n_permutations, seed)[0]


def overlap_curve(
    real: ArrayLike, synthetic: ArrayLike, thresholds: Iterable[float] = THRESHOLDS, *,
    n_permutations: int = PERMUTATIONS, seed: int = 0,
) -> pd.DataFrame:
    """`overlap` at each threshold, one row each; the cosine's columns are the same in all. Errors as in `overlap`."""
    return pd.DataFrame(_rows(real, synthetic, thresholds, n_permutations, seed), columns=list(COLUMNS))


def _rows(
    real: ArrayLike, synthetic: ArrayLike, thresholds: Iterable[float], n_permutations: int, seed: int,
) -> list[dict[str, float]]:
    scores = matrices(real, synthetic)
    if n_permutations < 1:
        raise ConfigError("no permutations", where="n_permutations", value=n_permutations, remedy="Use 1000, say.")
    of_cosine = _cosine_row(*scores, n_permutations, seed)
    rows = [_sets_row(*scores, float(threshold)) | of_cosine for threshold in thresholds]
    return [{name: row[name] for name in COLUMNS} for row in rows]


def _sets_row(real: np.ndarray, synthetic: np.ndarray, threshold: float) -> dict[str, float]:
    """The columns of `overlap` that are about sets."""
    masks = real > threshold, synthetic > threshold
    n_real, n_synthetic, n_common = (int(mask.sum()) for mask in (*masks, masks[0] & masks[1]))

    def measures(common: np.ndarray) -> dict[str, np.ndarray]:
        sizes = {"recall": n_real, "precision": n_synthetic, "jaccard": n_real + n_synthetic - common}
        return {name: np.where(size > 0, common / np.maximum(size, 1), NAN) for name, size in sizes.items()}

    row: dict[str, float] = {
        "threshold": threshold, "n_heads": real.size, "n_real": n_real, "n_synthetic": n_synthetic,
        "n_common": n_common, "subset": float(n_common == n_synthetic) if n_synthetic else NAN,
        **{name: float(value) for name, value in measures(np.array(n_common)).items()},
    }
    for level, groups in (("", 1), ("layer_", len(real))):
        heads = [mask.reshape(1, groups, -1).sum(axis=-1) for mask in masks]
        [probabilities] = common_distribution(*heads, np.full_like(heads[0], real.size // groups))
        # the smallest numbers whose cumulative probability reaches the level
        ends = [int(np.argmax(probabilities.cumsum() >= part - ROUNDING)) for part in (0.025, 0.975)]
        for name, values in measures(np.arange(len(probabilities))).items():
            row[f"{name}_{level}chance"] = float(probabilities @ values)
            row[f"{name}_{level}chance_low"], row[f"{name}_{level}chance_high"] = map(float, values[ends])
        row[f"overlap_{level}p"] = float(min(1.0, probabilities[n_common:].sum())) if n_real and n_synthetic else NAN
        contained = probabilities[n_synthetic] if n_synthetic < len(probabilities) else 0.0
        row[f"subset_{level}chance"] = float(contained) if n_synthetic else NAN
    return row


def _cosine_row(real: np.ndarray, synthetic: np.ndarray, n_permutations: int, seed: int) -> dict[str, float]:
    row, rng = {"cosine": cosine(real, synthetic)}, np.random.default_rng(seed)
    norm = np.linalg.norm(real) * np.linalg.norm(synthetic)
    for level, rows in (("", 1), ("layer_", len(real))):
        one, two = real.reshape(rows, -1), synthetic.reshape(rows, -1)
        names = [f"cosine_{level}{end}" for end in ("chance", "chance_low", "chance_high", "p")]
        if not norm:
            row |= dict.fromkeys(names, NAN)
            continue
        permuted = np.array([(one * rng.permuted(two, axis=1)).sum() for _ in range(n_permutations)]) / norm
        expected = (one.mean(axis=1) * two.sum(axis=1)).sum() / norm  # exact: a permuted value is its row's mean
        low, high = np.quantile(permuted, [0.025, 0.975])
        as_large = 1 + np.count_nonzero(permuted >= row["cosine"] - ROUNDING)
        row |= dict(zip(names, map(float, (expected, low, high, as_large / (n_permutations + 1))), strict=True))
    return row


def cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Cosine of two score matrices read as vectors; NaN when one of them is all zeros. Errors as in `overlap`."""
    one, two = matrices(first, second)
    return float(cosines(one.ravel(), two.ravel()))


def strength(scores: ArrayLike, chance: ArrayLike) -> np.ndarray:
    """Scores less their chance level, of the same shape, not below 0; NaN where either is."""
    return np.maximum(np.asarray(scores, dtype=np.float64) - np.asarray(chance, dtype=np.float64), 0.0)


def gained(strengths: ArrayLike, base: ArrayLike) -> np.ndarray:
    """What the strengths of a run exceed those of the un-tuned model by, head by head, not below 0.

    Both have to be of the same length and RoPE theta: a model at a length that it was not made for has weak heads for
    that reason alone, and at a shorter length strong ones.
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
    """What `shared_strength` is when the other run's heads are permuted within each layer.

    Returns:
        For `recall` and `precision` the mean, and with `_low` and `_high` the central 95% range.

    Raises:
        ConfigError: as in `shared_strength`, or no permutations.
    """
    one, two = _strengths(real, other)
    if n_permutations < 1:
        raise ConfigError("no permutations", where="n_permutations", value=n_permutations, remedy="Use 1000, say.")
    rng, found = np.random.default_rng(seed), {}
    permuted = np.array([rng.permuted(two, axis=1).ravel() for _ in range(n_permutations)])
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
        From 0 to 1; NaN where all heads of one of the two have the same score, which is no order.

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


def matrices(real: ArrayLike, synthetic: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both score matrices as float64; `ConfigError` where they are not two of one shape."""
    pair = []
    for name, scores in (("real", real), ("synthetic", synthetic)):
        try:
            matrix = np.asarray(scores, dtype=np.float64)
        except (TypeError, ValueError):  # ragged rows, text
            matrix = np.empty(0)
        if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
            raise ConfigError(
                "not a matrix of finite scores, layers by heads", where=name, value=matrix.shape,
                remedy="Give the scores of one run as `retrieval_scores` returns them.",
            )
        pair.append(matrix)
    if pair[0].shape != pair[1].shape:
        raise ConfigError(
            "score matrices of different models", where="overlap", value=(pair[0].shape, pair[1].shape),
            remedy="Compare runs of one base model.",
        )
    return pair[0], pair[1]


def _strengths(real: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, two = matrices(real, other)
    if min(one.min(), two.min()) < 0:
        raise ConfigError("a strength below 0", where="shared_strength", value=float(min(one.min(), two.min())),
                          remedy="Give `strength(scores, chance)`.")
    return one, two
