"""Resampled means of runs: examples are drawn, and the seeds' part comes from Student's t distribution.

Three seeds cannot be resampled: the interval would end at the lowest and the highest of them. The seeds' means are
taken to be normal around the mean of their set, with one covariance in all sets, which is pooled over them; a set whose
own standard deviation is larger keeps its own. Each resample of the examples then gets, for each set, a draw from
Student's t (multivariate, as the covariance is estimated) with the standard error of the mean over its seeds. If seeds
were the only chance, the interval would be Student's; if examples were, it would be the percentile interval.

The scatter of the seeds' means includes that of single cells of run and example, and so does the draw of the examples:
that part counts twice, on the wide side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from retrieval_heads.claims.pretrained.sampled import RESAMPLES, Sampled
from retrieval_heads.errors import ResultError

LEAST_SEEDS = 3
"""Seeds that every set of a rule needs before it decides."""

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Means:
    """Means of sets of runs with their resamples.

    Attributes:
        estimates: by set, float64 `[outcomes]`.
        samples: by set, float64 `[resamples, outcomes]`, paired by example between sets.
        degrees: degrees of freedom of the pooled variance over seeds; 0 where seeds were not counted.
    """

    estimates: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    degrees: int

    def of(self, function: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Sampled:
        """A function of the means, which gets by set `[..., outcomes]` and returns `[...]`."""
        return Sampled(float(function(self.estimates)), np.asarray(function(self.samples), dtype=np.float64))


def resampled_means(
    values: Mapping[str, np.ndarray], *, with_seeds: bool = True, n_resamples: int = RESAMPLES, seed: int = 0
) -> Means:
    """Resample the means of sets of runs.

    Args:
        values: by set, float64 `[seeds, examples, outcomes]`; the same examples and outcomes in all.
        with_seeds: count the chance of seeds. A set with one seed then has the pooled variance.
        n_resamples, seed: number of resamples and random seed.

    Returns:
        The means. A set named `rope`, theta alone, was not trained and has no chance of seeds.

    Raises:
        ResultError: sets of different examples or outcomes, or values that are no finite numbers.
    """
    shapes = {one.shape[1:] for one in values.values()}
    if len(shapes) != 1 or not all(np.isfinite(one).all() for one in values.values()):
        raise ResultError("runs that were not measured on the same examples, or values that are no numbers",
                          where="resampled_means", value=sorted(shapes), remedy="Make the runs again.")
    (n, n_outcomes), names = next(iter(shapes)), list(values)
    rng = np.random.default_rng(seed)
    by_example = np.stack([values[name].mean(axis=0) for name in names], axis=1).reshape(n, -1)
    drawn = np.concatenate([
        rng.multinomial(n, np.full(n, 1 / n), size=min(_CHUNK, n_resamples - start)) @ by_example / n
        for start in range(0, n_resamples, _CHUNK)
    ]).reshape(n_resamples, len(names), n_outcomes)
    degrees = 0
    if with_seeds:
        parts, degrees = _seed_parts(values, n_resamples, rng)
        for place, name in enumerate(names):
            drawn[:, place] += parts.get(name, 0.0)
    return Means(
        {name: values[name].mean(axis=(0, 1)) for name in names},
        {name: drawn[:, place] for place, name in enumerate(names)}, degrees,
    )


def _seed_parts(
    values: Mapping[str, np.ndarray], n_resamples: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], int]:
    """By set, draws `[resamples, outcomes]` of the error of its mean over seeds; and the degrees of freedom."""
    trained = {name: one.mean(axis=1) for name, one in values.items() if name != "rope"}  # [seeds, outcomes]
    deviations = {name: one - one.mean(axis=0) for name, one in trained.items()}
    degrees = sum(len(one) - 1 for one in trained.values())
    if not degrees:
        return {}, 0
    pooled = np.concatenate(list(deviations.values()))
    spread = np.sqrt((pooled**2).sum(axis=0) / degrees)
    # a draw of normal numbers times the deviations has their covariance, whatever its rank
    heavy = np.sqrt(degrees / rng.chisquare(degrees, size=(n_resamples, 1)))
    parts = {}
    for name, one in trained.items():
        own = np.sqrt((deviations[name] ** 2).sum(axis=0) / max(len(one) - 1, 1))
        larger = np.where(spread > 0, np.maximum(own, spread) / np.where(spread > 0, spread, 1.0), 1.0)
        normal = rng.standard_normal((n_resamples, len(pooled))) @ pooled / np.sqrt(degrees)
        parts[name] = normal * heavy * larger / np.sqrt(len(one))
    return parts, degrees
