"""Figures of chapter 04: the score against the number of heads that are out, areas between curves, and other costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from retrieval_heads.claims.necessity import ABLE, METRIC
from retrieval_heads.figures.common import METRIC_LABEL, REPEATED, condition_rows, mean_and_range, over_runs, points
from retrieval_heads.figures.performance import plot_runs, runs_each
from retrieval_heads.keys import RUN
from retrieval_heads.wording import plural, span

SETS = {
    "retrieval": ("retrieval heads, strongest first", "#d55e00", "o", "-"),
    "random": ("random heads of the same layers", "#555555", "s", "--"),
    "random_group": ("random heads matched by key/value group", "#009e73", "D", "-."),
    "bottom": ("weakest heads of the same layers", "#56b4e9", "^", ":"),
}
"""Label, colour, marker and line of each set."""

EARLIER = "weakest heads of the model (layers 0 and 1)"
"""What `bottom` is in tables of an earlier version, which have no column `groups`."""

_PLACES = {"task": ("answers", "-", True), "text": ("plain text", "--", False)}
"""Name, line and whether the markers are filled of each place where a knock-out costs."""


def plot_knockout(table: pd.DataFrame, ax: Axes) -> None:
    """A line for each set of heads: exact match against the number of heads knocked out, from none on.

    From rows of the table `knockout` of one task, condition, mode and scope, and those of `set` none. Numbers that not
    all runs have, such as that of all retrieval heads of one, are left out. The bars are 95% bootstrap intervals over
    examples (and over draws for the random sets), averaged over runs; the small marks are single random draws, and
    single runs where there are several.
    """
    rows = in_all_runs(table[table.metric == METRIC])
    start = rows[rows.set == "none"]
    for shift, (name, (label, colour, marker, line)) in enumerate(SETS.items(), -1):
        own = rows[rows.set == name]
        if own.empty:
            continue
        label = EARLIER if name == "bottom" and "groups" not in table else label
        several = len(own.drop_duplicates(REPEATED)) > 1
        singles = own[own.draw > 0] if name == "random" else own[(own.draw == 0) & several]
        ax.plot(_spread(singles.k, shift), singles.value, marker, color=colour, alpha=0.35, markersize=3, zorder=1)
        mean = over_runs(pd.concat([start, own[own.draw == 0]]), ["k"]).sort_values("k")
        points(ax, _spread(mean.k, shift), mean, label=label, color=colour, marker=marker, linestyle=line,
               markersize=5, capsize=2, linewidth=1.6)
    k_axis(ax, rows.k)
    ax.set_xlabel(f"heads knocked out (number;\nn = {span(rows.n)} examples)")
    ax.set_ylabel(METRIC_LABEL, fontsize="small")
    ax.set_ylim(-0.04, 1.06)


def plot_effects(effects: pd.DataFrame, k: int, ax: Axes, order: Sequence[str]) -> None:
    """What `k` heads of each set cost each condition: one row per condition, in `order`, with means over its runs.

    From rows of `knockout_effects` of one task, mode and scope, with their 95% intervals of paired differences.
    """
    rows = effects[(effects.metric == METRIC) & (effects.k == k)]
    earlier = "retrieval_over_bottom" not in set(effects.contrast)
    shown = [name for name in SETS if (rows.contrast == name).any()]
    for place, name in enumerate(shown):
        label, colour, marker, _ = SETS[name]
        own, shift = rows[rows.contrast == name], (2 * place - (len(shown) - 1)) / max(2, len(shown) - 1.5)
        points(ax, np.arange(len(order)) + 0.25 * shift,
               over_runs(own, ["condition"]).set_index("condition").reindex(order), across=True,
               label=EARLIER if name == "bottom" and earlier else label, color=colour, marker=marker,
               linestyle="none", markersize=4.5, capsize=1.5, elinewidth=1.1)
    ax.axvline(0, color="#333333", linewidth=0.8)
    _room_around_nothing(ax)
    condition_rows(ax, order)
    ax.set_xlabel(f"loss of {METRIC_LABEL}\nn = {span(rows.n)} examples,\n"
                  f"{runs_each(rows[rows.contrast == 'retrieval'])}", fontsize="small")


def _room_around_nothing(ax: Axes) -> None:
    """A loss of next to nothing shall look like it. Numbers at the very ends would run into those of the next panel."""
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -0.1), max(high, 0.3))
    ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))


def comparison_sizes(knockout: pd.DataFrame, sizes: Iterable[int]) -> dict[str, int]:
    """By task, how many heads are out where all its runs are compared.

    It is the largest of `sizes` at which every run of the task loses retrieval heads only and has a random control;
    else the smallest. Each task has its own, as runs of one have many retrieval heads and of another hardly any. The
    table `knockout` has one more size for each run, the number of its own retrieval heads, at which runs cannot be
    compared.
    """
    chosen = {}
    for task, rows in knockout[knockout.k.isin(list(sizes))].groupby("task", sort=False):
        fitting = [k for k in set(rows[rows.set == "random"].k) if k <= rows.n_retrieval.min()]
        chosen[task] = int(max(fitting, default=rows.k.min()))
    return chosen


def in_all_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of those numbers of heads that every run has, in each set on its own."""
    run = rows.groupby(REPEATED).ngroup()
    return rows[run.groupby([rows["set"], rows.k]).transform("nunique") == run.nunique()]


def k_axis(ax: Axes, k: pd.Series) -> None:
    """The axis of the number of heads: logarithmic from 1 on, with labels that have room."""
    ks = sorted(k.unique())
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    shown = [one for place, one in enumerate(ks) if len(ks) < 7 or (len(ks) - 1 - place) % 2 == 0]
    ax.set_xticks(shown, [str(one) for one in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.2, max(ks) * 1.35)


def knockout_panels(table: pd.DataFrame, conditions: Sequence[str] | None = None) -> list[tuple[str, pd.DataFrame]]:
    """A title and the rows for `plot_knockout` of each task, mode and scope of a table, with the unaltered runs."""
    chosen = table if conditions is None else table[table.condition.isin(conditions)]
    several = chosen.loc[chosen.scope != "none", "scope"].nunique() > 1
    found = []
    for (task, mode, scope), rows in chosen[chosen["mode"] != "none"].groupby(["task", "mode", "scope"], sort=False):
        start = chosen[(chosen.task == task) & (chosen["mode"] == "none")]
        found.append((f"{task}, {mode}" + (f", scope {scope}" if several else ""), pd.concat([start, rows])))
    return found


def _spread(k: pd.Series, shift: int) -> pd.Series:
    """Slightly apart, so that the bars of the three sets do not hide each other."""
    return k * (1 + 0.05 * shift) + 0.04 * shift * (k == 0)


def plot_areas(areas: pd.DataFrame, ax: Axes, order: Sequence[str]) -> None:
    """A row for each condition: the mean area between the curves over its runs with its interval, and the single runs.

    From rows of the table `knockout_area` of one task, mode, scope and set. Conditions whose runs answer too little on
    average for anything to be lost have open marks.
    """
    rows = areas.dropna(subset=["value"])
    start = areas.groupby("condition").start.mean()
    ax.axvline(0, color="#333333", linewidth=0.8)
    plot_runs(rows, order, ax, set(start.index[start < ABLE]))
    _room_around_nothing(ax)
    if len(rows):
        ax.set_xlabel(f"area (fraction)\nn = {span(rows.n)} examples,\n{runs_each(rows)}")


def specificity_costs(text_loss: pd.DataFrame, knockout: pd.DataFrame) -> pd.DataFrame:
    """By how much the loss per token (nats) rises with heads out, in two places: on plain text, and on the answers.

    One row per run, `place` (text or task), `set` and `k`. Of the table `knockout` the negative log-likelihood in mode
    zero and scope answer is taken, of the runs that have read plain text.
    """
    own = knockout[(knockout.metric == "nll") & (knockout.draw == 0) & (
        (knockout["set"] == "none") | ((knockout["mode"] == "zero") & (knockout.scope == "answer")))]
    own = own.merge(text_loss[RUN].drop_duplicates(), on=RUN)
    both = pd.concat([text_loss.assign(place="text"), own.rename(columns={"value": "loss"}).assign(place="task")])
    start = both[both["set"] == "none"].set_index([*RUN, "place"]).loss.rename("start")
    both = both[both["set"].isin(SETS)].join(start, on=[*RUN, "place"])
    return both.assign(value=both.loss - both.start)[[*RUN, "place", "set", "k", "value", "n"]]


def plot_specificity(costs: pd.DataFrame, ax: Axes) -> None:
    """Lines of the rise of the loss (`specificity_costs` of one task) against the number of heads out.

    Bars are from the least to the greatest run. Numbers of heads that not all runs have are left out.
    """
    for name in ("retrieval", "random"):
        _, tone, form, _ = SETS[name]
        for place, (where, line, filled) in _PLACES.items():
            own = costs[(costs["set"] == name) & (costs.place == place)]
            if own.empty:
                continue
            mean = mean_and_range(in_all_runs(own), "k")
            points(ax, mean.index, mean, color=tone, marker=form, linestyle=line, markersize=4.5,
                   markerfacecolor=tone if filled else "white", linewidth=1.4, elinewidth=1,
                   label=f"{name} heads, {where}")
    k_axis(ax, in_all_runs(costs[costs["set"].isin(["retrieval", "random"])]).k)
    n = costs.groupby("place").n.max()
    ax.set_xlabel(f"heads knocked out (number;\n{n['task']} answers, {n['text']} rows of text,\n"
                  f"{plural(len(costs.drop_duplicates(REPEATED)), 'run')})")
    ax.set_ylabel("rise of the loss\n(nats per token)")
