"""The two axes of realism: a map of what the nine conditions of needle and haystack cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from retrieval_heads.claims.axes import CELLS, axis_sentence
from retrieval_heads.data.conditions import LEVELS
from retrieval_heads.figures.common import counts
from retrieval_heads.figures.style import axis, metric_label

MISSING = "This study does not have all nine conditions of needle and haystack, so there is no map of them."


def has_nine(conditions: Iterable[str]) -> bool:
    """Whether all nine conditions of needle and haystack are among these."""
    return set(CELLS) <= set(conditions)


def map_top(shortfall: pd.DataFrame) -> float:
    """The largest shortfall of the nine conditions, for one scale of colours in all panels."""
    return max(0.1, shortfall[shortfall.condition.isin(CELLS)].value.max())


def plot_axis_map(shortfall: pd.DataFrame, metric: str, ax: Axes | None = None, top: float | None = None) -> Axes:
    """The mean shortfall by realism of the needle (rows) and of the haystack (columns), with the numbers in the cells.

    Starred are those that count: the 95% interval excludes 0, and all base models have one sign.

    Args:
        shortfall: rows of the table `shortfall` of one task; conditions other than the nine are passed over.
        metric: which metric.
        ax: drawn on; a new one when None.
        top: shortfall of the darkest colour; the largest when None.
    """
    ax = axis(ax, (3.4, 3.0))
    rows = shortfall[(shortfall.metric == metric) & shortfall.condition.isin(CELLS)]
    own = rows.set_index("condition").reindex(CELLS)
    star = ((own.low > 0) | (own.high < 0)) & own.same_sign.eq(True)
    text = [f"{value:.2f}{'*' if counted else ''}".replace("-0.00", "0.00")
            for value, counted in zip(own.value, star, strict=True)]
    shape = (len(LEVELS), len(LEVELS))
    sns.heatmap(
        own.value.to_numpy(dtype=float).reshape(shape), annot=np.reshape(text, shape), fmt="", vmin=0,
        vmax=own.value.max() if top is None else top, cmap="mako_r", ax=ax, cbar=False, linewidths=1,
        linecolor="white", xticklabels=LEVELS, yticklabels=LEVELS, square=True,
    )
    ax.grid(False)
    for place in np.flatnonzero(own.value.isna()):  # which the map leaves out
        ax.text(place % shape[1] + 0.5, place // shape[1] + 0.5, "–", ha="center", va="center", color="#333333")
    ax.set_ylabel("concept expression\n(needle)")
    ax.tick_params(left=False, bottom=False)
    if len(rows):
        seeds = counts(rows.n_seeds)
        ax.set_xlabel(f"context diversity (haystack)\n{metric_label(metric)}, n = {counts(rows.n)}\n"
                      f"examples, {seeds} {'seed' if seeds == '1' else 'seeds'}")
    return ax


def axis_text(effects: pd.DataFrame, tasks: Sequence[str]) -> str:
    """What the axes cost in each task that has an estimate, as Markdown."""
    found = {task: axis_sentence(effects, task) for task in tasks}
    return "\n".join(f"- **{task}.** {text}" for task, text in found.items() if text) or MISSING
