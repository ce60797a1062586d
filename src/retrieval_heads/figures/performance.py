"""Figures of performance on held-out real examples, by what a model was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.common import counts
from retrieval_heads.figures.style import axis, colour, in_order, interval_bars, metric_label

MARKERS = ("o", "s", "^", "D")
"""Of the lengths, from the longest: the longest is filled, the others are open."""


def plot_performance(table: pd.DataFrame, metric: str, ax: Axes | None = None) -> Axes:
    """A row for each condition with a point for each length and run, and its 95% bootstrap interval over examples.

    Args:
        table: rows of the tables `performance` and `base` of one task, with the columns `condition`, `eval_length`,
            `metric`, `value`, `low`, `high` and `n`.
        metric: which metric.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = table[table.metric == metric]
    order, lengths = in_order(rows.condition), sorted(rows.eval_length.unique(), reverse=True)
    for rank, length in enumerate(lengths):
        marker = MARKERS[rank % len(MARKERS)]
        for place, condition in enumerate(order):
            own = rows[(rows.condition == condition) & (rows.eval_length == length)]
            if own.empty:
                continue
            tone = colour(condition)
            y = place + (rank - (len(lengths) - 1) / 2) * 0.24 + np.linspace(-0.06, 0.06, len(own)) * (len(own) > 1)
            ax.errorbar(
                own.value, y, xerr=interval_bars(own.value, own.low, own.high), fmt=marker, color=tone, markersize=6,
                markerfacecolor=tone if rank == 0 else "white", elinewidth=1.1, capsize=2,
            )
        ax.plot([], [], marker, color="#333333", markerfacecolor="#333333" if rank == 0 else "white",
                label=f"{length:,} tokens")
    ax.set_yticks(range(len(order)), order)
    ax.set(ylim=(len(order) - 0.5, -0.5), xlim=(-0.04, 1.04))
    ax.set_xlabel(f"{metric_label(metric)} (fraction; n = {counts(rows.n)})")
    ax.grid(axis="y", visible=False)
    return ax


def plot_shortfall(table: pd.DataFrame, metric: str, ax: Axes | None = None) -> Axes:
    """By how much each condition falls short of the real runs, with the 95% interval of the paired differences.

    Args:
        table: rows of the table `shortfall` of one task.
        metric: which metric.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = table[table.metric == metric].set_index("condition")
    order = in_order(rows.index)
    for place, condition in enumerate(order):
        one = rows.loc[condition]
        bars = interval_bars([one.value], [one.low], [one.high])
        ax.errorbar([one.value], [place], xerr=bars, fmt="o", color=colour(condition), markersize=6, elinewidth=1.4,
                    capsize=3)
    ax.axvline(0, color="#333333", linewidth=1)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    # a difference of nothing should not fill the panel
    reach = max(0.1, float(np.nanmax(np.abs(rows[["value", "low", "high"]].to_numpy(dtype=float)))) * 1.1)
    ax.set_xlim(-reach, reach)
    ax.set_xlabel(f"real − condition: {metric_label(metric)} (n = {counts(rows.n)})")
    ax.grid(axis="y", visible=False)
    return ax
