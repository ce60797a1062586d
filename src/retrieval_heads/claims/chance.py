"""Common heads of many pairs of random sets at once, with as many heads in each layer: `stats.overlap` for a study.

The number of common heads is a sum of hypergeometric numbers, one a layer. Its exact distribution is the convolution of
theirs, computed here by Fourier transforms of all pairs together; the error is one of rounding, about 1e-15.
"""

from __future__ import annotations

import numpy as np
from scipy.special import comb

ROUNDING = 1e-12
DIGITS = 12


def layer_chance(
    first: np.ndarray, second: np.ndarray, width: np.ndarray, level: float = 0.975
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected number of common heads, its quantile, and the probability that the first set lies inside the second.

    Args:
        first, second: int `[n_pairs, n_layers]`, heads of both sets in each layer.
        width: int of the same shape, heads that may be drawn in each layer.
        level: of the quantile: the smallest number whose cumulative probability reaches it.

    Returns:
        Three float64 `[n_pairs]`.
    """
    if not len(first):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    expected = (first * second / np.maximum(width, 1)).sum(axis=1)
    # equal layers have equal distributions: each is transformed once
    kinds, index = np.unique(np.stack([width, first, second], axis=-1).reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(first.shape)
    size = int(np.minimum(first, second).sum(axis=1).max()) + 1
    transforms = np.fft.rfft(_hypergeometric(*kinds.T), n=size, axis=1)
    product = np.ones((len(first), transforms.shape[1]), dtype=complex)
    for layer in index.T:
        product *= transforms[layer]
    probabilities = np.fft.irfft(product, n=size, axis=1)
    quantile = np.argmax(probabilities.cumsum(axis=1) >= level - ROUNDING, axis=1)
    n_first = first.sum(axis=1)
    inside = np.take_along_axis(probabilities, np.minimum(n_first, size - 1)[:, None], axis=1)[:, 0]
    # the error of rounding differs between machines; what is below it is no probability
    inside = np.where((first <= second).all(axis=1), np.clip(inside, 0, 1).round(DIGITS), 0.0)
    return expected, quantile.astype(np.float64), inside


def _hypergeometric(width: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probabilities of 0, 1, ... common heads in one layer; float64 `[n_kinds, most common heads + 1]`."""
    common = np.arange(int(np.minimum(first, second).max()) + 1)
    width, first, second = width[:, None], first[:, None], second[:, None]
    return comb(first, common) * comb(width - first, second - common) / comb(width, second)
