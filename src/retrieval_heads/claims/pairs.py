"""Means over pairs of runs, a run of one seed beside a real run of another, with intervals over seeds and base models.

A measure of all pairs is an array `[..., base models, seeds of the run, seeds of the real run]`, NaN where the pair
does not count. The bootstrap draws base models, the runs' seeds and the real runs' seeds independently (the pigeonhole
bootstrap, Owen 2007), with the same samples for all measures. Where both are real runs, the two axes are the same runs,
and the interval is approximate.
"""

from __future__ import annotations

import numpy as np

from retrieval_heads.stats.bootstrap import RESAMPLES

LEAST_SEEDS = 3
"""With two, half of the samples would have no pair of different seeds."""


def known_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of the values that are no NaN; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def pair_means(values: np.ndarray) -> np.ndarray:
    """Means `[...]` over pairs and base models, each pair that counts with the same weight."""
    return known_mean(values, (-3, -2, -1))


def base_means(values: np.ndarray) -> np.ndarray:
    """Means `[..., base models]` over pairs."""
    return known_mean(values, (-2, -1))


def pair_intervals(
    values: np.ndarray, *, level: float = 0.95, n_resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[...]` of the intervals of `pair_means`; NaN under three seeds, or without a pair.

    Args:
        values: float64 `[..., bases, seeds, seeds]`.
        level, n_resamples, seed: of the bootstrap.
    """
    *outer, n_bases, n_runs, n_real = values.shape
    if min(n_runs, n_real) < LEAST_SEEDS:
        return np.full(outer, np.nan), np.full(outer, np.nan)
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) for n in (n_bases, n_runs, n_real)]
    weights = np.einsum("rb,rs,rt->rbst", *drawn).reshape(n_resamples, -1).astype(np.float64)
    flat = values.reshape(-1, n_bases * n_runs * n_real)
    known = ~np.isnan(flat)
    # einsum, not BLAS, whose sums depend on the number of threads in the last digit
    count = np.einsum("rc,kc->kr", weights, known.astype(np.float64))
    total = np.einsum("rc,kc->kr", weights, np.where(known, flat, 0.0))
    means = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    ends = np.full((2, len(flat)), np.nan)
    defined = known.any(axis=1)
    if defined.any():
        ends[:, defined] = np.nanquantile(means[defined], [(1 - level) / 2, (1 + level) / 2], axis=1)
    return ends[0].reshape(outer), ends[1].reshape(outer)
