"""Figure of the overlap of retrieval heads with those of the real run, beside its chance level."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.common import counts, over_runs
from retrieval_heads.figures.style import axis, colour, in_order, marker

LABELS = {
    "recall": "recall: share of the real run's\nretrieval heads (fraction)",
    "precision": "precision: share of the run's own\nretrieval heads (fraction)",
    "jaccard": "Jaccard (fraction)",
}


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
        ax.plot(own.threshold, own.value, "-", marker=marker(condition), color=one, label=condition, markersize=5)
    if threshold is not None:
        ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
        n = counts(rows.loc[rows.threshold == threshold, "n_reference"])
        ax.annotate(f"n = {n} heads\nof the real run", (threshold, 0.02), xytext=(4, 0), textcoords="offset points",
                    fontsize="small", bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})
    ax.set_xlabel("threshold of the score (fraction)")
    ax.set_ylabel(LABELS.get(measure, measure))
    ax.set_ylim(-0.04, 1.06)
    return ax
