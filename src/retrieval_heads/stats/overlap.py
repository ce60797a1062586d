"""How far two sets of retrieval heads overlap, and how far they would by chance.

With R the heads of the real run and S those of the synthetic run, at one threshold:
recall = |R and S| / |R|, precision = |R and S| / |S|, Jaccard = |R and S| / |R or S|; the cosine compares the whole
score matrices and needs no threshold. Every measure stands beside two chance levels:

* `chance`: random sets of the same sizes among all heads. The number of common heads is then hypergeometric.
* `layer_chance`: random sets with the same number of heads *in each layer*. Retrieval heads gather in a few layers, so
  two unrelated sets share many heads once they share the layers; this level removes that part. The number of common
  heads is a sum of hypergeometric numbers, one per layer.

Both are exact. For the cosine the synthetic scores are permuted, over all heads or within each layer. "Real" and
"synthetic" are roles: two seeds of one condition give the ceiling that detection noise leaves.

A measure whose denominator is zero is NaN (recall without real heads, precision without synthetic heads, Jaccard
without either, the cosine of a matrix of zeros); with real but no synthetic heads recall *is* 0, and so it is given.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import hypergeom

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.resample import NAN, floats

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Thresholds of the curve around the study's 0.1."""

PERMUTATIONS = 1000

ROUNDING = 1e-12
"""Of a sum of probabilities, or a cosine."""

_MEASURES = {
    "recall": "share of the real run's heads that the synthetic run has",
    "precision": "share of the synthetic run's heads that the real run has",
    "jaccard": "common heads as a share of the heads of either run",
    "cosine": "cosine of the two score matrices",
}


def _columns() -> dict[str, str]:
    columns = {
        "threshold": "a head is a retrieval head when its score is above this",
        "n_heads": "heads of the model",
        "n_real": "retrieval heads of the real run",
        "n_synthetic": "retrieval heads of the synthetic run",
        "n_common": "retrieval heads of both",
    }
    for name, meaning in _MEASURES.items():
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
    of_cosine = _cosine_row(*scores, some(n_permutations), seed)
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


def matrices(real: ArrayLike, synthetic: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both score matrices as float64; `ConfigError` where they are not two of one shape."""
    pair = []
    for name, scores in (("real", real), ("synthetic", synthetic)):
        matrix = floats(scores)
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


def some(n_permutations: int) -> int:
    """The number itself; `ConfigError` where it is none."""
    if n_permutations < 1:
        raise ConfigError("no permutations", where="n_permutations", value=n_permutations, remedy="Use 1000, say.")
    return n_permutations
