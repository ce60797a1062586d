"""Figures of what predicts performance: rank correlations side by side, and the regret of choosing by a quantity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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

_HEADS, _OTHER = "#0173b2", "#de8f05"
_CHEAP = ("training_loss", "probe_loss", "ngram_overlap", "base_overlap")


def plot_predictors(correlations: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlation of each predictor with performance, with its interval; the strongest on top.

    A quantity that promises performance by being small, a loss, stands at its negative correlation as it is.

    Args:
        correlations: rows of `correlation_runs` of one task, method and set of conditions, one a predictor.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = correlations[correlations.estimate.notna()].copy()
    rows = rows.reindex(rows.estimate.abs().sort_values().index)
    for place, row in enumerate(rows.itertuples()):
        cheap = row.predictor in _CHEAP
        bars = interval_bars(pd.Series([row.estimate]), pd.Series([row.low]), pd.Series([row.high]))
        ax.errorbar([row.estimate], [place], xerr=bars, fmt="s" if cheap else "o", capsize=3,
                    color=_OTHER if cheap else _HEADS, label="needs no heads" if cheap else "from heads")
    ax.axvline(0, color="#666666", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [NAMES.get(name, name) for name in rows.predictor])
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("Spearman's rank correlation")
    ax.grid(axis="y", visible=False)
    return ax


def plot_regret(choice: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What is lost by choosing the training set by each predictor, beside a random choice; the least loss on top.

    Args:
        choice: rows of the table `choice` of one task and set of candidates.
        ax: drawn on; a new one when None.
    """
    ax = axis(ax)
    rows = choice[choice.regret.notna()].sort_values("regret", ascending=False)
    places = np.arange(len(rows))
    if len(rows):
        bars = interval_bars(rows.regret, rows.regret_low, rows.regret_high)
        for place, (row, low, high) in enumerate(zip(rows.itertuples(), *bars, strict=True)):
            cheap = row.predictor in _CHEAP
            ax.errorbar([row.regret], [place], xerr=[[low], [high]], fmt="s" if cheap else "o", capsize=3,
                        color=_OTHER if cheap else _HEADS, label="needs no heads" if cheap else "from heads")
        ax.axvline(rows.random_regret.mean(), color="#666666", linestyle="--", linewidth=1.2, label="random choice")
    ax.set_yticks(places, [NAMES.get(name, name) for name in rows.predictor])
    ax.set_xlabel("regret (score lost against the best set)")
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.grid(axis="y", visible=False)
    return ax


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
