"""Tidy tables of runs, one row a task, condition, base model and seed, made fit for comparisons of conditions.

Conditions can only be compared when each stands under the same base models and seeds; where a value is missing for one,
a mean over the rest would differ by what was left out. `balanced` keeps the largest such part in two steps: conditions
without any value in a task go first, then the base models and seeds that some condition left lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from retrieval_heads.errors import ConfigError

TASK, CONDITION = "task", "condition"
REPEAT = ("base", "seed")
"""What a condition is repeated over."""

KEYS = (TASK, CONDITION, *REPEAT)


def check_runs(runs: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """The columns `KEYS` and `values` of a table of runs, in order of the keys; the values as float64.

    Raises:
        ConfigError: no table, a column that is not there or not of numbers, a value that is infinite, a key that is
            missing or stands twice.
    """
    if not isinstance(runs, pd.DataFrame):
        raise ConfigError("not a table", where="runs", value=type(runs).__name__, remedy="Give a DataFrame.")
    wanted = list(dict.fromkeys([*KEYS, *values]))
    absent = [name for name in wanted if name not in runs]
    if absent:
        raise ConfigError("columns that are not there", where="runs", value=absent, remedy=f"Give {', '.join(wanted)}.")
    table = runs[wanted].copy()
    for name in values:
        try:
            table[name] = table[name].astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError("not a column of numbers", where=name, remedy="Give one number a run.") from error
        if np.isinf(table[name]).any():
            raise ConfigError("an infinite value", where=name, remedy="Give NaN where a value is not defined.")
    keys = table[list(KEYS)]
    if keys.isna().any(axis=None) or keys.duplicated().any():
        wrong = keys[keys.isna().any(axis=1) | keys.duplicated()].astype(str).iloc[0].tolist()
        raise ConfigError(
            "a run whose key is missing or stands twice", where="runs", value=wrong,
            remedy=f"Give one row for each {', '.join(KEYS)}.",
        )
    return table.sort_values(list(KEYS), kind="stable", ignore_index=True)


def balanced(runs: pd.DataFrame, values: Sequence[str], *, joint: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """The runs with all `values`, in which every condition of a task has the same base models and seeds.

    Args:
        runs: a table with the columns `KEYS` and `values`; NaN where a value is not defined.
        values: the columns that have to be defined.
        joint: keep only conditions that are in every task (that has any value).

    Returns:
        The rows kept, in order of the keys, and the conditions that were left out of some task, as `task/condition`.
        The table is empty when no base model and seed has all conditions.

    Raises:
        ConfigError: as in `check_runs`.
    """
    table = check_runs(runs, values)
    asked = set(map(tuple, table[[TASK, CONDITION]].drop_duplicates().to_numpy()))
    table = table.dropna(subset=list(values))
    if joint:
        tasks = table.groupby(CONDITION)[TASK].transform("nunique")
        table = table[tasks == table[TASK].nunique()]
    n_conditions = table.groupby(TASK)[CONDITION].transform("nunique")
    cell = table.groupby([TASK, *REPEAT])[CONDITION].transform("size")
    table = table[cell == n_conditions].reset_index(drop=True)
    kept = set(map(tuple, table[[TASK, CONDITION]].drop_duplicates().to_numpy()))
    return table, sorted("/".join(map(str, one)) for one in asked - kept)


def condition_means(runs: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """Means of a balanced table over base models and seeds: one row a task and condition, with `values`, `n_runs`."""
    groups = runs.groupby([TASK, CONDITION], sort=True)
    return groups[list(values)].mean().assign(n_runs=groups.size()).reset_index()
