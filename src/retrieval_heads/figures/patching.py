"""Figures and tables of chapter 05: what each set of heads gains when patched in, and what of the gap it closes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads.claims.necessity import METRIC
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.common import (
    MANY_RUNS,
    METRIC_LABEL,
    REPEATED,
    beside_rows,
    condition_rows,
    named_rows,
    over_runs,
    points,
    shared_legend,
    task_figure,
    write_over,
)
from retrieval_heads.figures.interval_tables import DASH, cells, in_run_order, patching_table
from retrieval_heads.figures.page import table_html
from retrieval_heads.figures.style import WIDTH, in_order, panels, words
from retrieval_heads.keys import RUN
from retrieval_heads.wording import span

SETS = {
    "none": ("nothing patched", "#bbbbbb", ""),
    "random": ("random, as many as the intersection", "#f0c96b", "///"),
    "intersection": ("intersection: retrieval heads of both", "#de8f05", ""),
    "random_complement": ("random, as many as the complement", "#9fd8c5", "///"),
    "complement": ("complement: retrieval heads of the real run alone", "#029e73", ""),
    "all": ("all heads", "#0173b2", ""),
}
"""Label, colour and hatching of each set, in the order of the bars; a control stands before what it controls."""

MOST_GROUPS = 5
"""With more conditions than this, sets of heads are compared over all of them, and not by groups of bars."""

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
    """One panel a task, from the two tables: groups of bars for a few conditions, else what each set gains over all."""
    if patching.condition.nunique() > MOST_GROUPS:
        return task_figure(tasks, sufficiency, plot_gains, height=4.0)
    figure, axes = panels(tasks, columns=1, height=min(3.0, 6.4 / len(tasks)), width=WIDTH)
    for task, ax in zip(tasks, axes, strict=True):
        plot_patching(patching[patching.task == task], ax)
    shared_legend(figure, axes, columns=2)
    return figure


def plot_patching(table: pd.DataFrame, ax: Axes) -> None:
    """A group of bars for each condition of a task, one bar a set of heads, and a line for the real run itself.

    Black lines are 95% bootstrap intervals over examples (and over draws for the random sets), averaged over runs, as
    is the band around the line. The small numbers are the numbers of heads patched; 0 says that the set is empty.
    """
    rows = table[(table.metric == METRIC) & (table.draw == 0)]
    conditions = in_order(rows.condition)
    present = [name for name in SETS if name in set(rows.set)]
    width = 0.84 / len(present)
    for place, name in enumerate(present):
        label, colour, hatch = SETS[name]
        own = over_runs(rows[rows.set == name], ["condition"], ("value", "low", "high", "n_heads"))
        own = own.set_index("condition").reindex(conditions)
        x = np.arange(len(conditions)) + (place - (len(present) - 1) / 2) * width
        ax.bar(x, own.value, width * 0.92, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, label=label)
        points(ax, x, own, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
        for at, heads in zip(x, own.n_heads, strict=True):
            if name != "none" and not np.isnan(heads):
                ax.annotate(f"{heads:.0f}", (at, 0), xytext=(0, 2), textcoords="offset points", ha="center",
                            va="bottom", fontsize=6.5,
                            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.85, "linewidth": 0})
    source = over_runs(rows[rows.set == "source"].drop_duplicates(REPEATED), ["set"])
    for one in source.itertuples():
        ax.axhline(one.value, color="#cc3311", linewidth=1.6, linestyle="--", label="the real run itself")
        if not np.isnan(one.low):
            ax.axhspan(one.low, one.high, color="#cc3311", alpha=0.12, linewidth=0)
    ax.set_xticks(range(len(conditions)), [words(name).replace(", ", ",\n") for name in conditions], fontsize="small")
    ax.set(xlabel=f"patched run: trained on (n = {span(rows.n)} examples)", ylabel=METRIC_LABEL, ylim=(0, 1.06))
    ax.grid(axis="x", visible=False)


def plot_gains(sufficiency: pd.DataFrame, ax: Axes) -> None:
    """What patching each set gains in runs with a gap: the mean with its interval, and a small point per condition."""
    rows = sufficiency[sufficiency.n_gap > 0]
    for place, name in enumerate(NAMES):
        own = rows[rows["set"] == name]
        colour, of_all = _colour(name), own[own.condition == ALL]
        single = own[(own.condition != ALL) & own.counted.eq(True)]
        ax.plot(single.change, np.full(len(single), place + 0.22), ".", color=colour, alpha=0.7, markersize=6)
        points(ax, [place] * len(of_all), of_all, ("change", "change_low", "change_high"), across=True, fmt="D",
               color=colour, markersize=6, capsize=3, markeredgecolor="#333333", ecolor="#333333", elinewidth=1.2)
    ax.axvline(0, color="#666666", linewidth=1)
    named_rows(ax, list(NAMES.values()), 0.6)
    n = rows[rows.condition == ALL].n_gap.max()
    ax.set_xlabel("gain in exact match\n(fraction" + (")" if pd.isna(n) else f"; n = {n:.0f} runs)"))
    if rows.empty:
        write_over(ax, _NO_GAP)


def closed_figure(sufficiency: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """One panel a task with the share of the gap that each set closes; a row for each condition with a gap in any."""
    rows = sufficiency[(sufficiency.n_gap > 0) & (sufficiency.condition != ALL)]
    conditions = in_order(rows[rows.task.isin(tasks)].condition)
    height = min(6.0, max(2.4, 1.0 + 0.34 * len(conditions)))  # room for axis labels and legend also with one row
    return task_figure(tasks, rows, partial(_plot_closed, conditions), legend=2, height=height)


def _plot_closed(conditions: Sequence[str], rows: pd.DataFrame, ax: Axes) -> None:
    """Points with intervals for the share of the gap that each set closes, one row per condition with a gap.

    0 is no gain, 1 (dashed) the real run itself. Bars are 95% bootstrap intervals over the runs with a gap, missing
    where there are too few. The number of these runs stands on the right.
    """
    if rows.empty:
        write_over(ax, _NO_GAP)
    for place, (name, marker) in enumerate(SHOWN.items()):
        own = rows[rows["set"] == name].set_index("condition").reindex(conditions)
        if not own.closed.isna().all():
            points(ax, np.arange(len(conditions)) - (1.5 - place) * 0.18, own, ("closed", "closed_low", "closed_high"),
                   across=True, fmt=marker, color=_colour(name), markersize=5, capsize=2, elinewidth=1,
                   label=SETS[name][0])
    gaps = rows.groupby("condition").n_gap.max()
    beside_rows(ax, {place: f"{gaps[name]:.0f}" for place, name in enumerate(conditions) if name in gaps}, "small")
    condition_rows(ax, conditions, 0.6, grouped=False)
    for value, style in ((0, "-"), (1, "--")):
        ax.axvline(value, color="#666666", linewidth=1, linestyle=style)
    ax.set_xlabel("share of the gap\nclosed (fraction)")


def patching_html(patching: pd.DataFrame, sufficiency: pd.DataFrame) -> str:
    """The shares of the gap as HTML: one row per run, or with many runs one row for each condition with a gap."""
    if len(patching[RUN].drop_duplicates()) <= MANY_RUNS:
        return table_html(patching_table(patching))
    table = _sufficiency_table(sufficiency)
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


def _sufficiency_table(sufficiency: pd.DataFrame) -> pd.DataFrame:
    """One row per task and condition: runs, those with a gap, and the share that each set closes with its interval."""
    rows = sufficiency[sufficiency.task != ALL].set_index(["task", "condition"])
    names = {"n_runs": "runs", "n_gap": "with a gap", "n_helped": "intersection helps", "n_hurt": "hurts",
             "n_over_random": "more than random"}
    table = rows[rows["set"] == "intersection"][list(names)].rename(columns=names)
    for name in ("intersection", "complement", "random", "all"):
        own = rows[rows["set"] == name]
        table[f"closed by {name}"] = pd.Series(cells(own, "closed"), index=own.index, dtype=object)
    return in_run_order(table.fillna(DASH).reset_index(), ["task", "condition"])


def equal_table(equal: pd.DataFrame) -> pd.DataFrame:
    """Sets of equal number compared over the synthetic conditions of each task, from the table `sufficiency_equal`."""
    rows = equal[equal.condition == ALL]
    return pd.DataFrame({
        "task": rows.task, "sets": rows.contrast.map(CONTRASTS), "difference of gains": cells(rows),
        "runs": rows.n_runs, "first better": rows.n_first_better, "second better": rows.n_second_better,
        "heads of each (mean)": rows.n_heads.astype(float),
    })


def against_table(against: pd.DataFrame) -> pd.DataFrame:
    """The runs in which patching the intersection speaks against the claim, from the table `sufficiency_against`."""
    return pd.DataFrame({
        "task": against.task, "condition": against.condition, "seed": against.seed, "base": against.base,
        "case": against.case.map(CASES), "value": cells(against), "heads": against.n_heads,
        "counts for the rule": against.counted.map({True: "yes", False: "no"}),
    })


def _colour(name: str) -> str:
    """That of the bars; random heads grey, as their yellow is too pale for points."""
    return "#777777" if name.startswith("random") else SETS[name if name in SETS else "intersection"][1]
