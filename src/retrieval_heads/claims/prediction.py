"""Claim C3: does the recall of heads correlate with performance, and is it worth more than cheaper predictors?

Correlations are over conditions, ranks taken within tasks (`stats.runs`); a condition that is left out is predicted
from the others by a line through the means of each task (`stats.prediction`). Real runs, controls and other numbers of
examples do not count. As mixtures share examples with other conditions, all is repeated without them.

Over tasks (`all`) count those whose real runs have at least one head on average, as for claim C2: without heads there
is nothing to recall. Beside them stand all tasks of the study (`every`), which is how it was fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.run_predictors import CHEAPER, OUTCOME, PREDICTORS, THRESHOLD
from retrieval_heads.claims.runs import claimed, frame, mixtures, where
from retrieval_heads.claims.subsets import LEAST_HEADS
from retrieval_heads.claims.verdict import ALL, IN_PART, SUPPORTED, Verdict, decide, plain, too_few, undecided
from retrieval_heads.keys import RUN
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.correlation import METHODS, PERMUTATIONS
from retrieval_heads.stats.prediction import BASELINE, left_out_errors, summarise_errors
from retrieval_heads.stats.resample import RESAMPLES
from retrieval_heads.stats.runs import balanced, condition_means, correlate_runs
from retrieval_heads.wording import PREDICTORS as WORDS
from retrieval_heads.wording import p_value

LOW, STRONG, LEVEL = 0.4, 0.7, 0.05
"""Of the rule: the interval's lower end, a strong correlation, the level of the permutation test."""

C3 = partial(
    Verdict, claim="C3", unit="rank correlation", n_of="conditions", chapter="06_correlation", table="correlation_runs",
    quantity="Spearman's correlation of recall with performance over conditions, ranks within tasks", rule=
    "Supported with an interval over conditions above 0.4 and a permutation p below 0.05, in part with the second "
    "only, and the same sign in each base model; otherwise not supported with an interval below 0.7. Tasks count whose "
    "real runs have at least one head on average.",
)

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

def parts(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs that count, by the name of what they are: with and without mixtures."""
    counting = runs[runs["condition"].isin(claimed(runs["condition"].unique())) & (runs["condition"] != REFERENCE)]
    return {ALL: counting, UNMIXED: counting[~counting["condition"].isin(mixtures(counting["condition"].unique()))]}


def with_heads(runs: pd.DataFrame) -> list[str]:
    """The tasks of a table, without those whose real runs have less than `LEAST_HEADS` on average where it is known."""
    if "n_heads" not in runs:
        return sorted(runs["task"].unique())
    means = runs[runs["condition"] == REFERENCE].groupby("task")["n_heads"].mean()
    return sorted(set(runs["task"]) - set(means.index[means < LEAST_HEADS]))


def correlation_rows(
    runs: pd.DataFrame, recall: pd.DataFrame | None = None, *, predictors: Sequence[str] = PREDICTORS,
    threshold: float = THRESHOLD, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS,
) -> pd.DataFrame:
    """The table `correlation_runs`: each predictor with performance, over conditions.

    Recall stands also by base model, at each threshold of `run_recall`, and with the part of each of `GIVEN` taken out;
    Kendall's tau only at the threshold that heads were taken by in `runs`, and with mixtures.
    """
    found: list[pd.DataFrame] = []
    usual = with_heads(runs)

    def add(table: pd.DataFrame, predictor: str, *, tasks: Sequence[str] = usual, given: str | None = None,
            method: str = METHODS[0], **place: str | float) -> None:
        correlated = partial(correlate_runs, predictor=predictor, outcome=OUTCOME, given=given, method=method,
                             n_resamples=n_resamples, n_permutations=n_permutations)
        found.append(_over_tasks(correlated, table, tasks).assign(given=given or NOTHING, **place))

    for name, table in parts(runs).items():
        if table.empty:
            continue
        here = {"conditions": name, "base": ALL, "threshold": threshold}
        for predictor in predictors:
            for method in METHODS if name == ALL else METHODS[:1]:
                add(table, predictor, method=method, **here)
        for other, curve in ([] if recall is None else recall.groupby("threshold")):
            if not np.isclose(other, threshold):
                own = table[[*RUN, OUTCOME]].merge(curve[[*RUN, "recall"]], on=RUN, how="left")
                add(own, "recall", tasks=with_heads(curve), **here | {"threshold": other})
        if "recall" in predictors and name == ALL:
            for given in (one for one in GIVEN if one in predictors):
                add(table, "recall", given=given, **here)
            for base, own in table.groupby("base"):
                add(own, "recall", **here | {"base": base})
    return frame(pd.concat(found, ignore_index=True) if found else [], "correlation_runs")


def _over_tasks(
    rows_of: Callable[[pd.DataFrame], pd.DataFrame], table: pd.DataFrame, usual: Sequence[str],
) -> pd.DataFrame:
    """The rows that a function has of each task, of `EVERY` task together, and of the usual ones together (`ALL`)."""
    rows, tasks = rows_of(table), set(table["task"])
    if len(tasks) < 2:
        return rows
    every = rows.assign(task=rows["task"].replace(ALL, EVERY))
    if not len(usual):
        return every
    own = rows if set(usual) == tasks else rows_of(table[table["task"].isin(usual)])
    together = own["task"] == ALL  # none where one task is left
    return pd.concat([every, own[together] if together.any() else own.assign(task=ALL)], ignore_index=True)


def error_rows(
    runs: pd.DataFrame, compared: Iterable[tuple[str, str]] = COMPARED, *, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """The table `prediction_errors`: how well a left-out condition is predicted by one quantity beside another.

    A pair is compared in the conditions in which recall and both are defined. A predictor that is not defined in some
    runs of a condition stands there with its mean over the others. The finding is better or worse where the interval
    excludes 0 and all base models agree. Without three conditions in a task there is no row.
    """
    return _over_tasks(partial(_error_rows, compared=list(compared), n_resamples=n_resamples), runs, with_heads(runs))


def _error_rows(runs: pd.DataFrame, compared: list[tuple[str, str]], n_resamples: int) -> pd.DataFrame:
    """The rows of `error_rows` of each task, and of all of these runs."""
    names = list(dict.fromkeys([OUTCOME, "recall", *(name for pair in compared for name in pair if name != BASELINE)]))
    rows: list[pd.DataFrame] = []
    for conditions, table in parts(runs).items():
        known, _ = balanced(table, [OUTCOME, "recall"])
        table = table.merge(known[RUN], on=RUN)
        means = [condition_means(one, names).assign(base=ALL, seed=0)
                 for one in (table, *(own for _, own in table.groupby("base")))]
        for pair in compared:
            own, *by_base = (_errors(one, [name for name in pair if name != BASELINE]) for one in means)
            if own.empty:
                continue
            summary = summarise_errors(own, pair[:1], pair[1], n_resamples=n_resamples)
            gains = pd.DataFrame([_gains(one, *pair) for one in by_base if len(one)])
            better, worse = ((sign * gains > 0).sum().reindex(summary["task"], fill_value=0).to_numpy()
                             for sign in (1, -1))
            agreed = [(summary["gain_low"] > 0) & (better == len(gains)),
                      (summary["gain_high"] < 0) & (worse == len(gains))]
            rows.append(summary.assign(
                conditions=conditions, bases_better=better, n_bases=len(gains),
                finding=np.select(agreed, [BETTER, WORSE], NOT_SHOWN)))
    return frame(pd.concat(rows, ignore_index=True) if rows else [], "prediction_errors")


def _errors(means: pd.DataFrame, predictors: list[str]) -> pd.DataFrame:
    """Left-out errors of the predictors in the conditions in which they and recall are defined."""
    defined = means.dropna(subset=["recall", *predictors])
    return left_out_errors(defined, predictors, OUTCOME) if len(defined) else defined


def _gains(errors: pd.DataFrame, predictor: str, reference: str) -> pd.Series:
    """By task, and of all: by how much the predictor's mean error is smaller."""
    gain = errors[reference] - errors[predictor]
    return pd.concat([gain.groupby(errors["task"]).mean(), pd.Series({ALL: gain.mean()})])


def prediction_verdict(
    correlations: pd.DataFrame, errors: pd.DataFrame | None = None, threshold: float = THRESHOLD
) -> Verdict:
    """The verdict on claim C3, of all tasks together (of the task, where there is one only); `errors` are for what
    recall is worth."""
    of_recall = where(correlations, method="spearman", conditions=ALL, predictor="recall")
    own = pooled(of_recall)
    recall = _near(own, threshold)
    plainly = where(recall, given=NOTHING)
    of_all, of_bases = plainly[plainly["base"] == ALL], plainly[plainly["base"] != ALL]
    if of_all.empty or pd.isna(of_all.iloc[0]["estimate"]):
        reason = "no runs to compare in a task with heads" if of_all.empty else of_all.iloc[0]["reason"]
        return undecided(C3, ALL, f"{reason[:1].upper()}{reason[1:]}. {_left(correlations, threshold)}")
    row = of_all.iloc[0]
    few = too_few(int(row["n_conditions"]), "condition")
    agree = bool((of_bases["estimate"] > 0).all())
    shown = row["p"] < LEVEL and row["estimate"] > 0 and agree
    verdict = decide(undecided=few, supported=shown and row["low"] > LOW, in_part=shown,
                     not_supported=row["high"] < STRONG)
    said = [few] if few else []
    said += [f"{p_value(row['p']).capitalize()}."]
    if verdict in (SUPPORTED, IN_PART) and row["high"] < STRONG:
        said.append("The interval lies below 0.7, so the correlation is not strong.")
    said += [*_every(_near(of_recall, threshold), row), *_beside(correlations, recall, own, threshold)]
    worths = [] if errors is None else worth(errors)
    said += [f"Recall {'; '.join(worths)}."] if worths else []
    return C3(ALL, verdict, *plain(row[["estimate", "low", "high"]]), int(row["n_conditions"]), " ".join(said))


def _every(of_recall: pd.DataFrame, row: pd.Series) -> list[str]:
    """What comes out over all tasks, where some of them have no heads, as the rule was fixed beforehand."""
    rows = where(of_recall, task=EVERY, base=ALL, given=NOTHING)
    if rows.empty or rows.iloc[0]["n_runs"] == row["n_runs"]:
        return []
    one = rows.iloc[0]
    return [f"This is over the tasks whose real runs have at least one head on average, which was decided afterwards, "
            f"as in C2; over every task, as was fixed beforehand, it is {_with_interval(one)}, "
            f"{p_value(one['p'])}."]


def _beside(
    correlations: pd.DataFrame, recall: pd.DataFrame, every_threshold: pd.DataFrame, threshold: float,
) -> list[str]:
    """What the correlation hangs on: base model, mixtures, threshold, and what recall shares with other quantities."""
    of_bases = recall[(recall["base"] != ALL) & (recall["given"] == NOTHING)]
    each = [f"{row['base']} {_with_interval(row)}" for row in of_bases.to_dict("records")]
    said = [f"By base model: {', '.join(each)}."] if each else []
    unmixed = where(correlations, method="spearman", predictor="recall", conditions=UNMIXED, base=ALL)
    said += [f"Without mixtures it is {_with_interval(row)}, {p_value(row['p'])}."
             for row in _near(pooled(unmixed), threshold).to_dict("records")]
    curve = where(every_threshold, base=ALL, given=NOTHING)
    known = [f"{one.estimate:.2f} at {one.threshold:g}" for one in curve.sort_values("threshold").itertuples()
             if not pd.isna(one.estimate)]
    said += [f"Over thresholds of the score it is {', '.join(known)}."] if len(known) > 1 else []
    given = recall[(recall["given"] != NOTHING) & recall["estimate"].notna()]
    shares = [f"{_with_interval(row)} given the {_named(row['given'])}" for row in given.to_dict("records")]
    return [*said, *([f"It is {', and '.join(shares)}."] if shares else [])]


def _with_interval(row: Any) -> str:
    interval = "" if pd.isna(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['estimate']:.2f}{interval}".replace("-0.00", "0.00")


def worth(errors: pd.DataFrame) -> list[str]:
    """What recall is worth beside each cheaper predictor and the mean of the others: phrases that follow `recall`."""
    rows = pooled(where(errors, conditions=ALL, predictor="recall"))
    rows = rows[rows["reference"].isin(["mean", *CHEAPER])]
    return [f"is {one.finding} than the {_named(one.reference)} (absolute error {one.error:.3f} against "
            f"{one.reference_error:.3f})" for one in rows.itertuples()]


def _named(predictor: str) -> str:
    """A predictor in words, after `the`."""
    return "mean of the other conditions" if predictor == BASELINE else WORDS[predictor]


def pooled(rows: pd.DataFrame, name: str = ALL) -> pd.DataFrame:
    """The rows of the tasks together; those of the task, where there is only one."""
    return rows if rows["task"].nunique() == 1 and name not in set(rows["task"]) else rows[rows["task"] == name]


def _near(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of one threshold of the heads."""
    return rows[np.isclose(rows["threshold"].astype(float), threshold)]


def _left(rows: pd.DataFrame, threshold: float) -> str:
    rest = where(rows[rows["predictor"].isin(["cosine", "mean_strength"])], conditions=ALL, method="spearman")
    rest = _near(pooled(rest, ALL if (rest["task"] == ALL).any() else EVERY), threshold)
    left = [f"{WORDS[one.predictor]} {one.estimate:.2f} ({p_value(one.p)})"
            for one in where(rest, base=ALL).itertuples()]
    return f"What is left to correlate: {', '.join(left) or 'nothing'}."
