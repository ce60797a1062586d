"""All runs of a task as one array: the scores of their heads, and their answers.

The claims compare every run with the real runs of the same base model under *other* seeds: runs of one seed start from
the same random adapter. With all runs in one array `[conditions, base models, seeds, layers, heads]` all pairs are
compared at once. A measure of pairs is an array `[..., base models, seeds of the run, seeds of the real run]`, NaN
where the pair does not count. Answers are compared on the same base model, seed and example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.runs import cells, claimed, one_sign
from retrieval_heads.data.example import task_of
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.resample import LEVEL, RESAMPLES, bootstrap_crossed, resampled_sums

BASE = "base"
"""The condition of the un-tuned base models; also the name of the key column of base models."""

RAISED = "rope"
"""The condition of the un-tuned base models with the raised theta, scored at the length of the runs."""

HALVES = ("score_even", "score_odd")
"""Columns of scores from one half of the probe examples each."""

WAYS = ((0, 1), (1, 0))
"""The half of the run, and that of the real run."""

LEAST_SEEDS = 3
"""For an interval over pairs: with two seeds, half of the samples would have no pair of different seeds."""

EXACT, SCORE = "exact_match", "score"
"""The two columns of the table `answers` that hold scores."""


@dataclass(frozen=True, eq=False)
class TaskHeads:
    """Scores of the heads of one task, of the kind that its retrieval heads are about.

    Attributes:
        task: its name.
        conditions, bases, seeds: the labels of the axes, in order; `conditions` without the un-tuned base models.
        runs: for each column asked for, float64 `[conditions, bases, seeds, layers, heads]`; NaN where there is no run.
        base: the same of the un-tuned base models, `[bases, layers, heads]`, at their own length; NaN where they were
            not scored.
        raised: the same with the raised theta, at the length of the runs: what a run has gained is told by these.
    """

    task: str
    conditions: tuple[str, ...]
    bases: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: dict[str, np.ndarray]
    base: dict[str, np.ndarray]
    raised: dict[str, np.ndarray]

    @property
    def reference(self) -> int | None:
        """The place of the real runs among the conditions; None where there are none."""
        return self.conditions.index(REFERENCE) if REFERENCE in self.conditions else None

    def of_other_seeds(self, pairs: np.ndarray) -> np.ndarray:
        """A measure of pairs, `[..., seeds, seeds]`, with NaN for runs of one seed."""
        return np.where(np.eye(len(self.seeds), dtype=bool), np.nan, pairs)

    def rows(self, columns: Mapping[str, np.ndarray], **same: Any) -> list[dict[str, Any]]:
        """One row per condition, with its cell of each array `[conditions]` and those that are the same in all."""
        return [{"task": self.task, "condition": condition, **same,
                 **{name: values[i].item() for name, values in columns.items()}}
                for i, condition in enumerate(self.conditions)]


def flat(heads: np.ndarray) -> np.ndarray:
    """`[..., layers, heads]` as `[..., heads of all layers]`."""
    return heads.reshape(*heads.shape[:-2], -1)


def task_heads(head_scores: pd.DataFrame, columns: Sequence[str] = ("score",)) -> list[TaskHeads]:
    """The scores of each task, in order of its name, of the conditions that the claims are about (`claimed`).

    Args:
        head_scores: the table `head_scores`, of any runs. Where it has scores by forced answers, these are taken.
        columns: names of its columns of numbers; empty cells are NaN.
    """
    kinds = {task: task_of(task).head_score for task in head_scores["task"].unique()}
    mode = "forced" if (head_scores["score_mode"] == "forced").any() else head_scores["score_mode"].min()
    wanted = (head_scores["kind"] == head_scores["task"].map(kinds)) & (head_scores["score_mode"] == mode)
    return [_task_heads(str(task), part, columns) for task, part in head_scores[wanted].groupby("task")]


def _task_heads(task: str, part: pd.DataFrame, columns: Sequence[str]) -> TaskHeads:
    of_runs = part[part["condition"].isin(claimed(part["condition"].unique()))]
    bases = tuple(sorted(part[BASE].unique()))
    conditions, seeds = tuple(claimed(of_runs["condition"].unique())), tuple(sorted(of_runs["seed"].unique()))
    shapes = part.groupby(BASE)[["layer", "head"]].max() + 1
    if len(shapes.drop_duplicates()) > 1:
        raise ResultError("base models with different numbers of heads", where=f"head_scores, {task}",
                          value=shapes.to_numpy().tolist(), remedy="Study base models of one shape.")
    shape = tuple(int(size) for size in shapes.iloc[0])
    axes = [("condition", conditions), (BASE, bases), ("seed", seeds)]
    untuned = []
    for name in (BASE, RAISED):
        own = part[part["condition"] == name]
        own = own[own["seed"] == own.groupby(BASE)["seed"].transform("min")]
        untuned.append(_cubes(own, axes[1:2], shape, columns))
    return TaskHeads(task, conditions, bases, tuple(map(int, seeds)), _cubes(of_runs, axes, shape, columns), *untuned)


def _cubes(
    rows: pd.DataFrame, axes: Sequence[tuple[str, Sequence]], shape: tuple[int, ...], columns: Sequence[str],
) -> dict[str, np.ndarray]:
    """Of each column an array with the axes and then `shape`, layers and heads; NaN where there is no row."""
    places = [pd.Categorical(rows[name], list(labels)).codes.astype(np.intp) for name, labels in axes]
    places = (*places, rows["layer"].to_numpy(), rows["head"].to_numpy())
    sizes = (*(len(labels) for _, labels in axes), *shape)
    cubes = {}
    for name in columns:
        cubes[name] = np.full(sizes, np.nan)
        cubes[name][places] = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64)
    return cubes


def known_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def pair_means(values: np.ndarray) -> np.ndarray:
    """Means `[...]` over pairs and base models, each pair that counts with the same weight."""
    return known_mean(values, (-3, -2, -1))


def seed_means(values: np.ndarray) -> np.ndarray:
    """Means `[...]` over pairs of seeds, with an axis of base models those of each of them."""
    return known_mean(values, (-2, -1))


def pair_intervals(values: np.ndarray, *, n_resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[...]` of the intervals of `pair_means`; NaN under three seeds, or without a pair.

    Base models, the runs' seeds and the real runs' seeds are drawn independently, with the same samples for all
    measures `[..., bases, seeds, seeds]`. Where both are real runs, the two axes are the same runs, and the interval is
    approximate.
    """
    outer, axes = values.shape[:-3], values.shape[-3:]
    ends = np.full((2, int(np.prod(outer))), np.nan)
    columns = values.reshape(ends.shape[1], -1).T
    known = ~np.isnan(columns)
    defined = known.any(axis=0)
    if min(axes[1:]) >= LEAST_SEEDS and defined.any():
        both = np.concatenate([np.where(known, columns, 0.0), known], axis=1)[:, np.tile(defined, 2)]
        drawn, _ = resampled_sums(both, [one.ravel() for one in np.indices(axes)], n_resamples=n_resamples)
        total, count = np.split(drawn, 2, axis=1)
        means = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
        ends[:, defined] = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return ends[0].reshape(outer), ends[1].reshape(outer)


def claim_column(task: str) -> str:
    """The column of `answers` by which the claims are decided: citation F1 for `summhay`, exact match otherwise."""
    return SCORE if task_of(task).cites else EXACT


def metric_name(task: str, column: str | None = None) -> str:
    """The name of the metric in a column of `answers`; None for the one by which the claims are decided."""
    return task_of(task).main_metric if (column or claim_column(task)) == SCORE else EXACT


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Scores of one task in one metric.

    Attributes:
        task, metric: their names.
        conditions, bases, seeds, examples: labels of the axes, in order.
        scores: float64 `[conditions, bases, seeds, examples]`, fractions; NaN throughout where there is no run.
    """

    task: str
    metric: str
    conditions: tuple[str, ...]
    bases: tuple[str, ...]
    seeds: tuple[int, ...]
    examples: tuple[int, ...]
    scores: np.ndarray

    def together(self, conditions: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """The scores of several conditions under the same base models and seeds.

        Returns:
            float64 `[conditions, bases, seeds, examples]` without gaps: the base models that have all the conditions
            under some seed, and the seeds under which each of these has them; and the names of these base models. Empty
            when a condition is not there, or no seed is common.
        """
        nothing = np.empty((len(conditions), 0, 0, self.scores.shape[-1])), ()
        if not set(conditions) <= set(self.conditions):
            return nothing
        scores = self.scores[[self.conditions.index(name) for name in conditions]]
        there = ~np.isnan(scores[..., 0]).any(axis=0)  # [bases, seeds]
        bases = np.flatnonzero(there.any(axis=1))
        seeds = np.flatnonzero(there[bases].all(axis=0)) if len(bases) else bases
        if not len(seeds):
            return nothing
        return scores[:, bases][:, :, seeds], tuple(self.bases[index] for index in bases)

    def difference(self, values: np.ndarray, bases: Sequence[str], n_resamples: int) -> dict[str, Any]:
        """Cells of paired differences `[bases, seeds, examples]`: mean with interval, counts, and whether the mean has
        one sign in every base model of the study."""
        by_base = pd.Series(values.mean(axis=(1, 2)), index=list(bases))
        return {**cells(bootstrap_crossed(values, n_resamples=n_resamples)), **counts(values),
                "same_sign": one_sign(by_base, self.bases)}


def counts(values: np.ndarray) -> dict[str, int]:
    """Numbers of examples, seeds and base models of an array `[..., bases, seeds, examples]`."""
    return dict(zip(("n_bases", "n_seeds", "n"), values.shape[-3:], strict=True))


def task_scores(answers: pd.DataFrame, column: str | None = None) -> list[TaskScores]:
    """The scores of each task, in order of its name.

    Args:
        column: `exact_match` or `score`; the one that decides the claims of each task when None.
    """
    return [_task_scores(str(task), part, column or claim_column(str(task))) for task, part in answers.groupby("task")]


def _task_scores(task: str, part: pd.DataFrame, column: str) -> TaskScores:
    axes = [pd.factorize(part[name], sort=True) for name in ("condition", BASE, "seed", "example")]
    scores = np.full([len(labels) for _, labels in axes], np.nan)
    scores[tuple(codes for codes, _ in axes)] = part[column].to_numpy(np.float64)
    known = ~np.isnan(scores)
    if (known.any(axis=-1) != known.all(axis=-1)).any():
        raise ResultError("runs that were not tested on the same examples", where=f"table answers, {task}",
                          value=sorted(set(known.sum(axis=-1).ravel().tolist()) - {0}),
                          remedy="Make the runs again with one number of test examples.")
    conditions, bases, seeds, examples = (tuple(labels.tolist()) for _, labels in axes)
    return TaskScores(task, metric_name(task, column), conditions, bases, seeds, examples, scores)
