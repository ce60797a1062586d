"""Rank correlation of a predictor with performance over the runs of a study, per task and pooled within tasks.

A condition is the unit of evidence: its seeds and base models repeat it, and in several tasks it is the same recipe.
Therefore permutations exchange whole conditions, with all their tasks, base models and seeds (the whole-block
exchangeability of Winkler et al. 2015), and the bootstrap draws whole conditions (Davison and Hinkley 1997, section
3.8). The pooled correlation takes ranks inside each task, so that a task that is easier for all is no correlation.

Two units: `condition` averages over base models and seeds first, and is the correlation over conditions; `run` keeps
every run and takes ranks inside each task and base model, so that noise between seeds lowers the correlation: it
answers how well one run's performance can be told from its own heads. Under 4 conditions no p below 0.05 exists; with
tasks pooled there are no more conditions than in one, as they are exchanged together.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.bootstrap import RESAMPLES
from retrieval_heads.stats.correlation import PERMUTATIONS, correlate
from retrieval_heads.stats.runs import CONDITION, REPEAT, TASK, balanced, check_runs, condition_means

POOLED = "all"
"""Stands in the column `task` for all tasks together."""

UNITS = ("condition", "run")


def correlate_runs(
    runs: pd.DataFrame, predictor: str, outcome: str, *, given: str | None = None, method: str = "spearman",
    unit: str = "condition", level: float = 0.95, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate two columns of a table of runs; one row a task, and one for all tasks if there are several.

    Args:
        runs: one row a `task`, `condition`, `base` and `seed`, without the conditions that are not to count (the real
            one and the controls, say); `predictor` and `outcome` are numbers, NaN where not defined.
        predictor, outcome: names of the columns.
        given: a third column, whose part in both is removed (Spearman only).
        method: `spearman` or `kendall`.
        unit: `condition` or `run`, see above.
        level, n_resamples, n_permutations, seed: coverage of the interval, sample counts and random seed.

    Returns:
        `task`, `predictor`, `outcome`, `unit`, the columns of `correlation.correlate` (`n` counts the rows compared,
        `n_dropped` the runs left out), `n_conditions`, `n_runs` and `left_out` (conditions, see `runs.balanced`).

    Raises:
        ConfigError: an unknown unit, or as in `runs.check_runs` and `correlation.correlate`.
    """
    if unit not in UNITS:
        raise ConfigError("unknown unit", where="unit", value=unit, remedy=f"Use one of {', '.join(UNITS)}.")
    columns = [predictor, outcome] if given is None else [predictor, outcome, given]
    table = check_runs(runs, columns)
    parts = [(task, part) for task, part in table.groupby(TASK)]
    if len(parts) > 1:
        parts.append((POOLED, table))
    settings = {"method": method, "level": level, "n_resamples": n_resamples, "n_permutations": n_permutations,
                "seed": seed}
    return pd.DataFrame([
        {"task": task, "predictor": predictor, "outcome": outcome, "unit": unit}
        | _correlated(part, columns, unit, settings)
        for task, part in parts
    ])


def _correlated(part: pd.DataFrame, columns: list[str], unit: str, settings: dict[str, Any]) -> dict[str, Any]:
    x, y, *given = columns
    known, left_out = balanced(part, columns, joint=True)
    rows = condition_means(known, columns) if unit == "condition" else known
    by = [TASK] if unit == "condition" else [TASK, REPEAT[0]]
    found = correlate(
        rows[x], rows[y], groups=rows[by].astype(str).agg("/".join, axis=1) if len(rows) else [],
        # the order of the keys: rows of a cluster stand in the same order of tasks, base models and seeds
        clusters=rows[CONDITION], exchange="whole", covariate=rows[given[0]] if given else None, **settings,
    )
    reason = found["reason"]
    if not len(known) and part[[x, y]].notna().all(axis=1).any():
        reason = "no base model and seed has a value in every condition"
    for letter, name in (("x", x), ("y", y)):
        reason = reason.replace(f"{letter} is", f"{name} is", 1) if reason.startswith(f"{letter} is") else reason
    return found | {
        "n_dropped": len(part) - len(known), "n_conditions": known[CONDITION].nunique(), "n_runs": len(known),
        "left_out": ", ".join(left_out), "reason": reason,
    }
