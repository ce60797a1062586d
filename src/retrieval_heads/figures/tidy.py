"""Figures of one's own results: five functions that take a tidy table and an axis, and need nothing else of the study.

    from retrieval_heads import figures
    ax = figures.head_map(retrieval_scores(model, tokenizer, examples), threshold=0.1)
    figures.knockout_curve(table, ax=other)

Each draws on the axis it is given, or on that of a new figure, and returns it. Rows that differ in other columns only,
such as seeds, are averaged. Names of sets and conditions are free; those of the study keep their colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from retrieval_heads.errors import DataError
from retrieval_heads.figures import heads, knockout, patching
from retrieval_heads.figures.style import axis, colour, in_order, interval_bars, marker

_MARKERS = "osD^vPXp*h"


def head_map(scores: Any, threshold: float | None = None, ax: Axes | None = None, bar: bool = True) -> Axes:
    """The score of every head as a map: one row per layer, the first at the bottom, one column per head.

    Args:
        scores: a table with `layer`, `head` and `score` (a fraction), one row per head; or an array
            `[n_layers, n_heads]`, such as `retrieval_scores` gives.
        threshold: heads with a score above it get a frame.
        ax: the axis to draw on; a new one when None.
        bar: whether to draw the colour scale, which takes room from the axis.

    Raises:
        DataError: a column is missing, no row, several rows of one head, or an array of other dimensions.
    """
    if not isinstance(scores, pd.DataFrame):
        array = np.asarray(scores)
        if array.ndim != 2 or not array.size:
            raise DataError("no table of layers by heads", where="head_map", value=f"an array of shape {array.shape}",
                            remedy="Give `[n_layers, n_heads]`, or a table with layer, head and score.")
        layers, numbers = np.indices(array.shape)
        scores = pd.DataFrame({"layer": layers.ravel(), "head": numbers.ravel(), "score": array.ravel()})
    _need(scores, ("layer", "head", "score"), "head_map")
    repeated = scores[scores.duplicated(["layer", "head"])]
    if len(repeated):
        raise DataError("several rows of one head", where="head_map", remedy="Give the rows of one run and one score.",
                        value=f"layer {repeated['layer'].iloc[0]}, head {repeated['head'].iloc[0]}")
    ax = axis(ax)
    heads.plot_head_map(scores, threshold, ax, bar)
    return ax


def head_overlap(table: pd.DataFrame, measure: str = "recall", ax: Axes | None = None, chance: str = "chance") -> Axes:
    """A line for each condition: how much its heads have in common with reference heads, over thresholds.

    Args:
        table: with `condition`, `threshold` (of the score) and `value` (a fraction); if there is a column `measure`,
            the rows of `measure` are drawn. With a column `chance` a dotted line shows the chance level, and with
            `chance_low` and `chance_high` a band around it. The study's table ``overlap`` is one.
        measure: which measure, and the name of the vertical axis.
        ax: the axis to draw on; a new one when None.
        chance: name of that column; `layer_chance` for chance within each layer in the study's table.

    Raises:
        DataError: a column is missing, or there is no row.
    """
    _need(table, ("condition", "threshold", "value"), "head_overlap")
    rows = _chosen(table, "measure", measure, "head_overlap")
    ax, band = axis(ax), (f"{chance}_low", f"{chance}_high")
    for name, tone, sign in _looks(rows["condition"]):
        own = rows[rows.condition == name].groupby("threshold").mean(numeric_only=True)
        if set(band) <= set(own):
            ax.fill_between(own.index, own[band[0]], own[band[1]], color=tone, alpha=0.1, linewidth=0)
        if chance in own:
            ax.plot(own.index, own[chance], ":", color=tone, linewidth=1.4)
        ax.plot(own.index, own["value"], marker=sign, color=tone, markersize=5, label=name)
    ax.set(xlabel="threshold of the score (fraction)", ylabel=f"{measure} of heads (fraction)", ylim=(-0.04, 1.06))
    return _with_legend(ax)


def recall_against_performance(
    table: pd.DataFrame, ax: Axes | None = None, recall: str = "recall", performance: str = "performance",
) -> Axes:
    """A point for each condition: the share of the reference heads that it has, and how well it does.

    A condition of several rows is at their mean, with lines from the smallest to the largest value. A single row
    shows its vertical interval if the table has one.

    Args:
        table: with `condition`, `recall` and `performance` (fractions); optionally `performance_low` and
            `performance_high`. The study's table `run_predictors` is one. Rows without recall or performance are left
            out.
        ax: the axis to draw on; a new one when None.
        recall: name of that column, and of the horizontal axis.
        performance: name of that column, and of the vertical axis.

    Raises:
        DataError: a column is missing, or there is no row.
    """
    _need(table, ("condition", recall, performance), "recall_against_performance")
    rows, ax = table.dropna(subset=[recall, performance]), axis(ax)
    ends = (f"{performance}_low", f"{performance}_high")
    for name, tone, sign in _looks(rows["condition"]):
        own = rows[rows.condition == name]
        x, y = own[recall], own[performance]
        low, high = (own[end] for end in ends) if len(own) == 1 and set(ends) <= set(own) else ([y.min()], [y.max()])
        ax.errorbar(
            [x.mean()], [y.mean()], interval_bars([y.mean()], low, high),
            interval_bars([x.mean()], [x.min()], [x.max()]), fmt=sign, color=tone, markersize=7, elinewidth=0.8,
            label=name,
        )
    ax.set(xlabel=f"{recall} of the reference heads (fraction)", ylabel=f"{performance} (fraction)")
    return _with_legend(ax)


def knockout_curve(table: pd.DataFrame, ax: Axes | None = None, metric: str | None = None) -> Axes:
    """A line for each set of heads: a metric against the number of heads that are knocked out.

    Args:
        table: with `set`, `k` (number of heads knocked out) and `value`; optionally `low` and `high`, the ends of an
            interval. Rows of the set `none` (`k` 0) begin every line. With a column `draw`, rows of draw 0 make the
            line; the others, single random draws, are small marks. The study's table `knockout` is one, and so are the
            rows of `knockout_sweep` with a metric renamed to `value`.
        ax: the axis to draw on; a new one when None.
        metric: needed if a column `metric` holds several; the name of the vertical axis.

    Raises:
        DataError: a column is missing, there is no row, or there are several metrics and none is chosen.
    """
    _need(table, ("set", "k", "value"), "knockout_curve")
    rows = _chosen(table, "metric", metric, "knockout_curve")
    ax, main = axis(ax), _not_drawn(rows)
    start = main[main["set"] == "none"]
    known = {name: look[1:3] for name, look in knockout.SETS.items()}
    for name, tone, sign in _looks(rows.loc[rows["set"] != "none", "set"], known):
        own = pd.concat([start, main[main["set"] == name]]).groupby("k").mean(numeric_only=True)
        singles = rows[(rows["set"] == name) & ~rows.index.isin(main.index)]
        ax.plot(singles["k"], singles["value"], sign, color=tone, alpha=0.35, markersize=3)
        ax.errorbar(own.index, own["value"], _bars(own), color=tone, marker=sign, markersize=5, capsize=2, label=name)
    knockout.k_axis(ax, rows["k"])
    ax.set(xlabel="heads knocked out (number)", ylabel=metric or "value")
    return _with_legend(ax)


def patching_bars(table: pd.DataFrame, ax: Axes | None = None, metric: str | None = None) -> Axes:
    """A group of bars for each condition, one bar per set of heads whose outputs come from the source model.

    Args:
        table: with `condition`, `set` and `value`; optionally `low` and `high`, the ends of an interval. Rows of the
            set `source` are the source model's own value, drawn as a line across. With a column `draw`, only
            rows of draw 0 are used. The study's table `patching` is one.
        ax: the axis to draw on; a new one when None.
        metric: needed if a column `metric` holds several; the name of the vertical axis.

    Raises:
        DataError: a column is missing, there is no row, or there are several metrics and none is chosen.
    """
    _need(table, ("condition", "set", "value"), "patching_bars")
    rows = _chosen(table, "metric", metric, "patching_bars")
    ax, rows = axis(ax), _not_drawn(rows)
    source, rows = rows[rows["set"] == "source"], rows[rows["set"] != "source"]
    conditions, known = in_order(rows["condition"]), {name: look[1:] for name, look in patching.SETS.items()}
    order = [name for name in known if name in set(rows["set"])]
    looks = _looks([*order, *rows["set"]], known)
    width = 0.84 / max(1, len(looks))
    for place, (name, tone, hatch) in enumerate(looks):
        own = rows[rows["set"] == name].groupby("condition").mean(numeric_only=True).reindex(conditions)
        x = np.arange(len(conditions)) + (place - (len(looks) - 1) / 2) * width
        ax.bar(x, own["value"], width * 0.92, yerr=_bars(own), color=tone, hatch=hatch if name in known else "",
               edgecolor="white", linewidth=0.4, error_kw={"elinewidth": 0.9, "capsize": 2}, label=name)
    if len(source):
        ax.axhline(source["value"].mean(), color="#cc3311", linewidth=1.6, linestyle="--", label="source")
    ax.set_xticks(range(len(conditions)), conditions)
    ax.set(xlabel="patched model", ylabel=metric or "value")
    return _with_legend(ax, above=True)  # bars leave no room inside


def _need(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}", where=where, value=list(table.columns),
                        remedy=f"Give a table with the columns {', '.join(columns)}.")
    if table.empty:
        raise DataError("the table has no row", where=where, remedy="Check how its rows were chosen.")


def _chosen(table: pd.DataFrame, column: str, wanted: str | None, where: str) -> pd.DataFrame:
    """The rows of one measure or metric, where a column tells several apart."""
    if column not in table:
        return table
    found = list(dict.fromkeys(table[column]))
    if wanted not in found and not (wanted is None and len(found) == 1):
        raise DataError(f"one {column} is to be chosen", where=where, value=wanted,
                        remedy=f"Give `{column}`, one of {', '.join(map(str, found))}.")
    return table if wanted is None else table[table[column] == wanted]


def _not_drawn(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["draw"] == 0] if "draw" in rows else rows


def _looks(names: Sequence[str], known: dict[str, tuple[str, str]] | None = None) -> list[tuple[str, str, str]]:
    """Each name once with a colour and a marker (or hatching): the study's own, or the next of those left."""
    order = list(dict.fromkeys(names)) if known is not None else in_order(names)
    palette = sns.color_palette("colorblind", max(1, len(order))).as_hex()
    looks = []
    for place, name in enumerate(order):
        given = known.get(name) if known is not None else (colour(name), marker(name))
        free = palette[place], _MARKERS[place % len(_MARKERS)]
        looks.append((name, *(free if given is None or given == ("#000000", ".") else given)))
    return looks


def _bars(own: pd.DataFrame) -> np.ndarray | None:
    return interval_bars(own["value"], own["low"], own["high"]) if {"low", "high"} <= set(own) else None


def _with_legend(ax: Axes, above: bool = False) -> Axes:
    if ax.get_legend_handles_labels()[1]:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3} if above else {}
        ax.legend(fontsize="small", **place)
    return ax
