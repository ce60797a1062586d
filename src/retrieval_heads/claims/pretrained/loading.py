"""Arrays of runs from the raw tables of the pretrained study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.pretrained.resampling import LEAST_SEEDS
from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE

NAMED = ("high_high", "low_low", "symbolic")
"""The training sets of the contrasts of claim C1."""

SYNTHETIC = ("high_high", "high_low", "low_high", "low_low", "symbolic")
"""Those of claims C2 and C5."""

THETA_ALONE = "rope"
CONTROLS = (THETA_ALONE, "base")

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


def by_example(rows: pd.DataFrame, columns: Sequence[str], where: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Rows of one training set as an array.

    Args:
        rows: with `seed`, `example` and the columns, one row for each seed and example.
        columns: of numbers.
        where: for errors.

    Returns:
        float64 `[seeds, examples, columns]` and the seeds.

    Raises:
        ResultError: a column that is not there, a row that stands twice or lacks, or a value that is no finite number.
    """
    need(rows, ["seed", "example", *columns], where)
    seeds, examples = sorted(rows["seed"].unique()), sorted(rows["example"].unique())
    ordered = rows.sort_values(["seed", "example"])
    pairs = ordered[["seed", "example"]].drop_duplicates()
    if len(pairs) != len(rows) or len(rows) != len(seeds) * len(examples):
        raise ResultError("not one row for each seed and example", where=where,
                          value=(len(rows), len(seeds), len(examples)), remedy="Make the runs again.")
    values = ordered[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        column = columns[int(np.argmax(~np.isfinite(values).all(axis=0)))]
        raise ResultError("a value that is no finite number", where=f"{where}, column {column}",
                          remedy="Make the runs again.")
    return values.reshape(len(seeds), len(examples), len(columns)), tuple(int(seed) for seed in seeds)


def runs_by_example(
    table: pd.DataFrame, task: str, columns: Sequence[str], where: str, extra: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, np.ndarray]:
    """float64 `[seeds, examples, columns]` of every training set of one task; only examples that all sets have count.

    Args:
        table: with `task`, `condition`, `seed`, `example` and the columns.
        extra: rows of further sets, by name, whose seed does not matter (theta alone).
    """
    need(table, ["task", "condition", "seed", "example"], where)
    parts = {str(name): rows for name, rows in table[table["task"] == task].groupby("condition")}
    parts |= {name: rows.assign(seed=0) for name, rows in (extra or {}).items() if len(rows)}
    if not parts:
        return {}
    common = set.intersection(*(set(rows["example"]) for rows in parts.values()))
    if not common or any(set(rows["example"]) != common for rows in parts.values()):
        raise ResultError("runs that were not tested on the same examples", where=f"table {where}, {task}",
                          value={name: rows["example"].nunique() for name, rows in parts.items()},
                          remedy="Make the runs again with one number of test examples.")
    return {name: by_example(parts[name], columns, f"table {where}, {task}, {name}")[0]
            for name in in_order(list(parts))}


def enough_seeds(values: Mapping[str, np.ndarray], names: Sequence[str]) -> bool:
    """Whether every one of the sets is there with as many seeds as a rule needs."""
    return all(name in values and len(values[name]) >= LEAST_SEEDS for name in names)


def too_few(values: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """The sentence that says which sets lack seeds; empty when none does."""
    lacking = [f"`{name}` ({len(values[name]) if name in values else 0})" for name in names
               if name not in values or len(values[name]) < LEAST_SEEDS]
    if not lacking:
        return ""
    return f"Fewer than {LEAST_SEEDS} seeds of {', '.join(lacking)}: intervals are over examples only."
