"""Figure of what of the real test set's statements the training examples of a condition never show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.data.conditions import kind_of
from retrieval_heads.figures.style import axis, in_order, words

SHARES = {
    "unseen_forms": ("sentence form", "#de8f05", "o"),
    "unseen_relations": ("relation", "#029e73", "s"),
    "unseen": ("both together", "#0173b2", "D"),
}
"""Label, colour and marker of each share."""


def with_own_examples(table: pd.DataFrame) -> pd.DataFrame:
    """The training sets of conditions that have examples of their own: no mixtures, controls or other sizes."""
    own = table.condition.map(lambda name: not kind_of(name).members)
    return table[(table.split == "train") & own]


def plot_unseen(table: pd.DataFrame, ax: Axes | None = None, order: Sequence[str] | None = None) -> Axes:
    """A row for each condition with a point for each share of the test statements that its examples never show.

    Args:
        table: rows of the table `examples` of one task and the split `train`.
        ax: drawn on; a new one when None.
        order: conditions from above; those of the table when None.
    """
    ax = axis(ax)
    order = in_order(table.condition) if order is None else list(order)
    rows = table.set_index("condition").reindex(order)
    for name, (label, tone, mark) in SHARES.items():
        ax.plot(rows[name], np.arange(len(order)), mark, color=tone, markersize=5.5, alpha=0.9, label=label)
    ax.set_yticks(range(len(order)), [words(name) for name in order], fontsize="small")
    ax.set(ylim=(len(order) - 0.5, -0.5), xlim=(-0.05, 1.05), xlabel="unseen statements\n(fraction)")
    ax.set_xticks(np.linspace(0, 1, 5))
    return ax
