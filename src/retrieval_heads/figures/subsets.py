"""Figure of claim C2 over many runs: the precision of each condition's heads beside chance and ceiling."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.style import axis, in_order

KINDS = {"all": ("all heads", "o", "#0173b2"), "gained": ("heads that the base model does not have", "D", "#de8f05")}


def plot_subsets(subsets: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Precision of the heads of each condition, beside the 97.5% quantile of chance and the ceiling of real runs.

    Args:
        subsets: rows of the table `subsets` of one task.
        threshold: the study's.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = subsets[np.isclose(subsets.threshold, threshold)]
    conditions = in_order(rows[rows.condition != "real"].condition)[::-1]
    for shift, (kind, (label, mark, tone)) in zip((0.15, -0.15), KINDS.items(), strict=True):
        own = rows[rows.heads == kind].set_index("condition")
        at = own.reindex(conditions)
        y = np.arange(len(conditions)) + shift
        ax.plot(at.precision, y, mark, color=tone, markersize=5, label=label)
        chance = f"97.5% of chance, {label}"
        ax.plot(at.chance_high, y, "|", color=tone, markersize=9, markeredgewidth=1.6, label=chance)
        ceiling = own.ceiling.dropna()
        if len(ceiling):
            ax.axvline(ceiling.iloc[0], color=tone, linewidth=1, linestyle="--", label=f"real beside real, {label}")
    ax.set_yticks(range(len(conditions)), conditions)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("precision of heads (fraction)")
    ax.grid(axis="y", visible=False)
    return ax
