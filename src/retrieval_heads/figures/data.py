"""Figure of what of the real test set's statements the training examples of a condition never show."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.style import axis, in_order

SHARES = {
    "unseen_forms": ("sentence form", "#de8f05", ""),
    "unseen_relations": ("relation", "#029e73", "///"),
    "unseen": ("both together", "#0173b2", ""),
}
"""Label, colour and hatching of each share."""


def plot_unseen(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A group of bars for each condition: the shares of the test statements that its training examples never show.

    Args:
        table: rows of the table `examples` of one task and the split `train`.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = table.set_index("condition")
    order = in_order(rows.index)
    for rank, (name, (label, tone, hatch)) in enumerate(SHARES.items()):
        y = np.arange(len(order)) + (rank - 1) * 0.26
        ax.barh(y, rows.loc[order, name], height=0.23, color=tone, hatch=hatch, edgecolor="white", linewidth=0.4,
                label=label)
        for value, at in zip(rows.loc[order, name], y, strict=True):
            ax.text(value + 0.012, at, f"{value:.2f}", va="center", fontsize="x-small", color="#333333")
    ax.set_yticks(range(len(order)), order)
    ax.set(ylim=(len(order) - 0.45, -0.55), xlim=(0, 1.13), xlabel="unseen statements of the test set (fraction)")
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", visible=False)
    return ax
