"""Tidy tables of runs, one row per task, condition, base model and seed, and correlations over their conditions.

Conditions can only be compared when each stands under the same base models and seeds; where a value is missing for one,
a mean over the rest would differ by what was left out. `balanced` keeps the largest such part in two steps: conditions
without any value in a task go first, then the base models and seeds that some condition left lacks.

A condition is the unit of evidence: its seeds and base models repeat it, and in several tasks it is the same recipe.
Therefore values are averaged over base models and seeds first, permutations exchange whole conditions, with all their
tasks (the whole-block exchangeability of Winkler et al. 2015), and the bootstrap draws whole conditions (Davison and
Hinkley 1997, section 3.8). The correlation over all tasks takes ranks inside each task, so that a task that is easier
for all is no correlation. Under 4 conditions no p below 0.05 exists; with tasks pooled there are no more conditions
than in one, as they are exchanged together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.stats.correlation import PERMUTATIONS, correlate
from retrieval_heads.stats.resample import RESAMPLES

TASK, CONDITION = "task", "condition"
REPEAT = ("base", "seed")
"""What a condition is repeated over."""

KEYS = (TASK, CONDITION, *REPEAT)

POOLED = "all"
"""Stands in the column `task` for all tasks together."""


def in_order(runs: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """The columns `KEYS` and `values` of a table of runs, in order of the keys; the values as float64."""
    table = runs[list(dict.fromkeys([*KEYS, *values]))].astype(dict.fromkeys(values, np.float64))
    return table.sort_values(list(KEYS), kind="stable", ignore_index=True)


def balanced(runs: pd.DataFrame, values: Sequence[str], *, joint: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """The runs with all `values`, in which every condition of a task has the same base models and seeds.

    Joint keeps only conditions that are in every task that has any value. Also which conditions were left out of some
    task, as `task/condition`. The table is empty when no base model and seed has all conditions.
    """
    table = in_order(runs, values)
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
    """Means of a balanced table over base models and seeds: one row per task and condition, with `values`, `n_runs`."""
    groups = runs.groupby([TASK, CONDITION], sort=True)
    return groups[list(values)].mean().assign(n_runs=groups.size()).reset_index()


def of_tasks(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each task, and of all together where there are several."""
    parts = [(str(task), part) for task, part in table.groupby(TASK)]
    return [*parts, (POOLED, table)] if len(parts) > 1 else parts


def correlate_runs(
    runs: pd.DataFrame, predictor: str, outcome: str, *, given: str | None = None, method: str = "spearman",
    n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS, seed: int = 0,
) -> pd.DataFrame:
    """Correlate two columns of a table of runs over conditions; one row per task, and one for all if there are several.

    Give the runs that are to count, without the real one and the controls, say; the part of a column `given` in both is
    removed. The columns are those of `correlation.correlate` (`n` counts the rows compared, `n_dropped` the runs left
    out), `n_conditions`, `n_runs` and `left_out` (conditions, see `balanced`).
    """
    columns = [predictor, outcome] if given is None else [predictor, outcome, given]
    settings = {"method": method, "n_resamples": n_resamples, "n_permutations": n_permutations, "seed": seed}
    return pd.DataFrame([
        {"task": task, "predictor": predictor, "outcome": outcome} | _correlated(part, columns, settings)
        for task, part in of_tasks(runs)
    ])


def _correlated(part: pd.DataFrame, columns: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    x, y, *given = columns
    known, left_out = balanced(part, columns, joint=True)
    rows = condition_means(known, columns)
    found = correlate(
        # in order of the keys: the rows of a cluster stand in the same order of tasks
        rows[x], rows[y], groups=rows[TASK], clusters=rows[CONDITION], exchange="whole",
        covariate=rows[given[0]] if given else None, **settings,
    )
    reason = found["reason"]
    if not len(known) and part[[x, y]].notna().all(axis=1).any():
        reason = "no base model and seed has a value in every condition"
    for letter, name in (("x", x), ("y", y)):
        reason = reason.replace(f"{letter} is", f"{name} is", 1) if reason.startswith(f"{letter} is") else reason
    return found | {
        "n_dropped": len(part) - len(known), "n_conditions": known[CONDITION].nunique(), "n_runs": len(known),
        "left_out": ", ".join(left_out), "reason": reason,
    }
