"""Figures of what predicts performance: rank correlations, errors for left-out conditions, the regret of a choice."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.figures.common import counts, write_empty
from retrieval_heads.figures.interval_tables import with_interval
from retrieval_heads.figures.style import axis, interval_bars

NAMES = {
    "recall": "recall of heads", "recall_few": "recall, 20 probe examples", "precision": "precision of heads",
    "cosine": "cosine of scores", "cosine_few": "cosine, 20 probe examples", "mean_strength": "mean strength of heads",
    "n_heads": "number of heads", "mass_cosine": "cosine of attention mass",
    "query_mass_cosine": "cosine of question mass (QRHead)", "contribution_cosine": "cosine of contributions (LOCOS)",
    "score_top": "top heads by copy score", "mass_top": "top heads by attention mass",
    "query_mass_top": "top heads by question mass (QRHead)",
    "contribution_top": "top heads by contribution (LOCOS)", "base_overlap": "overlap with the base model",
    "training_loss": "training loss", "probe_loss": "loss on the probe examples",
    "ngram_overlap": "word pairs in common",
}
"""Predictors in words."""

_KINDS = {
    "heads beside those of a real run": ("o", "#0173b2"),
    "heads of the run and the base model alone": ("D", "#029e73"),
    "no heads": ("s", "#de8f05"),
}
"""Kinds of predictors with marker and colour, in the order of the legend."""

_NO_REAL_RUN = ("n_heads", "base_overlap")
_NO_HEADS = ("training_loss", "probe_loss", "ngram_overlap")
LOSSES = ("training_loss", "probe_loss")
"""Predictors that promise performance by being low."""


def list_height(rows: pd.DataFrame, column: str) -> float:
    """Inches of a figure with one line for each row that has a value; a low one where there is none."""
    n = int(rows[column].notna().sum())
    return 1.2 + 0.24 * n if n else 1.8


def plot_predictors(correlations: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlation of each predictor with performance, with its interval; the strongest on top.

    A quantity that promises performance by being small, a loss, stands at its correlation as it is, and is marked.

    Args:
        correlations: rows of `correlation_runs` of one task, method and set of conditions, one a predictor.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = correlations[correlations.estimate.notna()].copy()
    rows = rows.reindex(rows.estimate.abs().sort_values().index)
    _points(ax, rows, ("estimate", "low", "high"), signed=True)
    if len(rows):
        ax.axvline(0, color="#666666", linewidth=0.8)
        ax.set_xlim(-1.05, 1.05)
    n = f" (n = {counts(rows.n_conditions)} conditions)" if len(rows) else ""
    ax.set_xlabel(f"Spearman's rank correlation{n}")
    if rows.empty:
        write_empty(ax, "no rank correlation is defined\nwith so few conditions")
    return ax


def plot_regret(choice: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What is lost by choosing the training set by each predictor, beside a random choice; the least loss on top.

    Args:
        choice: rows of the table `choice` of one task and set of candidates.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = choice[choice.regret.notna()].sort_values("regret", ascending=False)
    _points(ax, rows, ("regret", "regret_low", "regret_high"))
    if len(rows):
        ax.axvline(rows.random_regret.mean(), color="#666666", linestyle="--", linewidth=1.2, label="a random choice")
        low, high = rows.random_regret_low.mean(), rows.random_regret_high.mean()
        if not pd.isna(low):
            ax.axvspan(low, high, color="#666666", alpha=0.12, linewidth=0)
    else:
        write_empty(ax, "no choice could be made:\nit takes real runs of several seeds")
    n = f"; n = {counts(rows.n_choices)} choices of {counts(rows.n_candidates)} sets" if len(rows) else ""
    ax.set_xlabel(f"regret (fraction of the score{n})")
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    return ax


def _points(ax: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], signed: bool = False) -> None:
    """One point a row with its interval, the first row lowest; losses are marked if signed."""
    places, estimate = np.arange(len(rows)), rows[columns[0]].to_numpy(dtype=float)
    bars = interval_bars(*(rows[name] for name in columns)) if len(rows) else np.zeros((2, 0))
    kinds = rows.predictor.map(_kind)
    for kind, (mark, colour) in _KINDS.items():
        own = (kinds == kind).to_numpy(dtype=bool)
        if own.any():
            ax.errorbar(estimate[own], places[own], xerr=bars[:, own], fmt=mark, capsize=3, color=colour, label=kind)
    names = [NAMES.get(name, name) + (" (low is good)" if signed and name in LOSSES else "") for name in rows.predictor]
    ax.set_yticks(places, names)
    if len(rows):
        ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="y", visible=False)


def _kind(predictor: str) -> str:
    with_real, alone, without = _KINDS
    return without if predictor in _NO_HEADS else alone if predictor in _NO_REAL_RUN else with_real


def errors_table(errors: pd.DataFrame) -> pd.DataFrame:
    """The error in predicting a left-out condition by each quantity, the smallest first, and the gain over the mean.

    Args:
        errors: rows of the table `prediction_errors` of one task and set of conditions, beside the reference `mean`.
    """
    rows = errors[errors.error.notna()].sort_values("error")
    return pd.DataFrame({
        "predicted from": [NAMES.get(name, name) for name in rows.predictor],
        "absolute error": [with_interval(*row) for row in rows[["error", "error_low", "error_high"]].to_numpy(float)],
        "gain over the mean": [with_interval(*row) for row in rows[["gain", "gain_low", "gain_high"]].to_numpy(float)],
        "conditions": rows.n_conditions, "finding": rows.finding,
    })
