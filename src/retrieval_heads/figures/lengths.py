"""Figures of the score against the length of the text, and against the number of training examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from retrieval_heads.figures.common import REPEATED, counts
from retrieval_heads.figures.style import axis, colour, in_order, interval_bars, marker, metric_label, words

LINES = {
    "rope": "--", "real": "-", "high_high": "-.", "low_low": ":", "symbolic": (0, (5, 2)), "real_short": (0, (3, 2)),
}
"""Of the conditions that are usual in these figures; others have whole lines and are told apart by their markers."""


def with_training_length(lengths: pd.DataFrame, performance: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """The table `lengths` and the scores of its runs at the study's own lengths, which stand where both have one.

    Args:
        lengths: the table; of its `rope` rows the seed says nothing.
        performance: the table of the runs.
        base: the table of the base models; its rows of `rope` at the study's lengths are taken.
    """
    control = base[(base.condition == "rope") & base.eval_length.isin(performance.eval_length)].assign(seed=0)
    studied = pd.concat([performance, control[performance.columns]])
    run = ["task", "condition", *REPEATED]
    studied = studied.merge(lengths[run].drop_duplicates(), on=run)
    cell = [*run, "eval_length", "metric"]
    return pd.concat([studied, lengths]).drop_duplicates(cell).sort_values(cell, ignore_index=True)


def plot_lengths(table: pd.DataFrame, metric: str, trained: int | None = None, ax: Axes | None = None) -> Axes:
    """A line for each condition: the mean over runs against the length, with bars from the least to the greatest run.

    Args:
        table: rows of `with_training_length` of one task.
        metric: which metric.
        trained: length of the training examples, marked by an upright line.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = table[table.metric == metric]
    order, at = in_order(rows.condition), sorted(rows.eval_length.unique())
    if trained is not None:
        ax.axvline(trained, color="#333333", linewidth=0.8, linestyle="--")
    for number, condition in enumerate(order):
        own = rows[rows.condition == condition].groupby("eval_length").value.agg(["mean", "min", "max"])
        shift = 1 + 0.035 * (number - (len(order) - 1) / 2)
        ax.errorbar(
            own.index.to_numpy() * shift, own["mean"], interval_bars(own["mean"], own["min"], own["max"]),
            color=colour(condition), marker=marker(condition), linestyle=LINES.get(condition, "-"), markersize=5,
            linewidth=1.5, elinewidth=1, label=words(condition),
        )
    _doubling(ax, at)
    ax.set_ylim(-0.04, 1.06)
    ax.set_xlabel(f"length (tokens;\nn = {counts(rows.n)} examples)")
    ax.set_ylabel(f"{metric_label(metric)} (fraction)")
    return ax


def plot_sizes(table: pd.DataFrame, n_train: int, ax: Axes | None = None) -> Axes:
    """A line for each condition: the score against the number of training examples, with 95% bootstrap intervals.

    Args:
        table: rows of the table `size_effects` of one task.
        n_train: the usual number of training examples.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    if table.empty:
        return ax
    order = in_order(table.condition)
    for number, condition in enumerate(order):
        own = table[table.condition == condition].sort_values("scale")
        shift = 1 + 0.04 * (number - (len(order) - 1) / 2)
        ax.errorbar(
            own.scale * n_train * shift, own.value, interval_bars(own.value, own.low, own.high),
            color=colour(condition), marker=marker(condition), linestyle=LINES.get(condition, "-"),
            markersize=5, linewidth=1.5, elinewidth=1, capsize=2, label=words(condition),
        )
    _doubling(ax, np.sort(table["scale"].unique()) * n_train)
    ax.set_ylim(-0.04, 1.06)
    ax.set_xlabel(f"training examples (number)\nn = {counts(table.n)} test examples", fontsize="small")
    ax.set_ylabel(f"{metric_label(table.metric.iloc[0])} (fraction)")
    return ax


def _doubling(ax: Axes, at: list[int] | np.ndarray) -> None:
    """A logarithmic axis with labels at these places."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(at, [f"{one:,.0f}" for one in at])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(at) / 1.3, max(at) * 1.3)
