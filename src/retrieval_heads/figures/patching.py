"""Figure of the patching: the score with each set of heads taken from the real run, beside the real run's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.common import METRIC, REPEATED, counts, over_runs, value_label
from retrieval_heads.figures.style import axis, in_order, interval_bars, words

SETS = {
    "none": ("nothing patched", "#bbbbbb", ""),
    "random": ("random, as many as the intersection", "#f0c96b", "///"),
    "intersection": ("intersection: retrieval heads of both", "#de8f05", ""),
    "random_complement": ("random, as many as the complement", "#9fd8c5", "///"),
    "complement": ("complement: retrieval heads of the real run alone", "#029e73", ""),
    "all": ("all heads", "#0173b2", ""),
}
"""Label, colour and hatching of each set, in the order of the bars; a control stands before what it controls."""


def plot_patching(table: pd.DataFrame, metric: str = METRIC, ax: Axes | None = None) -> Axes:
    """A group of bars for each condition, one bar a set of heads, and a line for the real run itself.

    Black lines are 95% bootstrap intervals over examples (and over draws for the random sets), averaged over runs, as
    is the band around the line. The small numbers are the numbers of heads patched; 0 says that the set is empty.

    Args:
        table: rows of the table `patching` of one task.
        metric: one of the table's metrics.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = table[(table.metric == metric) & (table.draw == 0)]
    conditions = in_order(rows.condition)
    present = [name for name in SETS if name in set(rows.set)]
    width = 0.84 / len(present)
    for place, name in enumerate(present):
        label, colour, hatch = SETS[name]
        own = over_runs(rows[rows.set == name], ["condition"], ("value", "low", "high", "n_heads"))
        own = own.set_index("condition").reindex(conditions)
        x = np.arange(len(conditions)) + (place - (len(present) - 1) / 2) * width
        ax.bar(x, own.value, width * 0.92, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, label=label)
        bars = interval_bars(own.value, own.low, own.high)
        ax.errorbar(x, own.value, bars, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
        if name != "none":
            for at, heads in zip(x, own.n_heads, strict=True):
                _count(ax, at, heads)
    source = over_runs(rows[rows.set == "source"].drop_duplicates(REPEATED), ["set"])
    if len(source):
        one = source.iloc[0]
        ax.axhline(one.value, color="#cc3311", linewidth=1.6, linestyle="--", label="the real run itself")
        if not np.isnan(one.low):
            ax.axhspan(one.low, one.high, color="#cc3311", alpha=0.12, linewidth=0)
    ax.set_xticks(range(len(conditions)), [words(name).replace(", ", ",\n") for name in conditions], fontsize="small")
    ax.set_xlabel(f"patched run: trained on (n = {counts(rows.n)} examples)")
    ax.set_ylabel(value_label(metric))
    ax.grid(axis="x", visible=False)
    if metric != "nll":
        ax.set_ylim(0, 1.06)
    return ax


def _count(ax: Axes, x: float, heads: float) -> None:
    if np.isnan(heads):
        return
    ax.annotate(
        f"{heads:.0f}", (x, 0), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=6.5,
        bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.85, "linewidth": 0},
    )
