"""Figures and tables of the patching over many runs: what each set of heads gains, and what of the gap it closes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.examples import table_html
from retrieval_heads.figures.interval_tables import DASH, patching_table, with_interval
from retrieval_heads.figures.patching import SETS, plot_patching
from retrieval_heads.figures.style import WIDTH, axis, in_order, interval_bars, panels, words
from retrieval_heads.keys import RUN

MOST_GROUPS = 5
"""With more conditions than this, sets of heads are compared over all of them, and not by groups of bars."""

MANY_RUNS = 40
"""With more runs than this, a table has one row per condition and not one row per run."""

SHOWN = {"random": "x", "complement": "v", "intersection": "o", "all": "s"}
"""The sets whose share of the gap is shown by condition, with their markers."""

NAMES = {
    "random": "random, as many as\nthe intersection", "intersection": "intersection:\nheads of both",
    "random_complement": "random, as many as\nthe complement", "intersection_equal": "strongest of intersection,\n"
    "as many as the complement", "complement": "complement: heads of\nthe real run alone", "all": "all heads",
}
CONTRASTS = {
    "intersection_over_random": "strongest of the intersection over random",
    "complement_over_random": "complement over random",
    "complement_over_intersection": "complement over strongest of the intersection",
}
CASES = {"hurts": "patching hurts (change)", "whole": "the whole gap is closed (share)",
         "under_random": "less than random heads (difference)"}
_NO_GAP = "no run has a gap to\na real run that answers\na fifth of the examples"


def patching_figure(patching: pd.DataFrame, sufficiency: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """One panel a task: groups of bars for a few conditions, or with more of them what each set gains over all.

    Args:
        patching: the table `patching`.
        sufficiency: the table of that name.
        tasks: in the order of the panels.
    """
    if patching.condition.nunique() <= MOST_GROUPS:
        figure, axes = panels(tasks, columns=1, height=min(3.0, 6.4 / len(tasks)), width=WIDTH)
        for task, ax in zip(tasks, axes, strict=True):
            plot_patching(patching[patching.task == task], ax=ax)
        shared_legend(figure, axes, columns=2)
        return figure
    figure, axes = panels(tasks, columns=len(tasks), height=4.0, sharey=True, sharex=True)
    for task, ax in zip(tasks, axes, strict=True):
        plot_gains(sufficiency[sufficiency.task == task], ax=ax)
    shared_legend(figure, axes)
    return figure


def plot_gains(sufficiency: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What patching each set gains in the runs with a gap: the mean with its interval, and a small point a condition.

    Args:
        sufficiency: rows of the table `sufficiency` of one task.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = sufficiency[sufficiency.n_gap > 0]
    names = list(NAMES)[::-1]
    for place, name in enumerate(names):
        own = rows[rows["set"] == name]
        colour, of_all = _colour(name), own[own.condition == ALL]
        single = own[(own.condition != ALL) & own.counted.eq(True)]
        ax.plot(single.change, np.full(len(single), place - 0.22), ".", color=colour, alpha=0.7, markersize=6)
        bars = interval_bars(of_all.change, of_all.change_low, of_all.change_high) if len(of_all) else None
        ax.errorbar(of_all.change, [place] * len(of_all), xerr=bars, fmt="D", color=colour, markersize=6, capsize=3,
                    markeredgecolor="#333333", ecolor="#333333", elinewidth=1.2)
    ax.axvline(0, color="#666666", linewidth=1)
    ax.set_yticks(range(len(names)), [NAMES[name] for name in names], fontsize="small")
    ax.set_ylim(-0.6, len(names) - 0.4)
    n = rows[rows.condition == ALL].n_gap.max()
    ax.set_xlabel("gain in exact match\n(fraction" + (")" if pd.isna(n) else f"; n = {n:.0f} runs)"))
    ax.grid(axis="y", visible=False)
    if rows.empty:
        _say(ax)
    return ax


def closed_figure(sufficiency: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """One panel a task with the share of the gap that each set closes; a row for each condition with a gap in any."""
    rows = sufficiency[(sufficiency.n_gap > 0) & (sufficiency.condition != ALL) & sufficiency.task.isin(tasks)]
    conditions = in_order(rows.condition)
    height = min(6.0, max(2.4, 1.0 + 0.34 * len(conditions)))  # room for axis labels and legend also with one row
    figure, axes = panels(tasks, columns=len(tasks), height=height, width=WIDTH, sharey=True, sharex=True)
    for task, ax in zip(tasks, axes, strict=True):
        plot_closed(sufficiency[sufficiency.task == task], conditions, ax=ax)
    shared_legend(figure, axes, columns=2)
    return figure


def plot_closed(sufficiency: pd.DataFrame, conditions: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Points with intervals for the share of the gap that each set closes, one row per condition with a gap.

    0 is no gain, 1 (dashed) the real run itself. Bars are 95% bootstrap intervals over the runs with a gap, missing
    where there are too few. The number of these runs stands on the right.

    Args:
        sufficiency: rows of the table `sufficiency` of one task.
        conditions: the rows from the top; those with a gap when None.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = sufficiency[(sufficiency.n_gap > 0) & (sufficiency.condition != ALL)]
    conditions = list(in_order(rows.condition) if conditions is None else conditions)[::-1]
    if rows.empty:
        _say(ax)
    for place, (name, marker) in enumerate(SHOWN.items()):
        own = rows[rows["set"] == name].set_index("condition").reindex(conditions)
        if own.closed.isna().all():
            continue
        y = np.arange(len(conditions)) + (1.5 - place) * 0.18
        bars = interval_bars(own.closed, own.closed_low, own.closed_high)
        ax.errorbar(own.closed, y, xerr=bars, fmt=marker, color=_colour(name), markersize=5, capsize=2, elinewidth=1,
                    label=SETS[name][0])
    gaps = rows.groupby("condition").n_gap.max()
    for place, condition in enumerate(conditions):
        if condition in gaps:
            ax.annotate(f"{gaps[condition]:.0f}", (1.02, place), xycoords=("axes fraction", "data"), va="center",
                        fontsize="small", annotation_clip=False)
    ax.set_yticks(range(len(conditions)), [words(name) for name in conditions], fontsize="small")
    ax.set_ylim(-0.6, max(len(conditions), 1) - 0.4)
    for value, style in ((0, "-"), (1, "--")):
        ax.axvline(value, color="#666666", linewidth=1, linestyle=style)
    ax.set_xlabel("share of the gap\nclosed (fraction)")
    ax.grid(axis="y", visible=False)
    return ax


def patching_html(patching: pd.DataFrame, sufficiency: pd.DataFrame) -> str:
    """The shares of the gap as HTML: one row per run, or with many runs one row for each condition with a gap."""
    if len(patching[RUN].drop_duplicates()) <= MANY_RUNS:
        return table_html(patching_table(patching))
    table = sufficiency_table(sufficiency)
    gapped = table[table["with a gap"] > 0]
    if gapped.empty:
        return "<p>No run has a gap.</p>"
    # ten columns fit a page when two are one and long words may be broken
    both = gapped["with a gap"].astype(str) + " of " + gapped["runs"].astype(str)
    narrow = gapped.assign(**{"with a gap": both}).drop(columns="runs")
    return table_html(narrow.rename(columns=lambda name: name.replace("intersection", "inter\u00adsection")))


def patching_folded(patching: pd.DataFrame, sufficiency: pd.DataFrame) -> str:
    """The table of `patching_html` under a line that unfolds it."""
    table = patching_html(patching, sufficiency)
    return f"<details><summary>The shares, run by run or by condition</summary>{table}</details>"


def sufficiency_table(sufficiency: pd.DataFrame) -> pd.DataFrame:
    """One row per task and condition: runs, those with a gap, and the share that each set closes with its interval."""
    rows = sufficiency[sufficiency.task != ALL]
    keys = ["task", "condition"]
    names = {"n_runs": "runs", "n_gap": "with a gap", "n_helped": "intersection helps", "n_hurt": "hurts",
             "n_over_random": "more than random"}
    counts = rows[rows["set"] == "intersection"].set_index(keys)[list(names)].rename(columns=names)
    for name in ("intersection", "complement", "random", "all"):
        own = rows[rows["set"] == name].set_index(keys)
        cells = [with_interval(*row) for row in own[["closed", "closed_low", "closed_high"]].to_numpy(dtype=float)]
        counts[f"closed by {name}"] = pd.Series(cells, index=own.index, dtype=object)
    order = [*in_order(rows.condition[rows.condition != ALL]), ALL]
    place = {condition: number for number, condition in enumerate(order)}
    table = counts.reset_index()
    rank = table.assign(place=table.condition.map(place)).sort_values(["task", "place"]).index
    return table.loc[rank].fillna(DASH).reset_index(drop=True)


def equal_table(equal: pd.DataFrame) -> pd.DataFrame:
    """Sets of equal number compared over the synthetic conditions of each task; `better` by the estimate alone.

    Args:
        equal: the table `sufficiency_equal`.
    """
    rows = equal[equal.condition == ALL]
    values = rows[["value", "low", "high"]].to_numpy(dtype=float)
    return pd.DataFrame({
        "task": rows.task, "sets": rows.contrast.map(CONTRASTS),
        "difference of gains": [with_interval(*row) for row in values], "runs": rows.n_runs,
        "first better": rows.n_first_better, "second better": rows.n_second_better,
        "heads of each (mean)": rows.n_heads.astype(float),
    })


def against_table(against: pd.DataFrame) -> pd.DataFrame:
    """The runs in which patching the intersection speaks against the claim.

    Args:
        against: the table `sufficiency_against`.
    """
    values = against[["value", "low", "high"]].to_numpy(dtype=float)
    return pd.DataFrame({
        "task": against.task, "condition": against.condition, "seed": against.seed, "base": against.base,
        "case": against.case.map(CASES), "value": [with_interval(*row) for row in values], "heads": against.n_heads,
        "counts for the rule": against.counted.map({True: "yes", False: "no"}),
    })


def _colour(name: str) -> str:
    """That of the bars; random heads grey, as their yellow is too pale for points."""
    if name.startswith("random"):
        return "#777777"
    return SETS[name if name in SETS else "intersection"][1]


def _say(ax: Axes) -> None:
    """Say that there is no gap, leaving the scales alone, as other panels share them."""
    ax.text(0.5, 0.5, _NO_GAP, transform=ax.transAxes, ha="center", va="center", fontsize="x-small", color="#444444",
            bbox={"facecolor": "white", "linewidth": 0})
