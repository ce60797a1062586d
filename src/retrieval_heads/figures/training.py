"""Figures of chapters 00 to 02 on training: unseen statements, the base model's losses, lengths and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from retrieval_heads.data.conditions import kind_of
from retrieval_heads.figures.common import INTERVAL, mean_and_range, points
from retrieval_heads.figures.style import colour, in_order, marker, metric_label, words
from retrieval_heads.keys import RUN
from retrieval_heads.wording import span

SHARES = {
    "unseen_forms": ("sentence form", "#de8f05", "o"),
    "unseen_relations": ("relation", "#029e73", "s"),
    "unseen": ("both together", "#0173b2", "D"),
}
"""Label, colour and marker of each share of the test set's statements."""

LINES = {
    "rope": "--", "real": "-", "high_high": "-.", "low_low": ":", "symbolic": (0, (5, 2)), "real_short": (0, (3, 2)),
}
"""Of the conditions that are usual in these figures; others have whole lines and are told apart by their markers."""

_TASK_MARKERS = {"mdqa": "o", "musique": "s", "summhay": "^"}


def with_own_examples(table: pd.DataFrame) -> pd.DataFrame:
    """The training sets of conditions that have examples of their own: no mixtures, controls or other sizes."""
    own = table.condition.map(lambda name: not kind_of(name).members)
    return table[(table.split == "train") & own]


def plot_unseen(table: pd.DataFrame, ax: Axes, order: Sequence[str]) -> None:
    """A row for each condition, in order, with a point for each share of the test statements that its examples lack."""
    rows = table.set_index("condition").reindex(order)
    for name, (label, tone, mark) in SHARES.items():
        ax.plot(rows[name], np.arange(len(order)), mark, color=tone, markersize=5.5, alpha=0.9, label=label)
    ax.set_yticks(range(len(order)), [words(name) for name in order], fontsize="small")
    ax.set(ylim=(len(order) - 0.5, -0.5), xlim=(-0.05, 1.05), xlabel="unseen statements\n(fraction)")
    ax.set_xticks(np.linspace(0, 1, 5))


def plot_answer_loss(steps: pd.DataFrame, ax: Axes) -> None:
    """Loss on answer tokens (`answer_loss`, nats) against the `tokens` read, on a logarithmic scale."""
    ax.plot(steps.tokens / 1e6, steps.answer_loss, color="#0173b2", linewidth=1.6)
    ax.set_yscale("log")  # with plain numbers: powers of ten would be formulas, which the style does not set
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="tokens read (millions)", ylabel="answer loss (nats per token)")


def plot_exact_match_log(evaluations: pd.DataFrame, tasks: Sequence[str], ax: Axes) -> None:
    """Exact match of each task (`TASK_exact_match`) against the `tokens` read, as it was measured during training."""
    for place, task in enumerate(tasks):
        ax.plot(evaluations.tokens / 1e6, evaluations[f"{task}_exact_match"], color=f"C{place}",
                marker=_TASK_MARKERS.get(task, "D"), markersize=4, linewidth=1.6, label=task)
    ax.set(ylim=(-0.03, 1.05), xlabel="tokens read (millions)", ylabel="exact match (fraction)")
    ax.legend(loc="lower right")


def with_training_length(lengths: pd.DataFrame, performance: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """The table `lengths` and the scores of its runs at the study's own lengths, which stand where both have one.

    These are in `performance` and, of the raised theta, in `base`; of its rows the seed says nothing.
    """
    control = base[(base.condition == "rope") & base.eval_length.isin(performance.eval_length)].assign(seed=0)
    studied = pd.concat([performance, control[performance.columns]]).merge(lengths[RUN].drop_duplicates(), on=RUN)
    cell = [*RUN, "eval_length", "metric"]
    return pd.concat([studied, lengths]).drop_duplicates(cell).sort_values(cell, ignore_index=True)


def plot_lengths(table: pd.DataFrame, metric: str, trained: int, ax: Axes) -> None:
    """A line for each condition: the mean over runs against the length, with bars from the least to the greatest run.

    From rows of `with_training_length` of one task; an upright line marks the length of the training examples.
    """
    rows = table[table.metric == metric]
    ax.axvline(trained, color="#333333", linewidth=0.8, linestyle="--")
    parts = {name: mean_and_range(rows[rows.condition == name], "eval_length") for name in in_order(rows.condition)}
    _lines(ax, parts, 0.035)
    _doubling(ax, sorted(rows.eval_length.unique()))
    ax.set(ylim=(-0.04, 1.06), xlabel=f"length (tokens;\nn = {span(rows.n)} examples)",
           ylabel=f"{metric_label(metric)} (fraction)")


def plot_sizes(table: pd.DataFrame, n_train: int, ax: Axes) -> None:
    """A line for each condition: the score against the number of training examples, with 95% bootstrap intervals.

    From rows of the table `size_effects` of one task; `n_train` is the usual number of examples.
    """
    if table.empty:
        return
    rows = table.assign(examples=table["scale"] * n_train).set_index("examples").sort_index()
    parts = {name: rows.loc[rows.condition == name, list(INTERVAL)] for name in in_order(rows.condition)}
    _lines(ax, parts, 0.04, capsize=2)
    _doubling(ax, sorted(rows.index.unique()))
    ax.set_xlabel(f"training examples (number)\nn = {span(table.n)} test examples", fontsize="small")
    ax.set(ylim=(-0.04, 1.06), ylabel=f"{metric_label(table.metric.iloc[0])} (fraction)")


def _lines(ax: Axes, parts: dict[str, pd.DataFrame], apart: float, **look: float) -> None:
    """A line for each condition through its points, slightly apart so that their bars do not hide each other."""
    for number, (condition, own) in enumerate(parts.items()):
        shift = 1 + apart * (number - (len(parts) - 1) / 2)
        points(ax, own.index.to_numpy() * shift, own, color=colour(condition), marker=marker(condition),
               linestyle=LINES.get(condition, "-"), markersize=5, linewidth=1.5, elinewidth=1, label=words(condition),
               **look)


def _doubling(ax: Axes, at: Sequence[float]) -> None:
    """A logarithmic axis with labels at these places."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(at, [f"{one:,.0f}" for one in at])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(min(at) / 1.3, max(at) * 1.3)
