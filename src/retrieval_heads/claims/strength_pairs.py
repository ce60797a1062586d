"""Strengths of runs beside those of real runs of other seeds, on opposite halves of the probe examples.

Arrays of strengths have the halves first: `[2 halves, ..., seeds, layers, heads]`. A run's half is compared with the
other half of a real run, both ways round, and a run is never compared with the real run of its own seed.
"""

from __future__ import annotations

import numpy as np

from retrieval_heads.stats.overlap import cosine
from retrieval_heads.stats.strength import rank_biased_overlap, weighted

WAYS = ((0, 1), (1, 0))
"""The half of the run, and that of the real run."""


def pair_values(runs: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of runs among real runs of other seeds.

    Args:
        runs: `[2 halves, ..., seeds, heads]` strengths.
        real: `[2 halves, ..., seeds, heads]`, with the same seeds; the leading axes broadcast.

    Returns:
        Two arrays `[..., seeds of the run, seeds of the real run]`, the mean of both ways; NaN for equal seeds.
    """
    found = [weighted(real[other][..., None, :, :], runs[own][..., :, None, :]) for own, other in WAYS]
    same = np.eye(runs.shape[-2], dtype=bool)
    recall, precision = (np.where(same, np.nan, (found[0][i] + found[1][i]) / 2) for i in range(2))
    return recall, precision


def pair_mean(values: np.ndarray) -> np.ndarray:
    """Mean `[...]` over the pairs `[..., seeds, seeds]` that are known; NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(axis=(-2, -1))
    return np.where(count, np.where(known, values, 0.0).sum(axis=(-2, -1)) / np.maximum(count, 1), np.nan)


def flat(strengths: np.ndarray) -> np.ndarray:
    """`[..., layers, heads]` as `[..., heads of all layers]`."""
    return strengths.reshape(*strengths.shape[:-2], -1)


def of_kind(strengths: np.ndarray, alone: np.ndarray, heads: str) -> np.ndarray:
    """Strengths `[2 halves, ...]`, all of them or what is gained over theta alone `[2 halves, layers, heads]`."""
    if heads == "all":
        return strengths
    return np.maximum(strengths - alone.reshape(2, *(1,) * (strengths.ndim - 3), *alone.shape[1:]), 0.0)


def chance_within_layers(
    own: np.ndarray, real: np.ndarray, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 97.5% quantile of the mean precision when the heads of each run are permuted in each layer.

    Args:
        own: `[2 halves, conditions, ..., seeds, layers, heads]`.
        real: the same of the real runs, with one condition or none of that axis.

    Returns:
        Two arrays `[conditions, ...]`.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        order = rng.random(own.shape[1:]).argsort(axis=-1)  # of one run the same in both halves
        permuted = np.take_along_axis(own, order[None], axis=-1)
        found.append(pair_mean(pair_values(flat(permuted), flat(real))[1]))
    drawn = np.stack(found)
    return drawn.mean(axis=0), np.quantile(drawn, 0.975, axis=0)


def beside(own: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Rank-biased overlap and cosine of `[2 halves, seeds, layers, heads]`, means over the pairs that are known."""
    found: dict[str, list[float]] = {"rank_biased_overlap": [], "cosine": []}
    for half, other in WAYS:
        for s, run in enumerate(own[half]):
            for t, one in enumerate(real[other]):
                if s != t and np.isfinite(run).all() and np.isfinite(one).all():
                    found["rank_biased_overlap"].append(rank_biased_overlap(one, run))
                    found["cosine"].append(cosine(one, run))
    return {name: float(np.mean(values)) if values else np.nan for name, values in found.items()}
