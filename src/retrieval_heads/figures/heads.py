"""Figures of head scores: maps of layers by heads, and numbers of heads over thresholds, beside chance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from retrieval_heads.figures.common import REPEATED, over_runs
from retrieval_heads.figures.style import axis, colour, in_order, marker, words

COLOUR_MAP = "mako_r"
"""Light to dark in even steps, so that it reads in grey too."""


SHOWN = ("base", "real", "high_high", "low_low", "symbolic")
"""Conditions that are shown where there are too many for all: the most and the least real ones, and the base model."""


def plot_head_map(
    scores: pd.DataFrame, threshold: float | None = None, ax: Axes | None = None, bar: bool = True,
) -> Axes:
    """The score of every head as a map: one row per layer, the first at the bottom, one column per head.

    Args:
        scores: rows of the table `head_scores` of one run, kind and mode.
        threshold: heads with a score above it, the retrieval heads, get a frame.
        ax: drawn on; a new one when None.
        bar: with the scale of colours beside it.
    """
    ax = axis(ax)
    grid = scores.pivot(index="layer", columns="head", values="score").sort_index(ascending=False)
    # as an image of one pixel a head, which an SVG keeps as it is: hundreds of shapes would be large
    shown = ax.imshow(grid, vmin=0, vmax=1, cmap=COLOUR_MAP, interpolation="none", aspect="auto",
                      extent=(0, grid.shape[1], len(grid), 0))
    ax.grid(False)
    if bar:
        ax.figure.colorbar(shown, ax=ax, label="score (fraction)")
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
        ax.plot(mean.threshold, mean.heads, marker=marker(condition), markersize=5, color=tone, label=words(condition))
        ax.plot(mean.threshold, mean.chance, ":", color=tone, linewidth=1.2)
    if threshold is not None:
        ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.set(xlabel="threshold of the score\n(fraction)", ylabel="heads above it (number)")
    ax.set_ylim(bottom=-0.4)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


