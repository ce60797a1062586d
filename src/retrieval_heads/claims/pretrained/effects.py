"""Effects of knocking out and patching heads on the loss of the gold answer, by seed and example."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.pretrained.loading import in_order
from retrieval_heads.claims.pretrained.resampling import Means
from retrieval_heads.errors import ResultError

COUNTS = (3, 7, 14)
"""Numbers of heads."""

MOST = 14
"""Of them that by which shares are decided."""

STRONGEST = "retrieval"


def losses_by_set(rows: pd.DataFrame, column: str, where: str) -> dict[tuple[str, int], np.ndarray]:
    """By name and number of heads, float64 `[seeds, examples]`: mean over the draws of a set.

    Args:
        rows: of one run condition and task.
        column: of losses; sets with an empty cell are left out.

    Raises:
        ResultError: a set that some seeds or examples lack, or a row that stands twice.
    """
    need(rows, ["seed", "set", "k", "draw", "example", column], where)
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


def by_condition(table: pd.DataFrame, task: str, where: str) -> dict[str, pd.DataFrame]:
    """The rows of one task by training set, in order; errors as in `need`."""
    need(table, ["task", "condition"], where)
    part = table[table["task"] == task]
    groups = {str(name): rows for name, rows in part.groupby("condition")}
    return {name: groups[name] for name in in_order(list(groups))}


def effect_row(means: Means, name: str, outcome: int, cells: Mapping) -> dict:
    """A row of an effect that is one outcome of one set."""
    return {**cells, **means.of(lambda one: one[name][..., outcome]).cells()}
