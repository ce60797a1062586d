"""The head scores of all runs of a task as one array, and which conditions the claims are about.

The claims compare every run with the real runs of the same base model under *other* seeds: runs of one seed start from
the same random adapter. With all runs in one array `[conditions, base models, seeds, layers, heads]` this is a product
of matrices, for all pairs at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.data.example import task_of
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE

BASE = "base"
"""The condition of the un-tuned base models; also the name of the key column of base models."""

RAISED = "rope"
"""The condition of the un-tuned base models with the raised theta, scored at the length of the runs."""


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
    def other_seeds(self) -> np.ndarray:
        """bool `[seeds, seeds]`, the pairs of different seeds."""
        return ~np.eye(len(self.seeds), dtype=bool)

    def real(self, column: str) -> np.ndarray | None:
        """float64 `[bases, seeds, layers, heads]` of the real runs; None where there are none."""
        return self.runs[column][self.conditions.index(REFERENCE)] if REFERENCE in self.conditions else None


def task_heads(head_scores: pd.DataFrame, columns: Sequence[str] = ("score",)) -> list[TaskHeads]:
    """The scores of each task, in order of its name, of the conditions that the claims are about (`claimed`).

    Args:
        head_scores: the table `head_scores`, of any runs. Where it has scores by forced answers, these are taken.
        columns: names of its columns of numbers; empty cells are NaN.

    Raises:
        ResultError: a column that is not there, a head that stands twice, or base models of different shapes.
    """
    need(head_scores, ["task", "condition", "seed", BASE, "kind", "score_mode", "layer", "head", *columns],
         "head_scores")
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
        untuned.append(_cubes(task, own, axes[1:2], shape, columns))
    return TaskHeads(task, conditions, bases, tuple(map(int, seeds)), _cubes(task, of_runs, axes, shape, columns),
                     *untuned)


def _cubes(
    task: str, rows: pd.DataFrame, axes: Sequence[tuple[str, Sequence]], shape: tuple[int, ...], columns: Sequence[str],
) -> dict[str, np.ndarray]:
    """Of each column an array with the axes and then `shape`, layers and heads; NaN where there is no row."""
    places = [pd.Categorical(rows[name], list(labels)).codes.astype(np.intp) for name, labels in axes]
    places = (*places, rows["layer"].to_numpy(), rows["head"].to_numpy())
    sizes = (*(len(labels) for _, labels in axes), *shape)
    if len(rows) and np.bincount(np.ravel_multi_index(places, sizes)).max() > 1:
        raise ResultError("a head that stands twice", where=f"head_scores, {task}", remedy="Give one row a head.")
    cubes = {}
    for name in columns:
        cubes[name] = np.full(sizes, np.nan)
        cubes[name][places] = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64)
    return cubes


def need(table: pd.DataFrame, columns: Iterable[str], where: str) -> None:
    """`ResultError` where the table has not all of the columns."""
    absent = [name for name in columns if name not in table]
    if absent:
        raise ResultError("columns that are not there", where=f"table {where}", value=absent,
                          remedy="Make the table again with this version.")


def without_blanks(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with None for empty text, as it comes back from a file."""
    return table.assign(**{name: table[name].astype(object).where(table[name] != "", None) for name in columns})


def claimed(names: Iterable[str]) -> list[str]:
    """Those that the claims are about, known ones first: no controls, base models, and other numbers of examples."""
    given = dict.fromkeys(names)
    own = [name for name in given if name not in CONDITIONS and name not in ("base", "rope")]
    return [name for name in CONDITIONS if name in given and not (kind_of(name).control or kind_of(name).sized)] + own


def synthetic(names: Iterable[str]) -> list[str]:
    """The synthetic conditions among them (ten in the report), without mixtures."""
    return [name for name in claimed(names) if kind_of(name).synthetic and not kind_of(name).members]


def mixtures(names: Iterable[str]) -> list[str]:
    """The mixtures among them."""
    return [name for name in claimed(names) if kind_of(name).members]
