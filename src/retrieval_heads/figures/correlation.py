"""Figures of chapter 06: performance against what the heads of a run have in common with those of the real run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrieval_heads.claims.prediction import parts
from retrieval_heads.claims.runs import where
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.common import over_runs, points, shared_legend, write_empty
from retrieval_heads.figures.interval_tables import cells, with_interval
from retrieval_heads.figures.style import WIDTH, colour, in_order, marker, panels, words
from retrieval_heads.settings import Profile
from retrieval_heads.stages.provide import at_hand
from retrieval_heads.wording import p_value, span

NAMED = ("real_limited", "high_high", "low_low", "symbolic")
"""Conditions that have a colour and a name where there are many; the others are grey points."""

OTHERS = "another condition"

CHOSEN = ("base", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
"""Conditions whose overlap has a line where there are more than these."""

NOTHING = pd.DataFrame(columns=["predictor", "method", "conditions", "base", "task", "threshold", "estimate", "given"])
"""Stands for the table `correlation_runs` of a study with one seed."""

_MEASURES = {"recall": "recall (fraction of\nthe real run's heads)",
             "precision": "precision (fraction\nof the run's heads)"}
_BASE_LOOKS = (("D", "#de8f05"), ("s", "#029e73"), ("^", "#cc78bc"))


def has_claims(profile: Profile) -> bool:
    """Whether the tables of the claims can be read: the study has several seeds, and they need not be computed."""
    return len(profile.seeds) > 1 and at_hand(profile, "claims")


def performance_figure(profile: Profile, conditions: pd.DataFrame, claims: dict[str, pd.DataFrame] | None) -> Figure:
    """Performance against recall, one panel per task: over runs beside real runs of other seeds, or of the same seed.

    The latter, from `stages.correlate.conditions_table`, is for a study without the tables of the claims.
    """
    columns = min(3, len(profile.tasks))
    figure, axes = panels(profile.tasks, columns=columns, height=3.6 if columns > 1 else 3.2, width=WIDTH,
                          sharey=claims is None)
    found = {} if claims is None else recall_rows(claims["correlation_runs"], profile.detect.threshold)
    for task, ax in zip(profile.tasks, axes, strict=True):
        if claims is None:
            plot_correlation(conditions[conditions.task == task], ax)
        else:
            plot_runs(claims["run_predictors"].query("task == @task"), found.get(task), ax)
        if ax is not axes[0]:
            ax.set_ylabel("")
    shared_legend(figure, axes, columns=4)
    return figure


def plot_correlation(conditions: pd.DataFrame, ax: Axes) -> None:
    """F1 against recall: a point for each condition, with the 95% bootstrap interval of F1 over examples.

    The rows are those of one task from `stages.correlate.conditions_table`.
    """
    for condition in in_order(conditions.condition):
        own = conditions[conditions.condition == condition]
        points(ax, own.recall, own, ("f1", "f1_low", "f1_high"), fmt=marker(condition), color=colour(condition),
               markersize=6, capsize=2, elinewidth=0.8, label=words(condition))
    ax.set(ylim=(-0.04, 1.06), xlabel="recall of the real run's heads (fraction)", ylabel="token F1 (fraction)")
    _around(ax, conditions.recall)


def plot_runs(runs: pd.DataFrame, found: pd.Series | None, ax: Axes) -> None:
    """A point for each condition at the means of its runs; some are named, and have lines to their extreme runs.

    Of the rows of `run_predictors` of one task, `real`, controls and sizes are passed over. Above the panel stands what
    was `found`, a row of `correlation_runs`.
    """
    rows = parts(runs)[ALL].dropna(subset=["recall"])
    for condition in in_order(rows.condition):
        own, named = rows[rows.condition == condition], condition in NAMED
        tone = colour(condition) if named else "#9a9a9a"
        x, y = own.recall.mean(), own.performance.mean()
        if named:
            ax.plot([own.recall.min(), own.recall.max()], [y, y], color=tone, linewidth=0.8, alpha=0.6)
            ax.plot([x, x], [own.performance.min(), own.performance.max()], color=tone, linewidth=0.8, alpha=0.6)
        ax.plot([x], [y], marker(condition) if named else "o", color=tone, markersize=8 if named else 5, zorder=3,
                label=words(condition) if named else OTHERS)
    ax.set_title(f"{ax.get_title()}\n\n\n" if found is not None else ax.get_title())
    ax.text(0.5, 1.03, _found_text(found), transform=ax.transAxes, ha="center", va="bottom", fontsize="x-small")
    if rows.empty:
        write_empty(ax, "no run beside a real run\nof another seed has heads")
    ax.set_xlabel("recall of the real\nruns' heads (fraction)")
    ax.set_ylabel("exact match; citation F1\nfor summhay (fraction)")
    _around(ax, rows.recall)
    if len(rows):
        means = rows.groupby("condition").performance.mean()
        ax.set_ylim(max(-0.02, means.min() - 0.12), min(1.02, means.max() + 0.12))
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _found_text(found: pd.Series | None) -> str:
    """A row of `correlation_runs` in two lines; empty without one."""
    if found is None:
        return ""
    n = f"{found.n_conditions:.0f} conditions, {found.n_runs:.0f} runs"
    if pd.isna(found.estimate):
        return f"no rank correlation\n{n}"
    return f"Spearman {with_interval(found.estimate, found.low, found.high)},\n{p_value(found.p)}; {n}"


def _around(ax: Axes, values: pd.Series) -> None:
    """Limits around the points where they are close together, as head sets that overlap almost wholly are."""
    known = values.dropna()
    least, most = (known.min(), known.max()) if len(known) else (0, 1)
    pad = max(0.02, 0.15 * (most - least))
    ax.set_xlim(max(-0.04, least - pad), min(1.06, most + pad))


def recall_over_conditions(correlations: pd.DataFrame, base: str | None = "all") -> pd.DataFrame:
    """The rows of `correlation_runs` on recall over all conditions; of every base model with None."""
    rows = where(correlations, predictor="recall", method="spearman", conditions="all", given="nothing")
    return rows if base is None else rows[rows["base"] == base]


def recall_rows(correlations: pd.DataFrame, threshold: float) -> dict[str, pd.Series]:
    """The rank correlation of recall with performance at one threshold, over all conditions, by task (and `all`)."""
    rows = recall_over_conditions(correlations)
    return {row["task"]: row for _, row in rows[np.isclose(rows.threshold, threshold)].iterrows()}


def plot_over_thresholds(correlations: pd.DataFrame, threshold: float, ax: Axes) -> None:
    """The rank correlation of recall with performance over thresholds, all tasks together, and of each base model.

    From the table `correlation_runs`; the study's threshold is marked.
    """
    every = recall_over_conditions(correlations, base=None)
    every = every[(every["task"] == "all") & every.estimate.notna()].sort_values("threshold")
    if every.empty:
        write_empty(ax, "no rank correlation is defined\nwith so few conditions")
        return
    columns, look = ("estimate", "low", "high"), {"capsize": 2, "elinewidth": 1}
    whole = every[every["base"] == "all"]
    points(ax, whole.threshold, whole, columns, fmt="o-", color="#0173b2", label="all base models", **look)
    for (name, own), (mark, tone) in zip(every[every["base"] != "all"].groupby("base"), _BASE_LOOKS, strict=False):
        points(ax, own.threshold + 0.006, own, columns, fmt=mark, color=tone, label=name, **look)
    ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.axhline(0, color="#666666", linewidth=0.8)
    ax.set(ylim=(-1.05, 1.05), xlabel="threshold of the score (fraction)", ylabel="Spearman's correlation\nof recall")


def thresholds_table(correlations: pd.DataFrame) -> pd.DataFrame:
    """The rank correlation of recall over thresholds, from `correlation_runs`: one column per task."""
    rows = recall_over_conditions(correlations).rename(columns={"estimate": "value"})
    wide = rows.assign(cell=cells(rows)).pivot(index="threshold", columns="task", values="cell").reset_index()
    names = {"all": "tasks with heads", "every": "all tasks"}
    tasks = [name for name in wide if name not in ("threshold", *names)]
    return wide[["threshold", *tasks, *(name for name in names if name in wide)]].rename(columns=names)


def overlap_figure(overlap: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> Figure:
    """Recall on the left and precision on the right, one row of panels a task; chosen conditions where there are many.

    From rows of the table `overlap` of one kind and score mode a task, each run beside one real run.
    """
    many = overlap.condition.nunique() > len(CHOSEN)
    rows = overlap[overlap.condition.isin(CHOSEN)] if many else overlap
    places = [(task, measure) for task in tasks for measure in _MEASURES]
    figure, axes = panels([f"{task}, {measure}" for task, measure in places], columns=2,
                          height=min(3.2, 6.4 / len(tasks)), width=WIDTH)
    for (task, measure), ax in zip(places, axes, strict=True):
        plot_overlap(rows[rows.task == task], measure, threshold, ax)
        if task != tasks[-1]:
            ax.set_xlabel("")
    shared_legend(figure, axes, columns=4)
    return figure


def plot_overlap(overlap: pd.DataFrame, measure: str, threshold: float, ax: Axes) -> None:
    """A line for each condition: recall or precision against the threshold that makes a head a retrieval head.

    The dotted line in the same colour is its chance level for sets with as many heads in each layer, and the band
    around it holds 95% of such sets. A line ends where a set has no head. Runs are averaged. An upright line marks the
    study's threshold, with the number of heads of the real run.
    """
    rows = overlap[overlap.measure == measure]
    columns = ("value", "layer_chance", "layer_chance_low", "layer_chance_high")
    for condition in in_order(rows.condition):
        own = over_runs(rows[rows.condition == condition], ["threshold"], columns).sort_values("threshold")
        one = colour(condition)
        ax.fill_between(own.threshold, own.layer_chance_low, own.layer_chance_high, color=one, alpha=0.07, linewidth=0)
        ax.plot(own.threshold, own.layer_chance, ":", color=one, linewidth=1.4)
        ax.plot(own.threshold, own.value, "-", marker=marker(condition), color=one, markersize=5,
                label=words(condition))
    ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    n = span(rows.loc[rows.threshold == threshold, "n_reference"])
    ax.annotate(f"n = {n} heads of the real run", (0.5, 0.03), xycoords="axes fraction", ha="center",
                fontsize="x-small", bbox={"facecolor": "white", "linewidth": 0, "pad": 1})
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set(xlim=(0, 1.04 * rows.threshold.max()), xlabel="threshold of the score (fraction)",
           ylabel=_MEASURES[measure], ylim=(-0.22, 1.06))  # the number of heads stands below the data
