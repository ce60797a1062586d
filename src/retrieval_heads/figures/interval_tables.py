"""Tables for reading: rounded numbers with their intervals, in the order of the figures."""

from __future__ import annotations

import pandas as pd

from retrieval_heads.figures.common import METRIC
from retrieval_heads.figures.style import in_order
from retrieval_heads.keys import RUN

DASH = "–"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.42 [0.30, 0.55]`; without brackets where there is no interval, a dash where there is no value."""
    if pd.isna(value):
        return DASH
    text = f"{value:.2f}"
    if not (pd.isna(low) or pd.isna(high)):
        text += f" [{low:.2f}, {high:.2f}]"
    return text.replace("-0.00", "0.00")


def in_run_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs by task, condition in the order of the figures, seed and base model."""
    place = {condition: number for number, condition in enumerate(in_order(table.condition))}
    return table.sort_values(
        RUN, key=lambda column: column.map(place) if column.name == "condition" else column, kind="stable",
        ignore_index=True,
    )


def effects_table(effects: pd.DataFrame, metric: str = METRIC) -> pd.DataFrame:
    """What each set costs and how retrieval heads compare with random ones; one row a run.

    Args:
        effects: rows of the table `knockout_effects` of one mode, scope and k.
        metric: one of the table's metrics.
    """
    names = {"retrieval": "retrieval heads", "random": "random heads", "bottom": "lowest-scored heads",
             "retrieval_over_random": "retrieval over random"}
    rows = effects[effects.metric == metric]
    return _wide(rows, "contrast", names, ("value", "low", "high"))


def patching_table(patching: pd.DataFrame, metric: str = METRIC) -> pd.DataFrame:
    """The gap of each run, the shares of it that sets of heads close, and what they gain over random heads."""
    rows = patching[(patching.metric == metric) & (patching.draw == 0)]
    gap = _wide(rows, "set", {"source": "gap"}, ("change", "change_low", "change_high"))
    closed = _wide(
        rows[rows.n_heads > 0], "set", {name: f"closed by {name}" for name in ("intersection", "complement", "all")},
        ("closed", "closed_low", "closed_high"),
    )
    over = _wide(
        rows[rows.n_heads > 0], "set", {name: f"{name} over random" for name in ("intersection", "complement")},
        ("over_random", "over_random_low", "over_random_high"),
    )
    return gap.merge(closed, how="left", on=RUN).merge(over, how="left", on=RUN).fillna(DASH)


def correlation_table(correlation: pd.DataFrame) -> pd.DataFrame:
    """Every correlation with its interval, p-value and number of conditions, and why one is missing."""
    return pd.DataFrame({
        "task": correlation.task, "predictor": correlation.predictor, "outcome": correlation.outcome,
        "Spearman": [with_interval(*row) for row in correlation[["value", "low", "high"]].to_numpy()],
        "p": [DASH if pd.isna(p) else f"{p:.2f}" for p in correlation.p], "n": correlation.n,
        "note": correlation.reason.fillna(""),
    })


def _wide(rows: pd.DataFrame, by: str, names: dict[str, str], columns: tuple[str, str, str]) -> pd.DataFrame:
    """One row a run, one text column for each entry of `names`, in that order."""
    known = rows[rows[by].isin(names)]
    cells = [with_interval(*row) for row in known[list(columns)].to_numpy(dtype=float)]
    wide = known.assign(cell=cells).pivot(index=RUN, columns=by, values="cell")
    wide = wide.reindex(columns=list(names)).astype(object).fillna(DASH)
    return in_run_order(wide.rename(columns=names).rename_axis(columns=None).reset_index())
