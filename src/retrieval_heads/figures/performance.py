"""Figures of chapters 00 and 02: performance on held-out real examples, and what each training set falls short by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from retrieval_heads.claims.arrays import metric_name
from retrieval_heads.claims.axes import CELLS, axis_sentence
from retrieval_heads.data.conditions import LEVELS
from retrieval_heads.figures.common import condition_rows, points
from retrieval_heads.figures.style import colour, metric_label
from retrieval_heads.wording import plural, span

ROW = 0.22
"""Inches of a row of a figure with a row for each condition."""

MISSING = "This study does not have all nine conditions of needle and haystack, so there is no map of them."

_FILLS = (("o", True), ("o", False), ("s", True), ("s", False))
"""Marker of the single runs of each base model, and whether it is filled."""


def deciding_metric(task: str) -> str:
    """The metric by which the claims about a task are judged."""
    return metric_name(task)


def plot_performance(table: pd.DataFrame, metric: str, ax: Axes, order: Sequence[str]) -> None:
    """A row for each condition, at the longest length: the mean of its runs with its interval, and the single runs.

    From rows of `performance` and `base` of one task; `order` may have conditions without rows. The bars are the runs'
    95% bootstrap intervals over examples, averaged over the runs.
    """
    rows = table[(table.metric == metric) & (table.eval_length == table.eval_length.max())]
    if (rows.condition == "real").any():
        ax.axvline(rows[rows.condition == "real"].value.mean(), color=colour("real"), linewidth=1, linestyle=":",
                   label="mean of the real runs")
    plot_runs(rows, order, ax)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xlabel(f"{metric_label(metric)} (fraction)\nn = {span(rows.n)} examples,\n{runs_each(rows)}")


def plot_runs(rows: pd.DataFrame, order: Sequence[str], ax: Axes, unable: Collection[str] = ()) -> None:
    """A row for each condition: the mean of its runs with the mean of their intervals, and the single runs below.

    Conditions that are `unable` to do the task get an open mark.
    """
    bases = sorted(rows["base"].unique())
    looks = dict(zip(bases, (_FILLS[number % len(_FILLS)] for number in range(len(bases))), strict=True))
    for place, condition in enumerate(order):
        own, tone = rows[rows.condition == condition], colour(condition)
        if own.empty:
            continue
        points(ax, [place], own[["value", "low", "high"]].mean().to_frame().T, across=True, fmt="D", markersize=5.5,
               color=tone, markerfacecolor="white" if condition in unable else tone, markeredgecolor="#222222",
               markeredgewidth=0.8, elinewidth=1.2, zorder=3)
        for number, (name, (form, filled)) in enumerate(looks.items() if len(own) > 1 else ()):
            single = own[own["base"] == name].value
            shift = 0.3 * (number - (len(bases) - 1) / 2) if len(bases) > 1 else 0.25
            ax.plot(single, np.full(len(single), place + shift), form, color=tone, markersize=3.5,
                    markerfacecolor=tone if filled else "white", markeredgewidth=0.9, zorder=4)
    ax.plot([], [], "D", color="#888888", markeredgecolor="#222222", markersize=5.5, label="mean over runs")
    for name, (form, filled) in looks.items():
        ax.plot([], [], form, color="#333333", markerfacecolor="#333333" if filled else "white", markersize=3.5,
                label=f"run from {name}" if len(bases) > 1 else "single run")
    condition_rows(ax, order)


def plot_shortfall(
    table: pd.DataFrame, metric: str, ax: Axes, order: Sequence[str], reach: float | None = None,
) -> None:
    """By how much each condition falls short of the real runs, with the 95% interval of the paired differences.

    From rows of the table `shortfall` of one task. `reach` is the largest difference of the axis.
    """
    rows = table[table.metric == metric]
    ax.axvline(0, color="#333333", linewidth=1)
    for place, condition in enumerate(order):
        if len(own := rows[rows.condition == condition]):
            points(ax, [place], own, across=True, fmt="o", color=colour(condition), markersize=5, elinewidth=1.4,
                   capsize=2)
    condition_rows(ax, order)
    reach = shortfall_reach(table) if reach is None else reach
    ax.set_xlim(-0.4 * reach, reach)
    repeated = f"{plural(span(rows.n_seeds), 'seed')}\nx {plural(span(rows.n_bases), 'base model')}"
    ax.set_xlabel(f"shortfall in {metric_label(metric)}\n(fraction; n = {span(rows.n)}\nexamples, {repeated})",
                  fontsize="small")


def shortfall_reach(table: pd.DataFrame) -> float:
    """The end of an axis of shortfalls that holds all of them; a difference of nothing shall not fill the panel."""
    values = table[["value", "low", "high"]].to_numpy(dtype=float)
    return max(0.1, 1.06 * float(np.nanmax(values)), -1.06 / 0.4 * float(np.nanmin(values)))


def runs_each(rows: pd.DataFrame) -> str:
    """Number of runs of each trained condition, for a label."""
    trained = rows[~rows.condition.isin(["base", "rope"])]
    return f"{plural(span((trained if len(trained) else rows).groupby('condition').size()), 'run')} each"


def has_nine(conditions: Iterable[str]) -> bool:
    """Whether all nine conditions of needle and haystack are among these."""
    return set(CELLS) <= set(conditions)


def map_top(shortfall: pd.DataFrame) -> float:
    """The largest shortfall of the nine conditions, for one scale of colours in all panels."""
    return max(0.1, shortfall[shortfall.condition.isin(CELLS)].value.max())


def plot_axis_map(shortfall: pd.DataFrame, metric: str, ax: Axes, top: float) -> None:
    """The mean shortfall in a task by realism of needle (rows) and haystack (columns), with the numbers in the cells.

    Starred are those that count: the 95% interval excludes 0, and all base models have one sign. `top` is the shortfall
    of the darkest colour.
    """
    rows = shortfall[(shortfall.metric == metric) & shortfall.condition.isin(CELLS)]
    own = rows.set_index("condition").reindex(CELLS)
    star = ((own.low > 0) | (own.high < 0)) & own.same_sign.eq(True)
    text = [f"{value:.2f}{'*' if counted else ''}".replace("-0.00", "0.00")
            for value, counted in zip(own.value, star, strict=True)]
    shape = (len(LEVELS), len(LEVELS))
    sns.heatmap(
        own.value.to_numpy(dtype=float).reshape(shape), annot=np.reshape(text, shape), fmt="", vmin=0,
        vmax=top, cmap="mako_r", ax=ax, cbar=False, linewidths=1,
        linecolor="white", xticklabels=LEVELS, yticklabels=LEVELS, square=True,
    )
    ax.grid(False)
    for place in np.flatnonzero(own.value.isna()):  # which the map leaves out
        ax.text(place % shape[1] + 0.5, place // shape[1] + 0.5, "–", ha="center", va="center", color="#333333")
    ax.set_ylabel("concept expression\n(needle)")
    ax.tick_params(left=False, bottom=False)
    if len(rows):
        ax.set_xlabel(f"context diversity (haystack)\n{metric_label(metric)}, n = {span(rows.n)}\n"
                      f"examples, {plural(span(rows.n_seeds), 'seed')}")


def axis_text(effects: pd.DataFrame, tasks: Sequence[str]) -> str:
    """What the axes cost in each task that has an estimate, as Markdown."""
    found = {task: axis_sentence(effects, task) for task in tasks}
    return "\n".join(f"- **{task}.** {text}" for task, text in found.items() if text) or MISSING
