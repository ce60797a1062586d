"""Figures of training: how the base model learned its tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from retrieval_heads.figures.style import axis

TASK_MARKERS = {"mdqa": "o", "musique": "s", "summhay": "^"}


def plot_answer_loss(steps: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Loss on answer tokens against the tokens read, on a logarithmic scale.

    Args:
        steps: columns `tokens` and `answer_loss` (nats per answer token), in order.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    ax.plot(steps.tokens / 1e6, steps.answer_loss, color="#0173b2", linewidth=1.6)
    _powers(ax)
    ax.set(xlabel="tokens read (millions)", ylabel="answer loss (nats per token)")
    return ax


def plot_exact_match_log(evaluations: pd.DataFrame, tasks: Sequence[str], ax: Axes | None = None) -> Axes:
    """Exact match of each task against the tokens read, as it was measured during training.

    Args:
        evaluations: columns `tokens` and, for each task, `TASK_exact_match`, in order.
        tasks: one line each.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    for place, task in enumerate(tasks):
        ax.plot(
            evaluations.tokens / 1e6, evaluations[f"{task}_exact_match"], color=f"C{place}",
            marker=TASK_MARKERS.get(task, "D"), markersize=4, linewidth=1.6, label=task,
        )
    ax.set(ylim=(-0.03, 1.05), xlabel="tokens read (millions)", ylabel="exact match (fraction)")
    ax.legend(loc="lower right")
    return ax


def _powers(ax: Axes) -> None:
    """A logarithmic axis with plain numbers: powers of ten would be formulas, which the style does not set."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
