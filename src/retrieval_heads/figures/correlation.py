"""Figure of performance against what the heads of a run have in common with those of the real run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrieval_heads.claims.head_arrays import claimed
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.interval_tables import with_interval
from retrieval_heads.figures.style import WIDTH, axis, colour, in_order, interval_bars, marker, metric_label, panels
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.provide import at_hand

LABELS = {
    "recall": "recall of the real run's heads (fraction)", "cosine": "cosine with the real run's scores",
    "precision": "precision of heads (fraction)", "jaccard": "Jaccard of heads (fraction)",
    "n_heads": "retrieval heads (number)",
}


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
            markersize=6, capsize=2, elinewidth=0.8, label=condition,
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
    """Performance against recall, one panel a task: over runs beside real runs of other seeds, or of the same seed.

    Args:
        profile: of the study.
        conditions: as `stages.correlate.conditions_table` gives them, for a study without tables of the claims.
        claims: the tables `run_predictors` and `correlation_runs`; None when there are none.
    """
    columns = min(3, len(profile.tasks))
    height = 3.6 if columns > 1 else 3.2
    figure, axes = panels(profile.tasks, columns=columns, height=height, width=WIDTH, sharey=True)
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
    """A point for each condition at the means of its runs, with a cross of lines from the lowest to the highest run.

    Args:
        runs: rows of the table `run_predictors` of one task; `real`, controls and sizes are passed over.
        found: the row of the table `correlation_runs`, written below the points.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = runs[runs.condition.isin([name for name in claimed(runs.condition.unique()) if name != REFERENCE])]
    rows = rows[rows.recall.notna()]
    for condition in in_order(rows.condition):
        own, one = rows[rows.condition == condition], colour(condition)
        x, y = own.recall.mean(), own.performance.mean()
        ax.plot([own.recall.min(), own.recall.max()], [y, y], color=one, linewidth=0.8, alpha=0.6)
        ax.plot([x, x], [own.performance.min(), own.performance.max()], color=one, linewidth=0.8, alpha=0.6)
        ax.plot([x], [y], marker(condition), color=one, markersize=7, label=condition)
    if found is not None:
        n = f"n = {found.n_conditions:.0f} conditions,\n{found.n_runs:.0f} runs"
        value = "no rank correlation" if pd.isna(found.estimate) else f"Spearman {found.estimate:.2f}" + (
            "" if pd.isna(found.low) else f"\n[{found.low:.2f}, {found.high:.2f}], p = {found.p:.3f}").replace(
            "-0.00", "0.00")
        _below(ax, f"{value}\n{n}", room=0.5)
    else:
        _below(ax, "")
    if rows.empty:
        _below(ax, "no run beside a real run\nof another seed has heads")
    ax.set_xlabel("recall of the real\nruns' heads (fraction)")
    ax.set_ylabel("exact match; citation F1\nfor summhay (fraction)")
    _around(ax, rows.recall)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    return ax


def recall_rows(correlations: pd.DataFrame, threshold: float) -> dict[str, pd.Series]:
    """The rank correlation of recall with performance at one threshold, over all conditions, by task (and `all`)."""
    rows = _recall(correlations)
    return {row["task"]: row for _, row in rows[np.isclose(rows.threshold, threshold)].iterrows()}


def thresholds_table(correlations: pd.DataFrame) -> pd.DataFrame:
    """The rank correlation of recall with performance over thresholds, one column a task; dashes where undefined.

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


def _recall(correlations: pd.DataFrame) -> pd.DataFrame:
    return correlations[(correlations.predictor == "recall") & (correlations.method == "spearman")
                        & (correlations.base == "all") & (correlations.conditions == "all")
                        & (correlations.given == "nothing")]


def _below(ax: Axes, text: str, room: float = 0.3) -> None:
    """Write in a strip of the axis below 0, where no point can be."""
    ax.set_ylim(-room, 1.06)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.annotate(text, (0.03, 0.02), xycoords="axes fraction", va="bottom", fontsize="x-small",
                bbox={"facecolor": "white", "linewidth": 0, "pad": 1})


def _around(ax: Axes, values: pd.Series) -> None:
    """Limits around the points where they are close together, as head sets that overlap almost wholly are."""
    known = values.dropna()
    least, most = (known.min(), known.max()) if len(known) else (0, 1)
    pad = max(0.02, 0.15 * (most - least))
    ax.set_xlim(max(-0.04, least - pad), min(1.06, most + pad))
