"""Plumbing of the figures: runs as one point, points with intervals, a row for each condition, one legend below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads.figures.style import WIDTH, group, interval_bars, panels, words

METRIC_LABEL = "exact match,\nteacher forced (fraction)"

INTERVAL = ("value", "low", "high")

REPEATED = ["seed", "base"]
"""The key columns of a run that tell apart the repetitions of a condition."""

MANY_RUNS = 40
"""With more runs than this, a table has one row per condition and not one row per run."""


def over_runs(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str] = INTERVAL) -> pd.DataFrame:
    """Means of columns over seeds and base models; one run gives its rows.

    The mean of the runs' lower ends is at most the lower end of an interval of the mean over the same examples, and
    likewise above: averaged ends are on the safe side for chance in the *examples*. They say nothing of chance in the
    training, for which the single runs have to be shown.
    """
    return table.groupby(list(by), sort=False, dropna=False)[list(columns)].mean().reset_index()


def mean_and_range(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The mean value over runs with the least and the greatest of them as ends, by the values of a column."""
    found = rows.groupby(by).value.agg(["mean", "min", "max"])
    return found.set_axis(list(INTERVAL), axis=1)


def points(
    ax: Axes, at: Any, rows: pd.DataFrame, columns: Sequence[str] = INTERVAL, across: bool = False, **look: Any,
) -> None:
    """Points with their intervals (a value and its ends): upwards at the places `at`, or across, each at its height."""
    value, low, high = (rows[name] for name in columns)
    bars = interval_bars(value, low, high)
    if across:
        ax.errorbar(value, at, xerr=bars, **look)
    else:
        ax.errorbar(at, value, bars, **look)


def named_rows(ax: Axes, names: Sequence[str], margin: float = 0.5, size: str | None = "small") -> None:
    """A row for each name, from above."""
    ax.set_yticks(range(len(names)), names, **({"fontsize": size} if size else {}))
    ax.set_ylim(max(len(names), 1) - 1 + margin, -margin)
    ax.grid(axis="y", visible=False)


def condition_rows(
    ax: Axes, order: Sequence[str], margin: float = 0.5, grouped: bool = True, size: str | None = "small",
) -> None:
    """A row for each condition from above, with a line where another group begins."""
    named_rows(ax, [words(name) for name in order], margin, size)
    for place, (before, after) in enumerate(pairwise(order)):
        if grouped and group(before) != group(after):
            ax.axhline(place + 0.5, color="#999999", linewidth=0.7)


def beside_rows(ax: Axes, texts: dict[int, str], size: str) -> None:
    """Short texts on the right of some rows, by their places."""
    for place, text in texts.items():
        ax.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=size,
                    annotation_clip=False)


def write_empty(ax: Axes, text: str) -> None:
    """Say in an empty panel why nothing is drawn, and take the scales away."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="small", color="#444444")
    ax.set_xticks([])
    ax.set_yticks([])


def write_over(ax: Axes, text: str) -> None:
    """The same where other panels share the scales, which stay."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="x-small", color="#444444",
            bbox={"facecolor": "white", "linewidth": 0})


def shared_legend(figure: Figure, axes: Sequence[Axes], columns: int = 3) -> None:
    """One legend below the panels, with every entry of any of them once."""
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, fontsize="small")


def task_figure(
    tasks: Sequence[str], table: pd.DataFrame, draw: Callable[[pd.DataFrame, Axes], Any], legend: int = 3,
    **settings: Any,
) -> Figure:
    """Panels of the tasks side by side on the same scales, each drawn from its rows of the table, with one legend.

    `settings` are those of `style.panels`.
    """
    settings = {"columns": len(tasks), "width": WIDTH, "sharey": True, "sharex": True} | settings
    figure, axes = panels(tasks, **settings)
    for task, ax in zip(tasks, axes, strict=True):
        draw(table[table.task == task] if len(table) else table, ax)
        if ax is not axes[0]:
            ax.set_ylabel("")
    shared_legend(figure, axes, columns=legend)
    return figure
