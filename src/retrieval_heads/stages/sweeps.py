"""From the scores of every example under every set of heads to means with intervals.

All means of one run are over the same examples, so one list of bootstrap samples serves them all: a mean, a difference
of two sets and a share of a gap are then functions of the same samples, and pairing comes by itself. Where a random
control was drawn several times, examples and draws are resampled independently of each other (the pigeonhole bootstrap,
Owen 2007, as `stats.resample.bootstrap_two_level` does), so that the interval counts both sources of chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from retrieval_heads.stages.head_sets import HeadSet
from retrieval_heads.stats.resample import NAN, Interval, draw, percentile_interval

METRICS = {"exact_match": "forced_exact_match", "token_accuracy": "token_accuracy", "nll": "nll"}
"""The metrics of a sweep, and their names in the tables."""


PLACED = ("moved", "moved_group", "groups")
"""What is said of where the heads of a set are."""

Scores = dict[str, np.ndarray]
"""For each metric float64 `[sets, n]`: one row per set (several for a control that was drawn several times)."""


def per_example(rows: Iterable[Mapping[str, Any]], sets: Iterable[HeadSet], mode: str) -> dict[HeadSet, Scores]:
    """The scores `[1, n]` of each set, in the order of the examples, from the rows of a sweep in one mode."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["mode"] == mode:
            found.setdefault(row["set"], []).append(row)
    return {
        one: {
            name: np.array([[row[metric] for row in found[one.label]]], dtype=np.float64)
            for metric, name in METRICS.items()
        }
        for one in sets
    }


def mean_draws(scores: Mapping[HeadSet, Scores]) -> dict[HeadSet, Scores]:
    """For each control that was drawn one set that stands for its draws (draw 0), with the scores of all of them."""
    drawn: dict[str, list[HeadSet]] = {}
    for one in scores:
        if one.draw:
            drawn.setdefault(one.name, []).append(one)
    return {
        replace(sets[0], draw=0, **{name: float(np.mean([getattr(one, name) for one in sets])) for name in PLACED}):
            together(scores[one] for one in sets)
        for sets in drawn.values()
    }


def together(draws: Iterable[Scores]) -> Scores:
    """The scores `[draws, n]` of several draws of one control."""
    draws = list(draws)
    return {metric: np.concatenate([one[metric] for one in draws]) for metric in METRICS.values()}


def loss(metric: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How much worse `after` is than `before`: positive is worse, whichever way the metric points."""
    return after - before if metric == "nll" else before - after


class Resamples:
    """Bootstrap samples of `n` examples.

    Args:
        n: number of examples.
        n_resamples: number of samples.
        seed: of the samples.
    """

    def __init__(self, n: int, n_resamples: int, seed: int = 0) -> None:
        self.n, self.n_resamples, self.seed = n, n_resamples, seed
        # how often each example is in each sample, as a share
        self.weights = draw([seed, 0], n, n_resamples) / n

    def means(self, values: np.ndarray) -> np.ndarray:
        """float64 `[n_resamples]`: the mean of `values` `[draws, n]` in each sample of examples and of draws."""
        draws = len(values)
        # not by BLAS, whose sums depend on the number of threads in the last digit
        means = np.einsum("be,de->bd", self.weights, values)
        if draws == 1:
            return means[:, 0]
        return (means * draw([self.seed, draws], draws, self.n_resamples) / draws).sum(1)

    def interval(self, values: np.ndarray) -> Interval:
        """The mean of `values` `[draws, n]` with its 95% interval; without one when there is one example."""
        return self.between(float(values.mean()), self.means(values))

    def between(self, estimate: float, resampled: np.ndarray) -> Interval:
        """An estimate between the percentiles of its samples, which are of one kind with those of `means`."""
        return Interval(estimate, NAN, NAN) if self.n == 1 else percentile_interval(estimate, resampled)


def as_cells(interval: Interval, names: tuple[str, str, str] = ("value", "low", "high")) -> dict[str, float | None]:
    """An interval as cells of a table: eight digits, and empty where a number is not defined."""
    return {name: None if np.isnan(end) else float(f"{end:.8g}") for name, end in zip(names, interval, strict=True)}
