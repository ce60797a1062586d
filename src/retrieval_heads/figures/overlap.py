"""Figure of the overlap of retrieval heads with those of the real run, beside its chance level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads.figures.common import counts, over_runs, shared_legend
from retrieval_heads.figures.style import WIDTH, axis, colour, in_order, marker, panels, words

LABELS = {
    "recall": "recall (fraction of\nthe real run's heads)",
    "precision": "precision (fraction\nof the run's heads)",
    "jaccard": "Jaccard (fraction)",
}


CHOSEN = ("base", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
"""Conditions that have a line where there are more than these."""


def overlap_figure(overlap: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Recall on the left and precision on the right, one row of panels a task; chosen conditions where there are many.

    Args:
        overlap: rows of the table `overlap` of one kind and score mode a task, each run beside one real run.
        threshold: the study's.
        tasks: in the order of the rows.
    """
    many = overlap.condition.nunique() > len(CHOSEN)
    rows = overlap[overlap.condition.isin(CHOSEN)] if many else overlap
    places = [(task, measure) for task in tasks for measure in ("recall", "precision")]
    titles, height = [f"{task}, {measure}" for task, measure in places], min(3.2, 6.4 / len(tasks))
    figure, axes = panels(titles, columns=2, height=height, width=WIDTH)
    for (task, measure), ax in zip(places, axes, strict=True):
        plot_overlap(rows[rows.task == task], measure, threshold, ax=ax)
        if task != tasks[-1]:
            ax.set_xlabel("")
    shared_legend(figure, axes, columns=4)
    return figure


def plot_overlap(overlap: pd.DataFrame, measure: str, threshold: float | None = None, ax: Axes | None = None) -> Axes:
    """A line for each condition: a measure of overlap against the threshold that makes a head a retrieval head.

    The dotted line in the same colour is its chance level for sets with as many heads in each layer, and the band
    around it holds 95% of such sets. A line ends where a set has no head. Runs are averaged.

    Args:
        overlap: rows of the table `overlap` of one task, kind and score mode, each run beside one real run.
        measure: `recall`, `precision` or `jaccard`.
        threshold: marked by an upright line, with the number of heads of the real run; one of those in the table.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = overlap[overlap.measure == measure]
    columns = ("value", "layer_chance", "layer_chance_low", "layer_chance_high")
    for condition in in_order(rows.condition):
        own = over_runs(rows[rows.condition == condition], ["threshold"], columns).sort_values("threshold")
        one = colour(condition)
        ax.fill_between(own.threshold, own.layer_chance_low, own.layer_chance_high, color=one, alpha=0.07, linewidth=0)
        ax.plot(own.threshold, own.layer_chance, ":", color=one, linewidth=1.4)
        ax.plot(own.threshold, own.value, "-", marker=marker(condition), color=one, markersize=5,
                label=words(condition))
    if threshold is not None:
        ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
        n = counts(rows.loc[rows.threshold == threshold, "n_reference"])
        ax.annotate(f"n = {n} heads of the real run", (0.5, 0.03), xycoords="axes fraction", ha="center",
                    fontsize="x-small", bbox={"facecolor": "white", "linewidth": 0, "pad": 1})
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_xlim(0, 1.04 * rows.threshold.max())
    ax.set_xlabel("threshold of the score (fraction)")
    ax.set_ylabel(LABELS.get(measure, measure))
    ax.set_ylim(-0.22, 1.06)  # the number of heads stands below the data
    return ax
