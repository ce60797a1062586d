"""Figures of head scores: maps of layers by heads, numbers of heads over thresholds, scores beside chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from retrieval_heads.figures.common import REPEATED, over_runs
from retrieval_heads.figures.common import counts as number_range
from retrieval_heads.figures.performance import plot_runs, runs_each
from retrieval_heads.figures.style import axis, colour, in_order, marker

COLOUR_MAP = "mako_r"
"""Light to dark in even steps, so that it reads in grey too."""


SHOWN = ("base", "real", "high_high", "low_low", "symbolic")
"""Conditions that are shown where there are too many for all: the most and the least real ones, and the base model."""


def plot_head_map(
    scores: pd.DataFrame, threshold: float | None = None, ax: Axes | None = None, bar: bool = True,
) -> Axes:
    """The score of every head as a map: one row a layer, the first at the bottom, one column a head.

    Args:
        scores: rows of the table `head_scores` of one run, kind and mode.
        threshold: heads with a score above it, the retrieval heads, get a frame.
        ax: drawn on; a new one when None.
        bar: with the scale of colours beside it.
    """
    ax = axis(ax)
    grid = scores.pivot(index="layer", columns="head", values="score").sort_index(ascending=False)
    sns.heatmap(
        grid, vmin=0, vmax=1, cmap=COLOUR_MAP, ax=ax, cbar=bar, linewidths=0.3, linecolor="white",
        cbar_kws={"label": "score (fraction)"} if bar else None,
    )
    if threshold is not None:
        for row in scores[scores.score > threshold].itertuples():
            ax.add_patch(Rectangle(
                (row.head, len(grid) - 1 - row.layer), 1, 1, fill=False, edgecolor="#d55e00", linewidth=1.3,
            ))
    ax.set(xlabel="head", ylabel="layer")
    ax.tick_params(left=False, bottom=False)
    _sparse(ax, grid)
    return ax


def _sparse(ax: Axes, grid: pd.DataFrame) -> None:
    """Labels at some heads and layers, so that they fit into a small panel."""
    for names, place in ((grid.columns, ax.set_xticks), (grid.index, ax.set_yticks)):
        step = -(-len(names) // 8)
        shown = [at for at, name in enumerate(names) if name % step == 0]
        place([at + 0.5 for at in shown], [str(names[at]) for at in shown], rotation=0, fontsize="small")


def plot_numbers_of_heads(counts: pd.DataFrame, ax: Axes | None = None, order: Sequence[str] | None = None) -> Axes:
    """A row for each condition: the mean number of retrieval heads, from the least to the greatest run, and each run.

    Args:
        counts: rows of `findings.retrieval_counts` of one task.
        ax: drawn on; a new one when None.
        order: conditions from above, also such as have no rows; those of the table when None.
    """
    ax = axis(ax)
    ends = counts.groupby("condition").heads
    rows = counts.assign(value=counts.heads, low=ends.transform("min"), high=ends.transform("max"))
    plot_runs(rows, in_order(counts.condition) if order is None else order, ax)
    ax.set_xlim(-0.5, max(5, 1.08 * counts.heads.max()))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel(f"retrieval heads (number)\nn = {number_range(counts.n_used)} examples,\n{runs_each(counts)}")
    return ax


def plot_threshold_counts(
    scores: pd.DataFrame, thresholds: Sequence[float], threshold: float | None = None, ax: Axes | None = None,
) -> Axes:
    """The number of heads with a score above the threshold, over thresholds: a line for each condition.

    With several runs the line is their mean; the dotted lines count heads whose chance level is above the threshold.

    Args:
        scores: rows of the table `head_scores` of one task, kind and mode.
        thresholds: fractions, increasing.
        threshold: marked by an upright line.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    for condition in in_order(scores.condition):
        own, tone = scores[scores.condition == condition], colour(condition)
        found = [
            {"seed": seed, "base": base, "threshold": at, "heads": (run.score > at).sum(),
             "chance": (run.chance > at).sum()}
            for (seed, base), run in own.groupby(REPEATED) for at in thresholds
        ]
        mean = over_runs(pd.DataFrame(found), ["threshold"], ["heads", "chance"])
        ax.plot(mean.threshold, mean.heads, marker=marker(condition), markersize=5, color=tone, label=condition)
        ax.plot(mean.threshold, mean.chance, ":", color=tone, linewidth=1.2)
    if threshold is not None:
        ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.set(xlabel="threshold of the score\n(fraction)", ylabel="heads above it (number)")
    ax.set_ylim(bottom=-0.4)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def plot_score_against_chance(scores: pd.DataFrame, threshold: float | None = None, ax: Axes | None = None) -> Axes:
    """A point for each head: its score against its own chance level, coloured by condition.

    Heads on the line of equality look at needles no more than at other spans of the same length.

    Args:
        scores: rows of the table `head_scores` of one task, kind and mode.
        threshold: marked by a level line.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    known = scores.dropna(subset=["chance"])
    for condition in in_order(known.condition):
        own = known[known.condition == condition]
        ax.plot(own.chance, own.score, marker(condition), color=colour(condition), markersize=4, alpha=0.7,
                markeredgewidth=0, label=condition)
    widest = float(np.nanmax([known.chance.max() if len(known) else 0, 0.1])) * 1.08
    ax.plot([0, widest], [0, widest], color="#333333", linewidth=1)
    if threshold is not None:
        ax.axhline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.set(xlim=(-0.02 * widest, widest), ylim=(-0.03, 1.03), xlabel="chance level (fraction)",
           ylabel="score (fraction)")
    return ax
