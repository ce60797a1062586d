"""Figure of performance against what the heads of a run have in common with those of the real run."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.style import axis, colour, in_order, interval_bars, marker, metric_label

LABELS = {
    "recall": "recall of the real run's heads (fraction)", "cosine": "cosine with the real run's scores",
    "precision": "precision of heads (fraction)", "jaccard": "Jaccard of heads (fraction)",
    "n_heads": "retrieval heads (number)",
}


def plot_correlation(
    conditions: pd.DataFrame, predictor: str = "recall", outcome: str = "f1", found: pd.Series | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A point for each condition, with the 95% bootstrap interval of the performance over examples.

    Args:
        conditions: rows of one task as `stages.correlate.conditions_table` gives them; the predictor has no interval.
        predictor: across, one of the table's columns.
        outcome: upwards, `exact_match` or `f1`.
        found: the row of the table `correlation`, written into the plot.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    for condition in in_order(conditions.condition):
        own = conditions[conditions.condition == condition]
        bars = interval_bars(own[outcome], own[f"{outcome}_low"], own[f"{outcome}_high"])
        ax.errorbar(
            own[predictor], own[outcome], bars, fmt=marker(condition), color=colour(condition),
            markersize=6, capsize=2, elinewidth=0.8, label=condition,
        )
    if found is not None:
        ax.annotate(correlation_text(found), (0.03, 0.03), xycoords="axes fraction", va="bottom", fontsize="small",
                    bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0})
    ax.set_xlabel(LABELS.get(predictor, predictor))
    ax.set_ylabel(f"{metric_label(outcome)} (fraction)")
    ax.set_ylim(-0.04, 1.06)
    if predictor not in ("n_heads",):
        # around the points where they are close together, as head sets that overlap almost wholly are
        known = conditions[predictor].dropna()
        least, most = (known.min(), known.max()) if len(known) else (0, 1)
        pad = max(0.02, 0.15 * (most - least))
        ax.set_xlim(max(-0.04, least - pad), min(1.06, most + pad))
    return ax


def correlation_text(found: pd.Series) -> str:
    """A rank correlation in a few words: its value, interval, p and n, or that it is not defined."""
    n = f"n = {int(found.n)} conditions"
    if pd.isna(found.value):
        return f"no rank correlation, {n}"
    interval = "" if pd.isna(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    p = "" if pd.isna(found.p) else f", p = {found.p:.2f}"
    return f"Spearman {found.value:.2f}{interval}{p}\n{n}"
