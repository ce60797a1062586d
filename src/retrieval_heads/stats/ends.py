"""Ends of bootstrap intervals that a verdict hangs on: many samples, shared by all statistics, and how exact they are.

With 2,000 samples an end of a 95% interval rests on 50 of them, and the seed of the bootstrap can decide on which side
of 0 it lies. Here all statistics of a task share samples by the hundred thousand, drawn in blocks so that memory stays
bounded, and each end has its Monte Carlo error: half the width of the distribution-free 95% interval of the quantile,
from the order statistics (Conover 1999, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from retrieval_heads.stats.bootstrap import NAN, Interval

MANY = 200_000
"""Samples where a verdict hangs on an end."""

BLOCK = 20_000
"""Samples in memory at a time."""

LEVEL = 0.95
CONFIDENCE = 1.96


class Ends(NamedTuple):
    """An interval with the Monte Carlo errors of its ends, all in the unit of the values."""

    estimate: float
    low: float
    high: float
    low_error: float
    high_error: float

    @property
    def interval(self) -> Interval:
        """Without the errors."""
        return Interval(*self[:3])


def crossed_ends(
    values: np.ndarray, *, n_resamples: int = MANY, seed: int = 0,
) -> Mapping[str, list[Ends]]:
    """Intervals of the means of several tables of crossed factors, as `bootstrap_crossed` gives them one by one.

    Args:
        values: float64 `[k, base models, seeds, examples]`, no value missing.
        n_resamples: number of samples, the same for all k.
        seed: of the samples.

    Returns:
        Of each of the k, by what is drawn beside seeds and examples: `drawn` (base models are drawn too), `fixed`
        (these base models are all there is), and by the number of the base model, `0`, `1`, ..., that one alone. An
        axis of one level is not drawn; ends and errors are NaN where none is left.
    """
    k, n_bases, n_seeds, n = values.shape
    estimates = {"drawn": values.mean(axis=(1, 2, 3)), "fixed": values.mean(axis=(1, 2, 3)),
                 **{str(base): values[:, base].mean(axis=(1, 2)) for base in range(n_bases)}}
    found: dict[str, list[np.ndarray]] = {name: [] for name in estimates}
    rng = np.random.default_rng(seed)
    flat = np.ascontiguousarray(values.transpose(3, 0, 1, 2).reshape(n, -1))
    for start in range(0, n_resamples, BLOCK):
        size = min(BLOCK, n_resamples - start)
        # by BLAS: the ends are kept to six digits, which the order of a sum does not change
        cells = (_shares(rng, n, size) @ flat).reshape(size, k, n_bases, n_seeds)
        by_base = np.einsum("rkbs,rs->rkb", cells, _shares(rng, n_seeds, size))
        found["drawn"].append(np.einsum("rkb,rb->rk", by_base, _shares(rng, n_bases, size)))
        found["fixed"].append(by_base.mean(axis=2))
        for base in range(n_bases):
            found[str(base)].append(by_base[:, :, base])
    drawn = {name: max(n_seeds, n, n_bases if name == "drawn" else 1) > 1 for name in found}
    return {
        name: [ends(float(one), samples[:, i]) if drawn[name] else Ends(float(one), *[NAN] * 4)
               for i, one in enumerate(estimates[name])]
        for name, samples in ((name, np.concatenate(blocks)) for name, blocks in found.items())
    }


def ends(estimate: float, samples: np.ndarray) -> Ends:
    """The percentile interval of an estimate from its samples, with the Monte Carlo error of each end."""
    tail = (1 - LEVEL) / 2
    reach = CONFIDENCE * np.sqrt(tail * (1 - tail) / len(samples))
    places = [min(max(place, 0), 1) for end in (tail, 1 - tail) for place in (end - reach, end, end + reach)]
    before, low, after, below, high, above = np.quantile(samples, places)
    return Ends(estimate, float(low), float(high), float(max(low - before, after - low)),
                float(max(high - below, above - high)))


def _shares(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """How often each of `n` is in each sample, as a share: float64 `[size, n]`."""
    if n == 1:
        return np.ones((size, 1))
    # several times as fast as `multinomial`, which draws a number for each of the n one after another
    drawn = rng.integers(n, size=(size, n), dtype=np.int32) + np.arange(size, dtype=np.int32)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) / n
