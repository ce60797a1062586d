"""Spearman's rho and Kendall's tau-b of many resamples at once, inside groups and given a covariate.

scipy computes one pair of columns a call; a bootstrap needs thousands, some within groups, which scipy does not have.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

ROUNDING = 1e-10
"""Relative size below which a difference is one of rounding."""


def rank_correlation(method: str, columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Correlation of the first two columns; given the third, if there is one (Spearman only).

    Args:
        method: `spearman` or `kendall`.
        columns: `[2 or 3, ..., n]` ranks of any kind, from 1 upwards without gaps; the middle axes are resamples.
        codes: int `[..., n]` group of each row.

    Returns:
        float64 `[...]`; NaN where a column is constant inside every group.
    """
    if method == "kendall":
        # tau-b is the cosine of the signs of the differences, here of the pairs inside a group
        i, j = np.triu_indices(codes.shape[-1], 1)
        return cosine(*(np.sign(columns[..., i] - columns[..., j]) * (codes[..., i] == codes[..., j])))
    return cosine(*residuals(group_ranks(columns, codes)))


def group_ranks(columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Ranks inside groups with ties shared, centred on 0 and divided by the group's size."""
    ranks = rankdata(columns + codes * (columns.max() + 1), axis=-1)  # a group's values lie above all of those before
    centred = np.zeros_like(ranks)
    for code in np.unique(codes):
        inside = codes == code
        count = np.maximum(inside.sum(axis=-1, keepdims=True), 1)
        mean = (ranks * inside).sum(axis=-1, keepdims=True) / count
        centred += inside * (ranks - mean) / count
    return centred


def residuals(ranks: np.ndarray) -> np.ndarray:
    """The first two of `[2 or 3, ..., n]` less their regression on the third, if there is one."""
    if len(ranks) == 2:
        return ranks
    first, z = ranks[:2], ranks[2]
    weight = (z * z).sum(axis=-1, keepdims=True)
    rest = first - (first * z).sum(axis=-1, keepdims=True) / np.where(weight > 0, weight, 1) * z
    # what the covariate determines leaves a residue of rounding errors, whose correlation would mean nothing
    gone = (rest**2).sum(axis=-1, keepdims=True) <= ROUNDING * (first**2).sum(axis=-1, keepdims=True)
    return np.where(gone, 0.0, rest)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine along the last axis, which is Pearson's correlation of centred rows; NaN where a row is all zeros."""
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(norm > 0, (x * y).sum(axis=-1) / np.where(norm > 0, norm, 1), np.nan)
