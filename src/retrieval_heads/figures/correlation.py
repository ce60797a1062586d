"""Figure of performance against what the heads of a run have in common with those of the real run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrieval_heads.claims.runs import claimed
from retrieval_heads.figures.common import shared_legend, write_empty
from retrieval_heads.figures.interval_tables import with_interval
from retrieval_heads.figures.style import (
    WIDTH,
    axis,
    colour,
    in_order,
    interval_bars,
    marker,
    metric_label,
    panels,
    words,
)
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.provide import at_hand
from retrieval_heads.wording import p_value

LABELS = {
    "recall": "recall of the real run's heads (fraction)", "cosine": "cosine with the real run's scores",
    "precision": "precision of heads (fraction)", "jaccard": "Jaccard of heads (fraction)",
    "n_heads": "retrieval heads (number)",
}
NAMED = ("real_limited", "high_high", "low_low", "symbolic")
"""Conditions that have a colour and a name where there are many; the others are grey points."""

OTHERS = "another condition"

NOTHING = pd.DataFrame(columns=["predictor", "method", "conditions", "base", "task", "threshold", "estimate", "given"])
"""Stands for the table `correlation_runs` of a study with one seed."""

_BASE_LOOKS = (("D", "#de8f05"), ("s", "#029e73"), ("^", "#cc78bc"))


def plot_correlation(
    conditions: pd.DataFrame, predictor: str = "recall", outcome: str = "f1", ax: Axes | None = None,
) -> Axes:
    """A point for each condition, with the 95% bootstrap interval of the performance over examples.

    Args:
        conditions: rows of one task as `stages.correlate.conditions_table` gives them; the predictor has no interval.
        predictor: across, one of the table's columns.
        outcome: upwards, `exact_match` or `f1`.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    for condition in in_order(conditions.condition):
        own = conditions[conditions.condition == condition]
        bars = interval_bars(own[outcome], own[f"{outcome}_low"], own[f"{outcome}_high"])
        ax.errorbar(
            own[predictor], own[outcome], bars, fmt=marker(condition), color=colour(condition),
            markersize=6, capsize=2, elinewidth=0.8, label=words(condition),
        )
    ax.set_ylim(-0.04, 1.06)
    ax.set_xlabel(LABELS.get(predictor, predictor))
    ax.set_ylabel(f"{metric_label(outcome)} (fraction)")
    if predictor not in ("n_heads",):
        _around(ax, conditions[predictor])
    return ax


def has_claims(profile: Profile) -> bool:
    """Whether the tables of the claims can be read: the study has several seeds, and they need not be computed."""
    return len(profile.seeds) > 1 and at_hand(profile, "claims")


def performance_figure(
    profile: Profile, conditions: pd.DataFrame, claims: dict[str, pd.DataFrame] | None,
) -> Figure:
    """Performance against recall, one panel per task: over runs beside real runs of other seeds, or of the same seed.

    Args:
        profile: of the study.
        conditions: as `stages.correlate.conditions_table` gives them, for a study without tables of the claims.
        claims: the tables `run_predictors` and `correlation_runs`; None when there are none.
    """
    columns = min(3, len(profile.tasks))
    height = 3.6 if columns > 1 else 3.2
    figure, axes = panels(profile.tasks, columns=columns, height=height, width=WIDTH, sharey=claims is None)
    for task, ax in zip(profile.tasks, axes, strict=True):
        if claims is None:
            plot_correlation(conditions[conditions.task == task], ax=ax)
        else:
            found = recall_rows(claims["correlation_runs"], profile.detect.threshold)
            plot_runs(claims["run_predictors"].query("task == @task"), found=found.get(task), ax=ax)
        if ax is not axes[0]:
            ax.set_ylabel("")
    shared_legend(figure, axes, columns=4)
    return figure


def plot_runs(runs: pd.DataFrame, found: pd.Series | None = None, ax: Axes | None = None) -> Axes:
    """A point for each condition at the means of its runs; some are named, and have lines to their extreme runs.

    Args:
        runs: rows of the table `run_predictors` of one task; `real`, controls and sizes are passed over.
        found: the row of the table `correlation_runs`, written above the panel.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = runs[runs.condition.isin([name for name in claimed(runs.condition.unique()) if name != REFERENCE])]
    rows = rows[rows.recall.notna()]
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
    return ax


def _found_text(found: pd.Series | None) -> str:
    """A row of `correlation_runs` in two lines; empty without one."""
    if found is None:
        return ""
    n = f"{found.n_conditions:.0f} conditions, {found.n_runs:.0f} runs"
    if pd.isna(found.estimate):
        return f"no rank correlation\n{n}"
    interval = "" if pd.isna(found.low) else f" [{found.low:.2f}, {found.high:.2f}]".replace("-0.00", "0.00")
    return f"Spearman {found.estimate:.2f}{interval},\n{p_value(found.p)}; {n}"


def recall_rows(correlations: pd.DataFrame, threshold: float) -> dict[str, pd.Series]:
    """The rank correlation of recall with performance at one threshold, over all conditions, by task (and `all`)."""
    rows = _recall(correlations)
    return {row["task"]: row for _, row in rows[np.isclose(rows.threshold, threshold)].iterrows()}


def plot_over_thresholds(correlations: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """The rank correlation of recall with performance over thresholds, all tasks together, and of each base model.

    Args:
        correlations: the table `correlation_runs`.
        threshold: the study's, marked.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    every = _recall(correlations, base=None)
    every = every[(every["task"] == "all") & every.estimate.notna()].sort_values("threshold")
    if every.empty:
        write_empty(ax, "no rank correlation is defined\nwith so few conditions")
        return ax
    whole = every[every["base"] == "all"]
    ax.errorbar(whole.threshold, whole.estimate, interval_bars(whole.estimate, whole.low, whole.high), fmt="o-",
                color="#0173b2", capsize=2, elinewidth=1, label="all base models")
    for (name, own), (mark, tone) in zip(every[every["base"] != "all"].groupby("base"), _BASE_LOOKS, strict=False):
        bars = interval_bars(own.estimate, own.low, own.high)
        ax.errorbar(own.threshold + 0.006, own.estimate, bars, fmt=mark, color=tone, capsize=2, elinewidth=1,
                    label=name)
    ax.axvline(threshold, color="#333333", linewidth=0.8, linestyle="--")
    ax.axhline(0, color="#666666", linewidth=0.8)
    ax.set(ylim=(-1.05, 1.05), xlabel="threshold of the score (fraction)", ylabel="Spearman's correlation\nof recall")
    return ax


def thresholds_table(correlations: pd.DataFrame) -> pd.DataFrame:
    """The rank correlation of recall with performance over thresholds, one column per task; dashes where undefined.

    Args:
        correlations: the table `correlation_runs`.
    """
    rows = _recall(correlations)
    rows = rows.assign(cell=[
        with_interval(*row) for row in rows[["estimate", "low", "high"]].to_numpy(dtype=float)
    ])
    wide = rows.pivot(index="threshold", columns="task", values="cell").reset_index()
    names = {"all": "tasks with heads", "every": "all tasks"}
    tasks = [name for name in wide if name not in ("threshold", *names)]
    return wide[["threshold", *tasks, *(name for name in names if name in wide)]].rename(columns=names)


def _recall(correlations: pd.DataFrame, base: str | None = "all") -> pd.DataFrame:
    rows = correlations[(correlations.predictor == "recall") & (correlations.method == "spearman")
                        & (correlations.conditions == "all") & (correlations.given == "nothing")]
    return rows if base is None else rows[rows["base"] == base]


def _around(ax: Axes, values: pd.Series) -> None:
    """Limits around the points where they are close together, as head sets that overlap almost wholly are."""
    known = values.dropna()
    least, most = (known.min(), known.max()) if len(known) else (0, 1)
    pad = max(0.02, 0.15 * (most - least))
    ax.set_xlim(max(-0.04, least - pad), min(1.06, most + pad))
