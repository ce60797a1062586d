"""Claim C3: does the recall of heads correlate with performance, and is it worth more than cheaper predictors?

Correlations are over conditions, ranks taken within tasks (`stats.run_correlation`); a condition that is left out is
predicted from the others by a line through the means of each task (`stats.prediction`). Real runs, controls and other
numbers of examples do not count. As mixtures share examples with other conditions, all is repeated without them.

Over tasks (`all`) count those whose real runs have at least one head on average, as for claim C2: without heads there
is nothing to recall. Beside them stand all tasks of the study (`every`), which is how it was fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import claimed, mixtures, need, without_blanks
from retrieval_heads.claims.run_predictors import OUTCOME, PREDICTORS, THRESHOLD
from retrieval_heads.claims.subsets import LEAST_HEADS
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.keys import RUN
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES
from retrieval_heads.stats.correlation import METHODS, PERMUTATIONS
from retrieval_heads.stats.prediction import BASELINE, left_out_errors, summarise_errors
from retrieval_heads.stats.run_correlation import correlate_runs
from retrieval_heads.stats.runs import balanced, condition_means

EVERY = "every"
"""Beside `all` a value of the column `task`: all tasks of the study, also those without heads."""

GIVEN = ("base_overlap", "probe_loss")
"""Quantities whose part is taken out of the correlation of recall."""

NOTHING = "nothing"

UNMIXED = "unmixed"
"""Beside `all` a value of the column `conditions`: all but `real`, and these without mixtures."""

BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown to be better"

COMPARED = (
    *((name, BASELINE) for name in PREDICTORS),
    *(("recall", name) for name in PREDICTORS if name != "recall"),
    *((f"{name}_{way}", f"{ours}") for name in ("mass", "query_mass", "contribution")
      for way, ours in (("cosine", "cosine"), ("top", "score_top"))),
)
"""Pairs of a predictor and the reference that its errors are compared with."""

COLUMNS = (
    "conditions", "base", "task", "predictor", "given", "threshold", "method", "estimate", "low", "high", "p",
    "n_conditions", "n_runs", "left_out", "reason",
)


def parts(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs that count, by the name of what they are: with and without mixtures."""
    counting = runs[runs["condition"].isin(claimed(runs["condition"].unique())) & (runs["condition"] != REFERENCE)]
    return {ALL: counting, UNMIXED: counting[~counting["condition"].isin(mixtures(counting["condition"].unique()))]}


def with_heads(runs: pd.DataFrame) -> list[str]:
    """The tasks of a table with `n_heads`, without those whose real runs have less than `LEAST_HEADS` on average."""
    means = runs[runs["condition"] == REFERENCE].groupby("task")["n_heads"].mean()
    return sorted(set(runs["task"]) - set(means.index[means < LEAST_HEADS]))


def correlation_rows(
    runs: pd.DataFrame, recall: pd.DataFrame | None = None, *, predictors: Sequence[str] = PREDICTORS,
    threshold: float = THRESHOLD, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS,
) -> pd.DataFrame:
    """The table `correlation_runs`: each predictor with performance, over conditions.

    Args:
        runs: the table `run_predictors`.
        recall: the table `run_recall`, for the correlation of recall over thresholds; None to leave it out.
        predictors: columns of `runs`.
        threshold: the one that heads were taken by in `runs`.
        n_resamples, n_permutations: of the interval over conditions and of the permutation test.

    Returns:
        `COLUMNS`. One row for `conditions` (`all` or `unmixed`), `base` (`all`: averaged over base models; recall with
        mixtures also in each), `task` (and, of several, `all` and `every`, ranks within tasks), predictor, `given`
        (`nothing`; recall also with the part of each of `GIVEN` taken out), `threshold` (of the heads; recall at each)
        and `method` (Kendall only at the study's threshold and with mixtures).

    Raises:
        ResultError: a column that is not there.
    """
    need(runs, [*RUN, OUTCOME, *predictors], "run_predictors")
    settings = {"n_resamples": n_resamples, "n_permutations": n_permutations}
    found: list[pd.DataFrame] = []
    usual = with_heads(runs) if "n_heads" in runs else sorted(runs["task"].unique())

    def add(table: pd.DataFrame, predictor: str, tasks: Sequence[str] = usual, given: str | None = None,
            **where: str | float) -> None:
        rows = _over_tasks(table, tasks, predictor, given=given, method=str(where["method"]), **settings)
        found.append(rows.assign(given=given or NOTHING, **where))

    for name, table in parts(runs).items():
        if table.empty:
            continue
        here = {"conditions": name, "base": ALL, "threshold": threshold}
        for predictor in predictors:
            for method in METHODS if name == ALL else METHODS[:1]:
                add(table, predictor, **here, method=method)
        for other, curve in ([] if recall is None else recall.groupby("threshold")):
            if not np.isclose(other, threshold):
                own = table[[*RUN, OUTCOME]].merge(curve[[*RUN, "recall"]], on=RUN, how="left")
                add(own, "recall", with_heads(curve), **here | {"threshold": other}, method=METHODS[0])
        if "recall" in predictors and name == ALL:
            for given in (one for one in GIVEN if one in predictors):
                add(table, "recall", given=given, **here, method=METHODS[0])
            for base, own in table.groupby("base"):
                add(own, "recall", **here | {"base": base}, method=METHODS[0])
    table = pd.concat(found, ignore_index=True)[list(COLUMNS)] if found else pd.DataFrame(columns=list(COLUMNS))
    return without_blanks(table, "left_out", "reason")


def _over_tasks(table: pd.DataFrame, tasks: Sequence[str], predictor: str, **settings: Any) -> pd.DataFrame:
    """The rows of `correlate_runs`: of each task, of every task together, and of `tasks` together."""
    rows = correlate_runs(table, predictor, OUTCOME, **settings)
    if len(rows) < 2:
        return rows
    if set(tasks) == set(table["task"]):
        return pd.concat([rows, rows[rows["task"] == ALL].assign(task=EVERY)])
    rows = rows.assign(task=rows["task"].replace(ALL, EVERY))
    if not len(tasks):
        return rows
    counting = correlate_runs(table[table["task"].isin(tasks)], predictor, OUTCOME, **settings)
    return pd.concat([rows, counting.iloc[-1:].assign(task=ALL)])  # the last is of all, or of the only one


def error_rows(
    runs: pd.DataFrame, compared: Iterable[tuple[str, str]] = COMPARED, *, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """The table `prediction_errors`: how well a left-out condition is predicted by one quantity beside another.

    A pair is compared in the conditions in which recall and both are defined. A predictor that is not defined in some
    runs of a condition stands there with its mean over the others.

    Args:
        runs: the table `run_predictors`.
        compared: pairs of a predictor and a reference; `mean` is the mean of the other conditions.
        n_resamples: of the bootstrap over conditions.

    Returns:
        One row for `conditions`, `task` (and, of several, `all` and `every`), `predictor` and `reference`: `error` with
        `error_low` and
        `error_high`, `reference_error`, `gain` (reference less predictor: positive where the predictor is better) with
        `gain_low` and `gain_high`, `skill`, `bases_better` of `n_bases` (base models in which the gain is positive),
        `n_conditions`, `finding` (better or worse where the interval excludes 0 and all base models agree; not shown
        to be better otherwise), `reason`. Without three conditions in a task there is no row of it.

    Raises:
        ResultError: a column that is not there.
    """
    compared, tasks = list(compared), sorted(runs["task"].unique())
    rows = _error_rows(runs, compared, n_resamples)
    if len(tasks) < 2 or "n_heads" not in runs:
        return rows
    usual = with_heads(runs)
    every = rows.assign(task=rows["task"].replace(ALL, EVERY))
    if not usual:
        return every
    own = rows if usual == tasks else _error_rows(runs[runs["task"].isin(usual)], compared, n_resamples)
    own = own[own["task"] == ALL] if len(usual) > 1 else own.assign(task=ALL)
    return pd.concat([every, own], ignore_index=True)


def _error_rows(runs: pd.DataFrame, compared: list[tuple[str, str]], n_resamples: int) -> pd.DataFrame:
    """The rows of `error_rows` of each task, and of all of these runs."""
    names = list(dict.fromkeys(name for pair in compared for name in pair if name != BASELINE))
    need(runs, [*RUN, OUTCOME, "recall", *names], "run_predictors")
    rows: list[pd.DataFrame] = []
    for conditions, table in parts(runs).items():
        known, _ = balanced(table, [OUTCOME, "recall"])
        bases = [own for _, own in table.merge(known[RUN], on=RUN).groupby("base")]
        errors = [_Errors(_means(one, names), names) for one in (table.merge(known[RUN], on=RUN), *bases)]
        for predictor, reference in compared:
            own, *by_base = (one.of(predictor, reference) for one in errors)
            if own.empty:
                continue
            summary = summarise_errors(own, [predictor], reference, n_resamples=n_resamples)
            gains = [_gains(one, predictor, reference) for one in by_base if len(one)]
            better = summary["task"].map(lambda task, gains=gains: sum(one.get(task, 0) > 0 for one in gains))
            worse = summary["task"].map(lambda task, gains=gains: sum(one.get(task, 0) < 0 for one in gains))
            agreed = [(summary["gain_low"] > 0) & (better == len(gains)),
                      (summary["gain_high"] < 0) & (worse == len(gains))]
            rows.append(summary.assign(
                conditions=conditions, bases_better=better, n_bases=len(gains),
                finding=np.select(agreed, [BETTER, WORSE], NOT_SHOWN)))
    columns = ["conditions", "task", "predictor", "reference", "error", "error_low", "error_high", "reference_error",
               "gain", "gain_low", "gain_high", "skill", "bases_better", "n_bases", "n_conditions", "finding", "reason"]
    table = pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)
    return without_blanks(table, "reason")


def _means(runs: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    means = condition_means(runs, list(dict.fromkeys([OUTCOME, "recall", *names])))
    return means.assign(base=ALL, seed=0)


def _gains(errors: pd.DataFrame, predictor: str, reference: str) -> dict[str, float]:
    """By task, and of all: by how much the predictor's mean error is smaller."""
    gain = errors[reference] - errors[predictor]
    return {**gain.groupby(errors["task"]).mean().to_dict(), ALL: float(gain.mean())}


class _Errors:
    """Left-out errors of all predictors, computed once for each set of conditions that a pair is defined in."""

    def __init__(self, means: pd.DataFrame, names: list[str]) -> None:
        self.means, self.names, self.known = means, list(dict.fromkeys(["recall", *names])), {}

    def of(self, *pair: str) -> pd.DataFrame:
        defined = self.means[["recall", *(name for name in pair if name != BASELINE)]].notna().all(axis=1).to_numpy()
        if defined.tobytes() not in self.known:
            rows = self.means[defined]
            names = [name for name in self.names if rows[name].notna().all()]
            self.known[defined.tobytes()] = left_out_errors(rows, names, OUTCOME)[0] if len(rows) else rows
        return self.known[defined.tobytes()]
