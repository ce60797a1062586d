"""Figures of performance on held-out real examples, by what a model was trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.claims.arrays import claim_column, metric_name
from retrieval_heads.figures.choice import breaks
from retrieval_heads.figures.common import counts
from retrieval_heads.figures.style import axis, colour, in_order, interval_bars, metric_label, words

FILLS = (("o", True), ("o", False), ("s", True), ("s", False))
"""Marker of the single runs of each base model, and whether it is filled."""

ROW = 0.22
"""Inches of a row of a figure with a row for each condition."""


def deciding_metric(task: str) -> str:
    """The metric by which the claims about a task are judged."""
    return metric_name(task, claim_column(task))


def plot_performance(
    table: pd.DataFrame, metric: str, ax: Axes | None = None, order: Sequence[str] | None = None,
) -> Axes:
    """A row for each condition, at the longest length: the mean of its runs with its interval, and the single runs.

    The bars are the runs' 95% bootstrap intervals over examples, averaged over the runs.

    Args:
        table: rows of the tables `performance` and `base` of one task.
        metric: which metric.
        ax: drawn on; a new one when None.
        order: conditions from above, also such as have no rows; those of the table when None.
    """
    ax = axis(ax)
    rows = table[(table.metric == metric) & (table.eval_length == table.eval_length.max())]
    order = in_order(rows.condition) if order is None else list(order)
    if (rows.condition == "real").any():
        ax.axvline(rows[rows.condition == "real"].value.mean(), color=colour("real"), linewidth=1, linestyle=":",
                   label="mean of the real runs")
    plot_runs(rows, order, ax)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xlabel(f"{metric_label(metric)} (fraction)\nn = {counts(rows.n)} examples,\n{runs_each(rows)}")
    return ax


def plot_runs(rows: pd.DataFrame, order: Sequence[str], ax: Axes, unable: Collection[str] = ()) -> None:
    """A row for each condition: the mean of its runs with the mean of their intervals, and the single runs below.

    Args:
        rows: one row per run.
        order: conditions from above, also such as have no rows.
        ax: drawn on.
        unable: conditions whose mean gets an open mark.
    """
    bases = sorted(rows["base"].unique())
    for place, condition in enumerate(order):
        own, tone = rows[rows.condition == condition], colour(condition)
        if own.empty:
            continue
        mean = own[["value", "low", "high"]].mean()
        ax.errorbar(
            [mean.value], [place], xerr=interval_bars([mean.value], [mean.low], [mean.high]), fmt="D", markersize=5.5,
            color=tone, markerfacecolor="white" if condition in unable else tone, markeredgecolor="#222222",
            markeredgewidth=0.8, elinewidth=1.2, zorder=3,
        )
        for number, name in enumerate(bases if len(own) > 1 else ()):
            form, filled = FILLS[number % len(FILLS)]
            single = own[own["base"] == name].value
            shift = 0.3 * (number - (len(bases) - 1) / 2) if len(bases) > 1 else 0.25
            ax.plot(single, np.full(len(single), place + shift), form, color=tone, markersize=3.5,
                    markerfacecolor=tone if filled else "white", markeredgewidth=0.9, zorder=4)
    _entries(ax, bases)
    condition_rows(ax, order)


def plot_shortfall(
    table: pd.DataFrame, metric: str, ax: Axes | None = None, order: Sequence[str] | None = None,
    reach: float | None = None,
) -> Axes:
    """By how much each condition falls short of the real runs, with the 95% interval of the paired differences.

    Args:
        table: rows of the table `shortfall` of one task.
        metric: which metric.
        ax: drawn on; a new one when None.
        order: conditions from above, also such as have no rows; those of the table when None.
        reach: largest difference of the axis; that of the table when None.
    """
    ax = axis(ax)
    rows = table[table.metric == metric].set_index("condition")
    order = in_order(rows.index) if order is None else list(order)
    ax.axvline(0, color="#333333", linewidth=1)
    for place, condition in enumerate(order):
        if condition not in rows.index:
            continue
        one = rows.loc[condition]
        bars = interval_bars([one.value], [one.low], [one.high])
        ax.errorbar([one.value], [place], xerr=bars, fmt="o", color=colour(condition), markersize=5, elinewidth=1.4,
                    capsize=2)
    condition_rows(ax, order)
    reach = shortfall_reach(table) if reach is None else reach
    ax.set_xlim(-0.4 * reach, reach)
    repeated = " x ".join(
        f"{number} {name}{'' if number == '1' else 's'}"
        for number, name in ((counts(rows.n_seeds), "seed"), (counts(rows.n_bases), "base model"))
    )
    ax.set_xlabel(f"shortfall in {metric_label(metric)}\n(fraction; n = {counts(rows.n)} examples,\n{repeated})",
                  fontsize="small")
    return ax


def shortfall_reach(table: pd.DataFrame) -> float:
    """The end of an axis of shortfalls that holds all of them; a difference of nothing shall not fill the panel."""
    values = table[["value", "low", "high"]].to_numpy(dtype=float)
    return max(0.1, 1.06 * float(np.nanmax(values)), -1.06 / 0.4 * float(np.nanmin(values)))


def condition_rows(ax: Axes, order: Sequence[str]) -> None:
    """A row for each condition, with a line where another group begins."""
    ax.set_yticks(range(len(order)), [words(name) for name in order])
    ax.tick_params(axis="y", labelsize="small")
    ax.set_ylim(len(order) - 0.5, -0.5)
    for place in breaks(order):
        ax.axhline(place, color="#999999", linewidth=0.7)
    ax.grid(axis="y", visible=False)


def _entries(ax: Axes, bases: Sequence[str]) -> None:
    ax.plot([], [], "D", color="#888888", markeredgecolor="#222222", markersize=5.5, label="mean over runs")
    for number, name in enumerate(bases):
        form, filled = FILLS[number % len(FILLS)]
        ax.plot([], [], form, color="#333333", markerfacecolor="#333333" if filled else "white", markersize=3.5,
                label=f"run from {name}" if len(bases) > 1 else "single run")


def runs_each(rows: pd.DataFrame) -> str:
    """Number of runs of each trained condition, for a label."""
    trained = rows[~rows.condition.isin(["base", "rope"])]
    each = counts((trained if len(trained) else rows).groupby("condition").size())
    return f"{each} {'run' if each == '1' else 'runs'} each"
