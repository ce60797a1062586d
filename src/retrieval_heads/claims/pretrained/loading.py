"""Arrays of runs from the raw tables of the pretrained study: answers, losses, and the strengths of heads.

Heads are compared on the halves of the probe set, the examples of even and of odd index: a run with the `real` runs of
other seeds, its half with their other half, both ways round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import RAISED
from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.strength import gained

NAMED = ("high_high", "low_low", "symbolic")
"""The training sets of the contrasts of claim C1."""

SYNTHETIC = ("high_high", "high_low", "low_high", "low_low", "symbolic")
"""Those of claims C2 and C5."""

THETA_ALONE = RAISED
CONTROLS = (THETA_ALONE, "base")

LEAST_SEEDS = 3
"""Seeds that every set of a rule needs before it decides."""

COUNTS = (3, 7, 14)
"""Numbers of heads that are knocked out or patched."""

MOST = 14
"""Of them that by which shares are decided."""

STRONGEST = "retrieval"
KEY = ["condition", "seed", "example", "layer", "head"]

TASKS = ("mdqa", "musique")
CHAPTER = "10_pretrained"


def in_order(names: Sequence[str]) -> list[str]:
    """Conditions in the order of the study's tables, unknown ones last."""
    given = sorted(set(names))
    return [name for name in CONDITIONS if name in given] + [name for name in given if name not in CONDITIONS]


def ranked(names: Sequence[str]) -> list[str]:
    """The training sets that claim C3 ranks: all but `real` and the controls."""
    return [name for name in in_order(names)
            if name not in (REFERENCE, *CONTROLS) and not kind_of(name).control]


def runs_by_example(
    table: pd.DataFrame, task: str, columns: Sequence[str], where: str, extra: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, np.ndarray]:
    """float64 `[seeds, examples, columns]` of every training set of one task; only examples that all sets have count.

    Args:
        table: with `task`, `condition`, `seed`, `example` and the columns.
        extra: rows of further sets, by name, whose seed does not matter (theta alone).
    """
    parts = {str(name): rows for name, rows in table[table["task"] == task].groupby("condition")}
    parts |= {name: rows.assign(seed=0) for name, rows in (extra or {}).items() if len(rows)}
    if not parts:
        return {}
    common = set.intersection(*(set(rows["example"]) for rows in parts.values()))
    if not common or any(set(rows["example"]) != common for rows in parts.values()):
        raise ResultError("runs that were not tested on the same examples", where=f"table {where}, {task}",
                          value={name: rows["example"].nunique() for name, rows in parts.items()},
                          remedy="Make the runs again with one number of test examples.")
    return {name: _array(parts[name], columns, f"table {where}, {task}, {name}") for name in in_order(list(parts))}


def _array(rows: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    """Rows of one training set, one for each seed and example, as float64 `[seeds, examples, columns]`."""
    n_seeds, n = rows["seed"].nunique(), rows["example"].nunique()
    if rows.duplicated(["seed", "example"]).any() or len(rows) != n_seeds * n:
        raise ResultError("not one row for each seed and example", where=where, value=(len(rows), n_seeds, n),
                          remedy="Make the runs again.")
    ordered = rows.sort_values(["seed", "example"])[list(columns)]
    values = ordered.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        column = columns[int(np.argmax(~np.isfinite(values).all(axis=0)))]
        raise ResultError("a value that is not a finite number", where=f"{where}, column {column}",
                          remedy="Make the runs again.")
    return values.reshape(n_seeds, n, len(columns))


def few_seeds(n_seeds: Mapping[str, int], names: Sequence[str]) -> str:
    """The sentence that says which of the sets have fewer seeds than a rule needs; empty when none has."""
    lacking = [f"`{name}` ({n_seeds.get(name, 0)})" for name in names if n_seeds.get(name, 0) < LEAST_SEEDS]
    if not lacking:
        return ""
    return f"Fewer than {LEAST_SEEDS} seeds of {', '.join(lacking)}: intervals are over examples only."


def losses_by_set(rows: pd.DataFrame, column: str, where: str) -> dict[tuple[str, int], np.ndarray]:
    """By name and number of heads, float64 `[seeds, examples]`: mean over the draws of a set.

    Args:
        rows: of one run condition and task.
        column: of losses; sets with an empty cell are left out.
    """
    if rows.duplicated(["seed", "set", "k", "draw", "example"]).any():
        raise ResultError("a row that stands twice", where=where, remedy="Make the runs again.")
    seeds, examples = sorted(rows["seed"].unique()), sorted(rows["example"].unique())
    found = {}
    for (name, k), part in rows.groupby(["set", "k"]):
        if part[column].isna().any():
            continue
        table = part.pivot_table(index="seed", columns="example", values=column).reindex(seeds, columns=examples)
        if table.isna().any(axis=None):
            if len(table.dropna()) < len(seeds):
                continue  # a control that not every seed has
            raise ResultError("a set that some examples lack", where=where, value=(name, int(k)),
                              remedy="Make the runs again.")
        found[str(name), int(k)] = table.to_numpy(np.float64)
    return found


def by_condition(table: pd.DataFrame, task: str) -> dict[str, pd.DataFrame]:
    """The rows of one task by training set, in order."""
    part = table[table["task"] == task]
    groups = {str(name): rows for name, rows in part.groupby("condition")}
    return {name: groups[name] for name in in_order(list(groups))}


@dataclass(frozen=True, eq=False)
class Probed:
    """The heads of one task by probe example.

    Attributes:
        conditions, seeds: labels of the axes; without theta alone.
        there: bool `[conditions, seeds]`, whether the run was scored.
        halves: two float32 `[conditions, seeds, examples of the half, layers, heads]`: score less chance level.
        alone: the same of theta alone, `[examples of the half, layers, heads]`; None where it was not scored.
    """

    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    there: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    alone: tuple[np.ndarray, np.ndarray] | None

    @property
    def reference(self) -> int | None:
        """The place of the real runs among the conditions; None where there are none."""
        return self.conditions.index(REFERENCE) if REFERENCE in self.conditions else None

    def strengths(self) -> np.ndarray:
        """float64 `[2 halves, conditions, seeds, layers, heads]`: means over examples, not below 0; NaN without run."""
        means = [half.mean(axis=2, dtype=np.float64) for half in self.halves]
        return np.where(self.there[..., None, None], np.maximum(means, 0.0), np.nan)

    def gained_strengths(self) -> np.ndarray | None:
        """The same of what is gained over theta alone; None where that was not scored."""
        alone = self.alone_strengths()
        return None if alone is None else gained(self.strengths(), alone[:, None, None])

    def alone_strengths(self) -> np.ndarray | None:
        """Strengths of theta alone, `[2 halves, layers, heads]`."""
        if self.alone is None:
            return None
        return np.maximum([half.mean(axis=0, dtype=np.float64) for half in self.alone], 0.0)


def probed(head_hits: pd.DataFrame, head_scores: pd.DataFrame, task: str) -> Probed | None:
    """The heads of one task; None where no run was scored.

    Args:
        head_hits: the table of this name; heads and examples without a row score 0.
        head_scores: the table of this name, which says how many heads and probe examples there are.
    """
    hits, heads = (one[(one["task"] == task) & (one["kind"] == "copy") & (one["score_mode"] == "forced")]
                   for one in (head_hits, head_scores))
    hits, heads = (one[one["condition"] != "base"] for one in (hits, heads))
    runs = heads[["condition", "seed"]].drop_duplicates()
    if not len(runs):
        return None
    _check(hits, heads, task)
    n, shape = int(heads["n_used"].iloc[0]), (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    conditions = [name for name in in_order(list(runs["condition"])) if name not in CONTROLS]
    seeds = sorted(runs.loc[~runs["condition"].isin(CONTROLS), "seed"].unique())
    cube = _cube(hits[hits["condition"].isin(conditions)], {"condition": conditions, "seed": seeds}, n, shape)
    there = np.zeros((len(conditions), len(seeds)), dtype=bool)
    for row in runs[runs["condition"].isin(conditions)].itertuples():
        there[conditions.index(row.condition), seeds.index(row.seed)] = True
    alone = None
    if (runs["condition"] == THETA_ALONE).any():
        own = _cube(hits[hits["condition"] == THETA_ALONE], {}, n, shape)
        alone = own[::2], own[1::2]
    return Probed(tuple(conditions), tuple(map(int, seeds)), there, (cube[:, :, ::2], cube[:, :, 1::2]), alone)


def _check(hits: pd.DataFrame, heads: pd.DataFrame, task: str) -> None:
    numbers = sorted(heads["n_used"].unique())
    runs, scored = (set(map(tuple, one[["condition", "seed"]].drop_duplicates().to_numpy().tolist()))
                    for one in (hits, heads))
    problem = None
    if len(numbers) > 1 or (len(hits) and hits["example"].max() >= numbers[0]):
        problem = "runs that were not scored on the same probe examples, or examples that were left out", numbers
    elif runs - scored:
        problem = "runs without rows in `head_scores`", sorted(runs - scored)
    elif hits.duplicated(KEY).any():
        problem = "a row that stands twice", hits[hits.duplicated(KEY)].iloc[0][KEY].to_dict()
    if problem:
        raise ResultError(problem[0], where=f"table head_hits, {task}", value=problem[1],
                          remedy="Make the detection again.")


def _cube(hits: pd.DataFrame, axes: Mapping[str, list], n: int, shape: tuple[int, int]) -> np.ndarray:
    """float32 `[*axes, examples, layers, heads]` of score less chance."""
    places = [pd.Categorical(hits[name], labels).codes.astype(np.intp) for name, labels in axes.items()]
    cube = np.zeros((*(len(labels) for labels in axes.values()), n, *shape), dtype=np.float32)
    index = (*places, *(hits[name].to_numpy(np.intp) for name in ("example", "layer", "head")))
    cube[index] = (hits["score"] - hits["chance"]).to_numpy(np.float32)
    return cube
