"""Figures of claim C2 over many runs: the precision of each condition's heads beside chance and ceiling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads.claims.arrays import BASE, RAISED
from retrieval_heads.claims.runs import synthetic
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.style import WIDTH, axis, in_order, interval_bars, panels, words
from retrieval_heads.settings import REFERENCE

KINDS = {"all": ("all heads", "o", "#0173b2"), "gained": ("gained heads", "D", "#de8f05")}
"""Label, marker and colour; *gained* are those that the base model does not have."""

ONE_HEAD = 1.0
"""With fewer heads than this on average there is nothing to be a subset of."""

_ONE_SEED = "it takes real runs\nof several seeds"


def subsets_figure(subsets: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Precision at the study's threshold, one panel per task and one row per condition.

    Args:
        subsets: the table `subsets`.
        threshold: the study's.
        tasks: in the order of the panels.
    """
    conditions = in_order(subsets[subsets.condition != REFERENCE].condition)
    height = min(6.0, 1.2 + 0.26 * len(conditions)) if conditions else 1.8
    figure, axes = panels(tasks, columns=len(tasks), height=height, width=WIDTH, sharey=True, sharex=True)
    for task, ax in zip(tasks, axes, strict=True):
        plot_subsets(subsets[subsets.task == task], threshold, conditions, ax=ax)
    shared_legend(figure, axes, columns=3)
    return figure


def plot_subsets(
    subsets: pd.DataFrame, threshold: float, conditions: Sequence[str] | None = None, ax: Axes | None = None,
) -> Axes:
    """Precision of the heads of each condition, beside the 97.5% quantile of chance and the ceiling of real runs.

    On the right stand the mean numbers of heads, all and gained. Nothing is drawn where the real runs have less than
    one head on average.

    Args:
        subsets: rows of the table `subsets` of one task.
        threshold: the study's.
        conditions: the rows from the top; all but `real` when None.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = subsets[np.isclose(subsets.threshold.astype(float), threshold)]
    others = rows[rows.condition != REFERENCE].condition
    conditions = list(in_order(others) if conditions is None else conditions)[::-1]
    ax.set_yticks(range(len(conditions)), [words(name) for name in conditions])
    ax.set_ylim(-0.6, max(len(conditions), 1) - 0.4)
    ax.set_xlim(-0.05, 1.05)
    ax.set_xlabel("precision of heads\n(fraction)")
    ax.grid(axis="y", visible=False)
    missing = _missing(rows)
    if missing:
        ax.text(0.5, 0.5, missing, transform=ax.transAxes, ha="center", va="center", fontsize="x-small",
                color="#444444", bbox={"facecolor": "white", "linewidth": 0})
        return ax
    for shift, (kind, (label, mark, tone)) in zip((0.15, -0.15), KINDS.items(), strict=True):
        at = rows[rows.heads == kind].set_index("condition")
        own, y = at.reindex(conditions), np.arange(len(conditions)) + shift
        bars = interval_bars(own.precision, own.low, own.high)
        ax.errorbar(own.precision, y, xerr=bars, fmt=mark, color=tone, markersize=5, capsize=2, elinewidth=1,
                    label=label)
        chance = f"97.5% of chance, {label}"
        ax.plot(own.chance_high, y, "|", color=tone, markersize=9, markeredgewidth=1.6, label=chance)
        if len(at.ceiling.dropna()) and at.n_heads.get(REFERENCE, 0) >= ONE_HEAD:
            ax.axvline(at.ceiling.dropna().iloc[0], color=tone, linewidth=1, linestyle="--",
                       label=f"real beside real, {label}")
    numbers = rows.pivot(index="condition", columns="heads", values="n_heads").reindex(conditions)
    for place, (every, gained) in enumerate(numbers.reindex(columns=list(KINDS)).to_numpy(dtype=float)):
        if not np.isnan(every):
            ax.annotate(f"{every:.0f}, {gained:.1f}", (1.02, place), xycoords=("axes fraction", "data"), va="center",
                        fontsize="x-small", annotation_clip=False)
    return ax


def thresholds_figure(subsets: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Precision over thresholds, mean over the synthetic conditions, one panel per task."""
    height = 2.9 if len(subsets) else 1.8
    figure, axes = panels(tasks, columns=len(tasks), height=height, width=WIDTH, sharey=True, sharex=True)
    for task, ax in zip(tasks, axes, strict=True):
        plot_thresholds(subsets[subsets.task == task], threshold, ax=ax)
        if ax is not axes[0]:
            ax.set_ylabel("")
    shared_legend(figure, axes, columns=3)
    return figure


def plot_thresholds(subsets: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Precision of all and of gained heads over thresholds, mean and range of the synthetic conditions.

    Dotted is the 97.5% quantile of chance, dashed the ceiling. Conditions without such heads are left out; a line ends
    where none has any, or the real runs have less than one on average.

    Args:
        subsets: rows of the table `subsets` of one task.
        threshold: the study's, marked.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    ax.set_xlabel("threshold of the\nscore (fraction)")
    ax.set_ylabel("precision of heads\n(fraction)")
    ax.set_ylim(-0.05, 1.05)
    real = subsets[(subsets.condition == REFERENCE) & (subsets.n_heads >= ONE_HEAD)]
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
        ax.text(0.5, 0.5, _missing(subsets) or _FEW, transform=ax.transAxes, ha="center", va="center",
                fontsize="x-small", color="#444444", bbox={"facecolor": "white", "linewidth": 0})
    return ax


SHARES = {"correlation": ("as it is", "s", "#777777"), "partial": ("given the base model's scores", "D", "#029e73")}
"""Label, marker and colour of the two columns of `base_share` that are drawn."""


def share_figure(shares: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """How scores agree with the real run's, as it is and given the base model's; by task and condition.

    Args:
        shares: the table `base_share`.
        tasks: in the order of the panels.
    """
    rows = shares[shares["ranks"] == "all"] if len(shares) else shares
    conditions = in_order(rows[rows.condition != REFERENCE].condition) if len(rows) else []
    height = min(6.0, 1.2 + 0.24 * len(conditions)) if conditions else 1.8
    figure, axes = panels(tasks, columns=len(tasks), height=height, width=WIDTH, sharey=True, sharex=True)
    for task, ax in zip(tasks, axes, strict=True):
        plot_share(rows[rows.task == task] if len(rows) else rows, conditions, ax=ax)
    shared_legend(figure, axes, columns=3)
    return figure


def plot_share(shares: pd.DataFrame, conditions: Sequence[str], ax: Axes | None = None) -> Axes:
    """One panel of `share_figure`: of the base model with the raised theta where it was scored so, else as it is.

    Args:
        shares: rows of the table `base_share` of one task, with ranks over all heads.
        conditions: the rows from the top.
        ax: drawn on; a new one when None.
    """
    ax, order = axis(ax), list(conditions)[::-1]
    ax.set_yticks(range(len(order)), [words(name) for name in order], fontsize="small")
    ax.set_ylim(-0.6, max(len(order), 1) - 0.4)
    ax.set_xlim(-0.35, 1.05)
    ax.set_xlabel("rank correlation\nof scores")
    ax.grid(axis="y", visible=False)
    if shares.empty or shares.partial.isna().all():
        ax.text(0.5, 0.5, _ONE_SEED, transform=ax.transAxes, ha="center", va="center", fontsize="x-small",
                color="#444444", bbox={"facecolor": "white", "linewidth": 0})
        return ax
    given = RAISED if (shares.given == RAISED).any() else BASE
    own = shares[shares.given == given].set_index("condition").reindex(order)
    for name, (label, mark, tone) in SHARES.items():
        bars = interval_bars(own.partial, own.low, own.high) if name == "partial" else None
        ax.errorbar(own[name], np.arange(len(order)), xerr=bars, fmt=mark, color=tone, markersize=4.5, capsize=2,
                    elinewidth=1, label=label)
    ceiling = own.ceiling.dropna()
    if len(ceiling):
        ax.axvline(ceiling.iloc[0], color=SHARES["partial"][2], linewidth=1, linestyle="--",
                   label="real beside real, given the base model's")
    return ax


_FEW = "real runs have less than\none head on average"


def _missing(rows: pd.DataFrame) -> str:
    """Why there is nothing to draw; empty where there is something."""
    if rows.precision.isna().all():
        return _ONE_SEED
    real = rows[(rows.condition == REFERENCE) & (rows.heads == "all")].n_heads
    return _FEW if len(real) and real.max() < ONE_HEAD else ""
