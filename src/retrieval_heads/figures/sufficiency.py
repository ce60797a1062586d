"""Figure of the patching over many runs: the share of the gap to the real run that each set of heads closes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.interval_tables import DASH, with_interval
from retrieval_heads.figures.patching import SETS
from retrieval_heads.figures.style import axis, in_order, interval_bars

SHOWN = {"random": "x", "complement": "v", "intersection": "o", "all": "s"}
"""The sets in the figure, with their markers."""


def plot_closed(sufficiency: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Points with intervals for the share of the gap that each set closes, one row a condition with a gap.

    0 is no gain, 1 (dashed) the real run itself. Bars are 95% bootstrap intervals over the runs with a gap, missing
    where there is one.

    Args:
        sufficiency: rows of the table `sufficiency` of one task.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = sufficiency[(sufficiency.n_gap > 0) & (sufficiency.condition != ALL)]
    conditions = in_order(rows.condition)[::-1]
    for place, (name, marker) in enumerate(SHOWN.items()):
        own = rows[rows.set == name].set_index("condition").reindex(conditions)
        label, colour, _ = SETS[name]
        y = np.arange(len(conditions)) + (1.5 - place) * 0.18
        bars = interval_bars(own.closed, own.closed_low, own.closed_high)
        ax.errorbar(
            own.closed, y, xerr=bars, fmt=marker, color=colour, markersize=5, capsize=2, elinewidth=1, label=label,
        )
    gaps = rows.groupby("condition").n_gap.max().reindex(conditions)
    ax.set_yticks(range(len(conditions)), [f"{name} ({n:.0f})" for name, n in gaps.items()])
    for value, style in ((0, "-"), (1, "--")):
        ax.axvline(value, color="#666666", linewidth=1, linestyle=style)
    ax.set_xlabel("share of the gap to the real run that is closed")
    ax.set_ylabel("trained on (runs with a gap)")
    ax.grid(axis="y", visible=False)
    return ax


def sufficiency_table(sufficiency: pd.DataFrame) -> pd.DataFrame:
    """One row a task and condition: runs, those with a gap, and the share that each set closes with its interval."""
    rows = sufficiency[sufficiency.task != ALL]
    keys = ["task", "condition"]
    names = {"n_runs": "runs", "n_gap": "with a gap", "n_helped": "intersection helps", "n_hurt": "hurts",
             "n_over_random": "more than random"}
    counts = rows[rows.set == "intersection"].set_index(keys)[list(names)].rename(columns=names)
    for name in ("intersection", "complement", "random", "all"):
        own = rows[rows.set == name].set_index(keys)
        cells = [with_interval(*row) for row in own[["closed", "closed_low", "closed_high"]].to_numpy(dtype=float)]
        counts[f"closed by {name}"] = pd.Series(cells, index=own.index)
    order = [*in_order(rows.condition[rows.condition != ALL]), ALL]
    place = {condition: number for number, condition in enumerate(order)}
    table = counts.reset_index()
    rank = table.assign(place=table.condition.map(place)).sort_values(["task", "place"]).index
    return table.loc[rank].fillna(DASH).reset_index(drop=True)
