"""Quantities with their resamples, and what can be said of them: yes, no, or not within the error of the resampling.

**Seeds.** Examples are drawn. Three seeds cannot be resampled: the interval would end at the lowest and the highest of
them. The seeds' means are taken to be normal around the mean of their set, with one covariance in all sets, which is
pooled over them; a set whose own standard deviation is larger keeps its own. Each resample of the examples then gets,
for each set, a draw from Student's t (multivariate, as the covariance is estimated) with the standard error of the mean
over its seeds. If seeds were the only chance, the interval would be Student's; if examples were, it would be the
percentile interval. The scatter of the seeds' means includes that of single cells of run and example, and so does the
draw of the examples: that part counts twice, on the wide side.

**Truth.** An end of an interval is itself a random number, as the resamples are drawn. Its Monte Carlo error is the
standard error over batches of the resamples. A comparison that this error could turn is neither true nor false but
`None`, and a rule that needs it gives no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval_heads.stats.resample import blocks, draw

Truth = bool | None
"""None: within the Monte Carlo error, or not known."""

RESAMPLES = 100_000
BATCHES = 20
ERRORS = 3
"""An end nearer to its bound than so many Monte Carlo errors decides nothing."""

ALPHA = 0.05

BLOCK = 4096
"""Resamples in memory at a time."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """An estimate and its resamples, float64 `[resamples]`; infinite where a share's denominator is not positive."""

    estimate: float
    samples: np.ndarray

    def end(self, quantile: float) -> tuple[float, float]:
        """A quantile of the resamples and its Monte Carlo error."""
        batches = [np.quantile(batch, quantile, method="inverted_cdf")
                   for batch in np.array_split(self.samples, BATCHES) if len(batch)]
        with np.errstate(invalid="ignore"):
            error = float(np.std(batches, ddof=1) / np.sqrt(len(batches))) if np.isfinite(batches).all() else np.inf
        return float(np.quantile(self.samples, quantile, method="inverted_cdf")), error

    def cells(self) -> dict[str, float | None]:
        """Estimate and 95% interval with the Monte Carlo errors of its ends, as cells of a table."""
        (low, low_error), (high, high_error) = self.end(ALPHA / 2), self.end(1 - ALPHA / 2)
        values = {"value": self.estimate, "low": low, "high": high, "low_error": low_error, "high_error": high_error}
        return {name: float(f"{value:.5g}") if np.isfinite(value) else None for name, value in values.items()}

    def p_zero(self) -> tuple[float, float]:
        """Two-sided p-value of the hypothesis that the quantity is 0, and its Monte Carlo error."""
        smaller = min((self.samples <= 0).mean(), (self.samples >= 0).mean())
        return _p_value(2 * smaller, len(self.samples), 2)

    def p_equivalent(self, margin: float) -> tuple[float, float]:
        """p-value of the two one-sided tests that the quantity lies within the margin around 0, and its error.

        Schuirmann 1987: the larger of the p-values of "at least the margin" and "at most minus the margin".
        """
        larger = max((self.samples >= margin).mean(), (self.samples <= -margin).mean())
        return _p_value(larger, len(self.samples), 1)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`; infinite with the sign of the part where the whole is not positive."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.copysign(np.inf, part))


def compared(end: float, error: float, bound: float) -> Truth:
    """Whether the end lies above the bound; None within the Monte Carlo error."""
    if np.isnan(end) or np.isnan(error):
        return None
    if np.isinf(end):
        return bool(end > bound)
    return None if abs(end - bound) <= ERRORS * error else bool(end > bound)


def holm(values: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """p-values with their Monte Carlo errors, adjusted for their number by Holm's method (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index][0])
    adjusted: list[tuple[float, float]] = [(0.0, 0.0)] * len(values)
    largest = (0.0, 0.0)
    for rank, index in enumerate(order):
        p, error = values[index]
        times = len(values) - rank
        largest = max(largest, (min(1.0, p * times), error * times))
        adjusted[index] = largest
    return adjusted


def significant(p: float, error: float) -> Truth:
    """Whether a p-value is below .05; None within its Monte Carlo error."""
    return compared(ALPHA, error, p)


def both(*truths: Truth) -> Truth:
    """Whether all are true; None when that hangs on one that is not known."""
    return at_least(len(truths), truths)


def none_of(truths: Iterable[Truth]) -> Truth:
    """Whether all are false."""
    return both(*(None if one is None else not one for one in truths))


def at_least(number: int, truths: Iterable[Truth]) -> Truth:
    """Whether at least so many are true; None when that hangs on those that are not known."""
    truths = list(truths)
    certain = sum(one is True for one in truths)
    possible = certain + sum(one is None for one in truths)
    if certain >= number:
        return True
    return None if possible >= number else False


def _p_value(value: float, n: int, sides: int) -> tuple[float, float]:
    """A share of resamples as a p-value, never below one resample, and its binomial standard error."""
    p = min(1.0, max(float(value), sides / n))
    return p, float(np.sqrt(sides * p * max(1 - p / sides, 0.0) / n))


def lies_above(row: Mapping[str, Any], bound: float, prefix: str = "") -> Truth:
    """Whether the interval in the cells of a row (`low`, `low_error`, with the prefix) lies above the bound."""
    return compared(_number(row[f"{prefix}low"]), _number(row[f"{prefix}low_error"]), bound)


def lies_below(row: Mapping[str, Any], bound: float, prefix: str = "") -> Truth:
    """The same of an interval that lies below the bound."""
    return compared(-_number(row[f"{prefix}high"]), _number(row[f"{prefix}high_error"]), -bound)


def _number(cell: float | None) -> float:
    return float("nan") if cell is None else float(cell)


@dataclass(frozen=True, eq=False)
class Means:
    """Means of sets of runs with their resamples.

    Attributes:
        estimates: by set, float64 `[outcomes]`.
        samples: by set, float64 `[resamples, outcomes]`, paired by example between sets.
    """

    estimates: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]

    def of(self, function: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Sampled:
        """A function of the means, which gets by set `[..., outcomes]` and returns `[...]`."""
        return Sampled(float(function(self.estimates)), np.asarray(function(self.samples), dtype=np.float64))

    def cells(self, name: str, parts: Mapping[int, float], whole: int | None = None) -> dict[str, float | None]:
        """Cells of a weighted sum of outcomes of one set, as a share of another outcome where one is given."""
        def effect(means: Mapping[str, np.ndarray]) -> np.ndarray:
            total = sum(weight * means[name][..., place] for place, weight in parts.items())
            return total if whole is None else share(total, means[name][..., whole])

        return self.of(effect).cells()


def resampled_means(
    values: Mapping[str, np.ndarray], *, with_seeds: bool = True, n_resamples: int = RESAMPLES, seed: int = 0
) -> Means:
    """Resample the means of sets of runs.

    Args:
        values: by set, float64 `[seeds, examples, outcomes]`; the same examples and outcomes in all.
        with_seeds: count the chance of seeds. A set with one seed then has the pooled variance.

    Returns:
        The means. A set named `rope`, theta alone, was not trained and has no chance of seeds.
    """
    names = list(values)
    _, n, n_outcomes = values[names[0]].shape
    rng = np.random.default_rng(seed)
    by_example = np.stack([values[name].mean(axis=0) for name in names], axis=1).reshape(n, -1)
    drawn = np.concatenate([draw(rng, n, size) @ by_example / n for size in blocks(n_resamples, BLOCK)])
    drawn = drawn.reshape(n_resamples, len(names), n_outcomes)
    if with_seeds:
        parts = _seed_parts(values, n_resamples, rng)
        for place, name in enumerate(names):
            drawn[:, place] += parts.get(name, 0.0)
    return Means(
        {name: values[name].mean(axis=(0, 1)) for name in names},
        {name: drawn[:, place] for place, name in enumerate(names)},
    )


def _seed_parts(values: Mapping[str, np.ndarray], n_resamples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """By set, draws `[resamples, outcomes]` of the error of its mean over seeds."""
    trained = {name: one.mean(axis=1) for name, one in values.items() if name != "rope"}  # [seeds, outcomes]
    deviations = {name: one - one.mean(axis=0) for name, one in trained.items()}
    degrees = sum(len(one) - 1 for one in trained.values())
    if not degrees:
        return {}
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
    return parts
