"""The answers of all runs of a task as one array: conditions are compared on the same base, seed and example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.repeated import one_row_a_key
from retrieval_heads.data.example import task_of
from retrieval_heads.errors import ResultError

KEY = ("task", "condition", "base", "seed", "example")
EXACT, SCORE = "exact_match", "score"
"""The two columns of the table `answers` that hold scores."""


def claim_column(task: str) -> str:
    """The column of `answers` by which the claims are decided: citation F1 for `summhay`, exact match otherwise."""
    return SCORE if task_of(task).cites else EXACT


def metric_name(task: str, column: str) -> str:
    """The name of the metric in a column of `answers`."""
    return task_of(task).main_metric if column == SCORE else EXACT


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


def task_scores(answers: pd.DataFrame, column: str | None = None) -> list[TaskScores]:
    """The scores of each task, in order of its name.

    Args:
        answers: the table `answers`.
        column: `exact_match` or `score`; the one that decides the claims of each task when None.

    Raises:
        ResultError: a column that is not there, a row that stands twice, a score that is no fraction, or runs of a task
            that were not tested on the same examples.
    """
    need(answers, [*KEY, *((EXACT, SCORE) if column is None else (column,))], "answers")
    return [
        _task_scores(str(task), part, column or claim_column(str(task)))
        for task, part in one_row_a_key(answers, KEY, "answers").groupby("task", sort=True)
    ]


def _task_scores(task: str, part: pd.DataFrame, column: str) -> TaskScores:
    axes = [pd.factorize(part[name], sort=True) for name in KEY[1:]]
    scores = np.full([len(labels) for _, labels in axes], np.nan)
    scores[tuple(codes for codes, _ in axes)] = fractions(part[column], f"table answers, column {column}")
    known = ~np.isnan(scores)
    if (known.any(axis=-1) != known.all(axis=-1)).any():
        raise ResultError("runs that were not tested on the same examples", where=f"table answers, {task}",
                          value=sorted(set(known.sum(axis=-1).ravel().tolist()) - {0}),
                          remedy="Make the runs again with one number of test examples.")
    conditions, bases, seeds, examples = (tuple(labels.tolist()) for _, labels in axes)
    return TaskScores(task, metric_name(task, column), conditions, bases, seeds, examples, scores)


def fractions(cells: pd.Series, where: str) -> np.ndarray:
    """A column as float64; `ResultError` where a cell is no number from 0 to 1."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    if not ((numbers >= 0) & (numbers <= 1)).all():
        wrong = cells.to_numpy()[~((numbers >= 0) & (numbers <= 1))][0]
        raise ResultError("not a number from 0 to 1", where=where, value=wrong, remedy="Make the table again.")
    return numbers
