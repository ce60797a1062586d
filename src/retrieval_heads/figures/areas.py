"""Figures of what the knock-out adds up to: areas between its curves, and its cost where nothing is to be retrieved."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.claims.necessity import ABLE
from retrieval_heads.figures.common import REPEATED, counts
from retrieval_heads.figures.knockout import SETS, in_all_runs, k_axis
from retrieval_heads.figures.performance import plot_runs, runs_each
from retrieval_heads.figures.style import axis, in_order, interval_bars

PLACES = {"task": ("answers", "-", True), "text": ("plain text", "--", False)}
"""Name, line and whether the markers are filled of each place where a knock-out costs."""


def plot_areas(areas: pd.DataFrame, ax: Axes | None = None, order: Sequence[str] | None = None) -> Axes:
    """A row for each condition: the mean area of its runs with its interval, and the single runs.

    The bars are the runs' 95% bootstrap intervals over examples, averaged over runs. Conditions whose runs answer too
    little on average for anything to be lost have open marks.

    Args:
        areas: rows of the table `knockout_area` of one task, mode, scope and set.
        ax: drawn on; a new one when None.
        order: conditions from above, also such as have no rows; those of the table when None.
    """
    ax = axis(ax)
    rows = areas.dropna(subset=["value"])
    start = areas.groupby("condition").start.mean()
    ax.axvline(0, color="#333333", linewidth=0.8)
    plot_runs(rows, in_order(areas.condition) if order is None else order, ax, set(start.index[start < ABLE]))
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -0.1), max(high, 0.3))
    if len(rows):
        ax.set_xlabel(f"area (fraction)\nn = {counts(rows.n)} examples,\n{runs_each(rows)}")
    return ax


def specificity_costs(text_loss: pd.DataFrame, knockout: pd.DataFrame, scope: str = "answer") -> pd.DataFrame:
    """By how much the loss per token rises with heads out, in two places: on plain text, and on the answers.

    Args:
        text_loss: the table.
        knockout: the table; of it the negative log-likelihood in mode zero is taken, of the same runs.
        scope: of the knock-out on the answers.

    Returns:
        Columns `task`, `condition`, `seed`, `base`, `place` (text or task), `set`, `k`, `value` (nats per token), `n`.
    """
    run = ["task", "condition", *REPEATED]
    own = knockout[(knockout.metric == "nll") & (knockout.draw == 0) & (
        (knockout["set"] == "none") | ((knockout["mode"] == "zero") & (knockout.scope == scope)))]
    own = own.merge(text_loss[run].drop_duplicates(), on=run)
    both = pd.concat([text_loss.assign(place="text"), own.rename(columns={"value": "loss"}).assign(place="task")])
    start = both[both["set"] == "none"].set_index([*run, "place"]).loss.rename("start")
    both = both[both["set"].isin(SETS)].join(start, on=[*run, "place"])
    return both.assign(value=both.loss - both.start)[[*run, "place", "set", "k", "value", "n"]]


def plot_specificity(costs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Lines of the rise of the loss against the number of heads out, on answers and on plain text.

    Bars are from the least to the greatest run. Numbers of heads that not all runs have are left out.

    Args:
        costs: rows of `specificity_costs` of one task.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    for name in ("retrieval", "random"):
        _, tone, form, _ = SETS[name]
        for place, (where, line, filled) in PLACES.items():
            own = costs[(costs["set"] == name) & (costs.place == place)]
            if own.empty:
                continue
            mean = in_all_runs(own).groupby("k").value.agg(["mean", "min", "max"])
            ax.errorbar(
                mean.index, mean["mean"], interval_bars(mean["mean"], mean["min"], mean["max"]), color=tone,
                marker=form, linestyle=line, markersize=4.5, markerfacecolor=tone if filled else "white",
                linewidth=1.4, elinewidth=1, label=f"{name} heads, {where}",
            )
    k_axis(ax, in_all_runs(costs[costs["set"].isin(["retrieval", "random"])]).k)
    n = costs.groupby("place").n.max()
    n_runs = len(costs.drop_duplicates(REPEATED))
    ax.set_xlabel(f"heads knocked out (number;\n{n['task']} answers, {n['text']} rows of text,\n"
                  f"{n_runs} {'run' if n_runs == 1 else 'runs'})")
    ax.set_ylabel("rise of the loss\n(nats per token)")
    return ax
