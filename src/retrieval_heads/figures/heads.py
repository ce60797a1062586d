"""Figures of chapter 03: maps of head scores, numbers of heads over thresholds, and heads in common with real runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from retrieval_heads.claims.arrays import BASE, RAISED
from retrieval_heads.claims.runs import synthetic
from retrieval_heads.claims.subsets import LEAST_HEADS
from retrieval_heads.figures.common import REPEATED, beside_rows, condition_rows, points, task_figure, write_over
from retrieval_heads.figures.style import colour, in_order, marker, words
from retrieval_heads.settings import REFERENCE

SHOWN = ("base", "real", "high_high", "low_low", "symbolic")
"""Conditions that are shown where there are too many for all: the most and the least real ones, and the base model."""

KINDS = {"all": ("all heads", "o", "#0173b2"), "gained": ("gained heads", "D", "#de8f05")}
"""Label, marker and colour; *gained* are those that the base model does not have."""

SHARES = {"correlation": ("as it is", "s", "#777777"), "partial": ("given the base model's scores", "D", "#029e73")}
"""Label, marker and colour of the two columns of `base_share` that are drawn."""


_ONE_SEED = "it takes real runs\nof several seeds"
_FEW = "real runs have less than\none head on average"


def plot_head_map(
    scores: pd.DataFrame, threshold: float | None, ax: Axes, bar: bool = True, darkest: float = 1.0,
) -> None:
    """The score of every head of a run as a map: one row per layer, the first at the bottom, one column per head.

    Heads with a score above the threshold, the retrieval heads, get a frame. `bar`: with the scale of colours, which
    ends at `darkest`.
    """
    grid = scores.pivot(index="layer", columns="head", values="score").sort_index(ascending=False)
    # as an image of one pixel a head, which an SVG keeps as it is: hundreds of shapes would be large
    image = ax.imshow(grid, vmin=0, vmax=darkest, cmap="mako_r", interpolation="none", aspect="auto",
                      extent=(0, grid.shape[1], len(grid), 0))
    ax.grid(False)
    if bar:
        ax.figure.colorbar(image, ax=ax, label="score (fraction)")
    for row in scores[scores.score > threshold].itertuples() if threshold is not None else ():
        ax.add_patch(Rectangle((row.head, len(grid) - 1 - row.layer), 1, 1, fill=False, edgecolor="#d55e00",
                               linewidth=1.3))
    ax.set(xlabel="head", ylabel="layer")
    ax.tick_params(left=False, bottom=False)
    for names, ticks in ((grid.columns, ax.set_xticks), (grid.index, ax.set_yticks)):
        # as many as a small panel has room for
        shown = [place for place, name in enumerate(names) if name % -(-len(names) // 8) == 0]
        ticks([place + 0.5 for place in shown], [str(names[place]) for place in shown], rotation=0, fontsize="small")


def plot_threshold_counts(scores: pd.DataFrame, thresholds: Sequence[float], threshold: float, ax: Axes) -> None:
    """The number of heads with a score above the threshold, over thresholds: a line for each condition.

    With several runs the line is their mean; the dotted lines count heads whose chance level is above the threshold.
    """
    for condition in in_order(scores.condition):
        own, tone = scores[scores.condition == condition], colour(condition)
        heads, chance = ([(own[name] > at).sum() / own.groupby(REPEATED).ngroups for at in thresholds]
                         for name in ("score", "chance"))
        ax.plot(thresholds, heads, marker=marker(condition), markersize=5, color=tone, label=words(condition))
        ax.plot(thresholds, chance, ":", color=tone, linewidth=1.2)
    ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.set(xlabel="threshold of the score\n(fraction)", ylabel="heads above it (number)")
    ax.set_ylim(bottom=-0.4)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def subsets_figure(subsets: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Precision at the study's threshold, from the table `subsets`; one row per condition."""
    conditions = in_order(subsets[subsets.condition != REFERENCE].condition)
    height = min(6.0, 1.2 + 0.26 * len(conditions)) if conditions else 1.8
    return task_figure(tasks, subsets, partial(_plot_subsets, threshold, conditions), height=height)


def _plot_subsets(threshold: float, conditions: Sequence[str], subsets: pd.DataFrame, ax: Axes) -> None:
    """Precision of the heads of each condition, beside the 97.5% quantile of chance and the ceiling of real runs.

    On the right stand the mean numbers of heads, all and gained. Nothing is drawn where the real runs have less than
    one head on average.
    """
    rows = subsets[np.isclose(subsets.threshold.astype(float), threshold)]
    condition_rows(ax, conditions, 0.6, grouped=False, size=None)
    ax.set(xlim=(-0.05, 1.05), xlabel="precision of heads\n(fraction)")
    if missing := _missing(rows):
        write_over(ax, missing)
        return
    for shift, (kind, (label, mark, tone)) in zip((-0.15, 0.15), KINDS.items(), strict=True):
        at = rows[rows.heads == kind].set_index("condition")
        own, y = at.reindex(conditions), np.arange(len(conditions)) + shift
        points(ax, y, own, ("precision", "low", "high"), across=True, fmt=mark, color=tone, markersize=5, capsize=2,
               elinewidth=1, label=label)
        ax.plot(own.chance_high, y, "|", color=tone, markersize=9, markeredgewidth=1.6,
                label=f"97.5% of chance, {label}")
        if len(at.ceiling.dropna()) and at.n_heads.get(REFERENCE, 0) >= LEAST_HEADS:
            ax.axvline(at.ceiling.dropna().iloc[0], color=tone, linewidth=1, linestyle="--",
                       label=f"real beside real, {label}")
    numbers = rows.pivot(index="condition", columns="heads", values="n_heads").reindex(conditions, columns=list(KINDS))
    beside_rows(ax, {place: f"{every:.0f}, {gained:.1f}" for place, (every, gained) in
                     enumerate(numbers.to_numpy(dtype=float)) if not np.isnan(every)}, "x-small")


def thresholds_figure(subsets: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Precision over thresholds, from the table `subsets`: mean and range of the synthetic conditions."""
    return task_figure(tasks, subsets, partial(_plot_thresholds, threshold), height=2.9 if len(subsets) else 1.8)


def _plot_thresholds(threshold: float, subsets: pd.DataFrame, ax: Axes) -> None:
    """Precision of all and of gained heads; dotted is the 97.5% quantile of chance, dashed the ceiling.

    Conditions without such heads are left out; a line ends where none has any, or the real runs have less than one on
    average.
    """
    ax.set(xlabel="threshold of the\nscore (fraction)", ylabel="precision of heads\n(fraction)", ylim=(-0.05, 1.05))
    real = subsets[(subsets.condition == REFERENCE) & (subsets.n_heads >= LEAST_HEADS)]
    own = subsets[subsets.condition.isin(synthetic(subsets.condition.unique())) & subsets.precision.notna()]
    drawn = False
    for kind, (label, mark, tone) in KINDS.items():
        known = set(real[real.heads == kind].threshold)
        part = own[(own.heads == kind) & own.threshold.isin(known)].groupby("threshold")
        mean = part[["precision", "chance_high", "ceiling"]].mean()
        if mean.empty:
            continue
        drawn = True
        ax.fill_between(mean.index, part.precision.min(), part.precision.max(), color=tone, alpha=0.15, linewidth=0)
        ax.plot(mean.index, mean.precision, mark + "-", color=tone, markersize=4.5, label=label)
        ax.plot(mean.index, mean.chance_high, ":", color=tone, linewidth=1.5, label=f"97.5% of chance, {label}")
        ax.plot(mean.index, mean.ceiling, "--", color=tone, linewidth=1, label=f"real beside real, {label}")
    if drawn:
        ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle=(0, (1, 1)))
    else:
        write_over(ax, _missing(subsets) or _FEW)


def share_figure(shares: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """How scores agree with the real run's, as it is and given the base model's, from the table `base_share`."""
    rows = shares[shares["ranks"] == "all"] if len(shares) else shares
    conditions = in_order(rows[rows.condition != REFERENCE].condition) if len(rows) else []
    height = min(6.0, 1.2 + 0.24 * len(conditions)) if conditions else 1.8
    return task_figure(tasks, rows, partial(_plot_share, conditions), height=height)


def _plot_share(conditions: Sequence[str], shares: pd.DataFrame, ax: Axes) -> None:
    """One panel: given the base model with the raised theta where it was scored so, else as it is."""
    condition_rows(ax, conditions, 0.6, grouped=False)
    ax.set(xlim=(-0.35, 1.05), xlabel="rank correlation\nof scores")
    if shares.empty or shares.partial.isna().all():
        write_over(ax, _ONE_SEED)
        return
    given = RAISED if (shares.given == RAISED).any() else BASE
    own = shares[shares.given == given].set_index("condition").reindex(conditions)
    label, mark, tone = SHARES["correlation"]
    ax.errorbar(own.correlation, np.arange(len(own)), fmt=mark, color=tone, markersize=4.5, label=label)
    label, mark, tone = SHARES["partial"]
    points(ax, np.arange(len(own)), own, ("partial", "low", "high"), across=True, fmt=mark, color=tone, markersize=4.5,
           capsize=2, elinewidth=1, label=label)
    ceiling = own.ceiling.dropna()
    if len(ceiling):
        ax.axvline(ceiling.iloc[0], color=tone, linewidth=1, linestyle="--",
                   label="real beside real, given the base model's")


def _missing(rows: pd.DataFrame) -> str:
    """Why there is nothing to draw; empty where there is something."""
    if rows.precision.isna().all():
        return _ONE_SEED
    real = rows[(rows.condition == REFERENCE) & (rows.heads == "all")].n_heads
    return _FEW if len(real) and real.max() < LEAST_HEADS else ""
