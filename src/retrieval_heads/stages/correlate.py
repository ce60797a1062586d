"""Overlap of every run's heads with those of the real run, and its rank correlation with performance over conditions.

The correlation is over conditions, not over runs: a condition trained under three seeds is one piece of evidence, so
heads and performance are averaged over the seeds, and over base models, first. The real condition is left out, as its
recall is 1 by definition and would make a correlation by itself, and so are the base models, which were not extended,
and the controls, which lack what the claim is about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from retrieval_heads.commands.choice import Options
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.keys import RUN, table_path
from retrieval_heads.manifest import Facts
from retrieval_heads.metrics import main_metric
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING
from retrieval_heads.stages.head_sets import score_kind, score_mode
from retrieval_heads.stages.overlap import MEASURES, overlap_rows, same_seed
from retrieval_heads.stats.correlation import correlate
from retrieval_heads.store import Store
from retrieval_heads.tables import conform, read_table

PREDICTORS = (*MEASURES, "n_heads")
OUTCOMES = ("exact_match", "f1")

_LEFT_OUT = ("base", *(name for name, condition in CONDITIONS.items() if not condition.dissected))

POOLED = "all"
"""Stands in the column `task` for all tasks together, ranks taken within each."""

LEVEL = 0.05
"""Of the permutation test, two-sided."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables `overlap` and `correlation` of all runs that are there; their paths.

    Both are made again at each call, as they take seconds and depend on all runs.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    detect.run(profile, options)
    return derive(profile)


def derive(profile: Profile) -> list[Path]:
    """Make the tables `overlap` and `correlation` from the tables `head_scores` and `performance` that are there."""
    store = Store.open(profile)
    with store.merging():
        return _derived(profile, store)


def _derived(profile: Profile, store: Store) -> list[Path]:
    tables = {name: read_table(name, table_path(profile.name, name)) for name in ("head_scores", "performance")}
    scores = tables["head_scores"]
    kind = scores.task.map({task: score_kind(profile, task) for task in profile.tasks})
    fitting = scores[(scores.kind == kind) & (scores.score_mode == score_mode(profile))]
    overlap = conform("overlap", overlap_rows(fitting, profile.detect.thresholds))
    made = {"overlap": overlap, "correlation": correlation_rows(profile, overlap, tables["performance"])}
    for name, rows in made.items():
        store.write_part(name, "all", rows, Facts(device="cpu", seeds=(0,)))
    return [store.merge(name, ["all"]) for name in made]


def conditions_table(profile: Profile, overlap: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """One row a task and condition but `real` and controls: heads and performance, each averaged over its runs.

    Args:
        overlap: the table `overlap`.
        performance: the table `performance`.

    Returns:
        `task`, `condition`, `n_seeds`, `n_bases`, a column for each of `PREDICTORS` (retrieval heads by the kind of
        score that fits the task, at the profile's threshold) and of `OUTCOMES` (at the longest evaluation length; `f1`
        is the citation F1 for `summhay`), and `NAME_low`, `NAME_high` of the outcomes, averaged like them.
    """
    heads = _heads_of_runs(profile, overlap)
    scores = _scores_of_runs(profile, performance)
    table = heads.merge(scores, on=RUN, validate="one_to_one")
    groups = table.groupby(["task", "condition"])
    means = groups[[name for name in table if name not in RUN]].mean()
    return means.assign(n_seeds=groups["seed"].nunique(), n_bases=groups["base"].nunique()).reset_index()


def compared(profile: Profile, overlap: pd.DataFrame) -> pd.DataFrame:
    """The rows of `overlap` that the claims are about: every other run, and the base models, beside a real run.

    Of the same seed (`same_seed`), by the kind of score that fits the task, at all thresholds.
    """
    known = same_seed(overlap)
    kind = known.task.map({task: score_kind(profile, task) for task in known.task.unique()})
    chosen = (known.kind == kind) & (known.score_mode == score_mode(profile)) & (known.condition != REFERENCE)
    return known[chosen].reset_index(drop=True)


def _heads_of_runs(profile: Profile, overlap: pd.DataFrame) -> pd.DataFrame:
    known = compared(profile, overlap)
    at_threshold = (known.threshold == profile.detect.threshold) | known.threshold.isna()
    known = known[at_threshold & ~known.condition.isin(_LEFT_OUT)]
    wide = known.pivot(index=RUN, columns="measure", values="value")
    counts = known[known.measure == "recall"].set_index(RUN)["n_heads"].astype(float)
    return wide.assign(n_heads=counts).reset_index().rename_axis(columns=None)


def _scores_of_runs(profile: Profile, performance: pd.DataFrame) -> pd.DataFrame:
    known = performance[performance.eval_length == profile.eval_lengths[-1]]
    columns = []
    for outcome in OUTCOMES:
        wanted = known.task.map(main_metric) if outcome == "f1" else outcome
        one = known[known.metric == wanted].set_index(RUN)[["value", "low", "high"]]
        columns.append(one.set_axis([outcome, f"{outcome}_low", f"{outcome}_high"], axis=1))
    return pd.concat(columns, axis=1).reset_index()


def correlation_rows(profile: Profile, overlap: pd.DataFrame, performance: pd.DataFrame) -> list[dict]:
    """The table `correlation`: each predictor with each outcome, in each task and pooled over tasks."""
    table, rows = conditions_table(profile, overlap, performance), []
    parts = {task: one for task, one in table.groupby("task")}
    if len(parts) > 1:
        parts[POOLED] = table
    for task, one in parts.items():
        for predictor in PREDICTORS:
            known = one[one[predictor].notna()]
            for outcome in OUTCOMES:
                found = correlate(
                    known[predictor], known[outcome], groups=known["task"], n_resamples=profile.bootstrap,
                )
                rows.append({
                    "task": task, "predictor": predictor, "outcome": outcome, "coefficient": found["method"],
                    **_cells(found, known["task"], predictor, outcome),
                })
    return rows


def least_p(groups: Iterable[str]) -> float:
    """The smallest two-sided p-value that a permutation test inside groups can give, from the group of each row."""
    return 2 / math.prod(math.factorial(size) for size in Counter(groups).values())


def _cells(found: dict, groups: pd.Series, predictor: str, outcome: str) -> dict[str, float | str | None]:
    """Values that are not defined, or mean nothing with so few conditions, as empty cells with the reason."""
    reason = found["reason"].replace("x is", f"{predictor} is", 1).replace("y is", f"{outcome} is", 1)
    cells = {"value": found["estimate"], **{name: found[name] for name in ("low", "high", "p")}}
    least = least_p(groups)
    if not reason and least > LEVEL:
        # resamples of three points in one order all have that order: an interval of no width
        cells |= {"low": None, "high": None}
        reason = f"no order of so few conditions could give p below {least:.2g}, and no interval means anything"
    return {name: None if cell is None or math.isnan(cell) else cell for name, cell in cells.items()} | {
        "n": found["n"], "reason": reason or None,
    }
