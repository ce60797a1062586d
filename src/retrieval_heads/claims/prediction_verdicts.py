"""The verdicts on claim C3 and on the question whether attention mass or the contribution predict better (Q3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.prediction import BETTER, COLUMNS, EVERY, NOTHING, UNMIXED, WORSE
from retrieval_heads.claims.run_predictors import CHEAPER, THRESHOLD
from retrieval_heads.claims.verdict import ALL, IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict, plain, too_few
from retrieval_heads.stats.bootstrap import Interval

LOW, STRONG, LEVEL = 0.4, 0.7, 0.05
"""Of the rule: the interval's lower end, a strong correlation, the level of the permutation test."""

RULE = (
    "Supported with an interval over conditions above 0.4 and a permutation p below 0.05, in part with the second "
    "only, and the same sign in each base model; otherwise not supported with an interval below 0.7. Tasks count whose "
    "real runs have at least one head on average."
)
RULE_OF_MEASURES = (
    "Supported when the strongest heads by mass and by contribution both predict left-out conditions with a smaller "
    "absolute error than recall, beyond the interval over conditions and in each base model; in part with one; not "
    "supported when both have a larger one."
)
CHAPTER = "06_correlation"
NAN = float("nan")


def prediction_verdict(
    correlations: pd.DataFrame, errors: pd.DataFrame | None = None, threshold: float = THRESHOLD
) -> Verdict:
    """The verdict on claim C3, of all tasks together (of the task, where there is one only).

    Args:
        correlations: the table `correlation_runs`.
        errors: the table `prediction_errors`, for what recall is worth; None to leave it out.
        threshold: of the heads, the study's.

    Raises:
        ResultError: a column that is not there.
    """
    need(correlations, COLUMNS, "correlation_runs")
    of_recall = correlations[(correlations["method"] == "spearman") & (correlations["conditions"] == ALL)
                             & (correlations["predictor"] == "recall")]
    own = _pooled(of_recall)
    recall = _near(own, threshold)
    plainly = recall[recall["given"] == NOTHING]
    of_all, of_bases = plainly[plainly["base"] == ALL], plainly[plainly["base"] != ALL]
    if of_all.empty or pd.isna(of_all.iloc[0]["estimate"]):
        reason = "no runs to compare in a task with heads" if of_all.empty else of_all.iloc[0]["reason"]
        return _c3(UNDECIDED, Interval(NAN, NAN, NAN), 0, f"{_sentence(reason)}. {_left(correlations, threshold)}")
    row = of_all.iloc[0]
    few = too_few(int(row["n_conditions"]), "condition")
    agree = bool((of_bases["estimate"] > 0).all())
    if few:
        verdict = UNDECIDED
    elif row["p"] < LEVEL and row["estimate"] > 0 and agree:
        verdict = SUPPORTED if row["low"] > LOW else IN_PART
    else:
        verdict = NOT if row["high"] < STRONG else UNDECIDED
    said = [few] if few else []
    said += [f"P = {row['p']:.3g}."]
    if verdict in (SUPPORTED, IN_PART) and row["high"] < STRONG:
        said.append("The interval lies below 0.7, so the correlation is not strong.")
    said += [*_every(_near(of_recall, threshold), row), *_beside(correlations, recall, own, threshold)]
    worths = [] if errors is None else worth(errors)
    said += [f"Recall {'; '.join(worths)}."] if worths else []
    found = Interval(*(float(row[name]) for name in ("estimate", "low", "high")))
    return _c3(verdict, found, int(row["n_conditions"]), " ".join(said))


def _every(of_recall: pd.DataFrame, row: pd.Series) -> list[str]:
    """What comes out over all tasks, where some of them have no heads, as the rule was fixed beforehand."""
    rows = of_recall[(of_recall["task"] == EVERY) & (of_recall["base"] == ALL) & (of_recall["given"] == NOTHING)]
    if rows.empty or rows.iloc[0]["n_runs"] == row["n_runs"]:
        return []
    one = rows.iloc[0]
    return [f"This is over the tasks whose real runs have at least one head on average, which was decided afterwards, "
            f"as in C2; over every task, as was fixed beforehand, it is {_with_interval(one)}, p = {one['p']:.3g}."]


def _beside(
    correlations: pd.DataFrame, recall: pd.DataFrame, every_threshold: pd.DataFrame, threshold: float,
) -> list[str]:
    """What the correlation hangs on: base model, mixtures, threshold, and what recall shares with other quantities."""
    of_bases = recall[(recall["base"] != ALL) & (recall["given"] == NOTHING)]
    each = [f"{row['base']} {_with_interval(row)}" for row in of_bases.to_dict("records")]
    said = [f"By base model: {', '.join(each)}."] if each else []
    unmixed = correlations[(correlations["method"] == "spearman") & (correlations["predictor"] == "recall")
                           & (correlations["conditions"] == UNMIXED) & (correlations["base"] == ALL)]
    said += [f"Without mixtures it is {_with_interval(row)}, p = {row['p']:.3g}."
             for row in _near(_pooled(unmixed), threshold).to_dict("records")]
    curve = every_threshold[(every_threshold["base"] == ALL) & (every_threshold["given"] == NOTHING)]
    known = [f"{one.estimate:.2f} at {one.threshold:g}" for one in curve.sort_values("threshold").itertuples()
             if not pd.isna(one.estimate)]
    said += [f"Over thresholds of the score it is {', '.join(known)}."] if len(known) > 1 else []
    given = recall[(recall["given"] != NOTHING) & recall["estimate"].notna()]
    shares = [f"{_with_interval(row)} given {row['given']}" for row in given.to_dict("records")]
    return [*said, *([f"It is {', and '.join(shares)}."] if shares else [])]


def _with_interval(row: Any) -> str:
    interval = "" if pd.isna(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['estimate']:.2f}{interval}".replace("-0.00", "0.00")


def worth(errors: pd.DataFrame) -> list[str]:
    """What recall is worth beside each cheaper predictor and the mean of the others: phrases that follow `recall`."""
    rows = _pooled(errors[(errors["conditions"] == ALL) & (errors["predictor"] == "recall")])
    rows = rows[rows["reference"].isin(["mean", *CHEAPER])]
    return [f"is {one.finding} than {one.reference} (absolute error {one.error:.3f} against {one.reference_error:.3f})"
            for one in rows.itertuples()]


def measures_verdict(errors: pd.DataFrame) -> Verdict:
    """Q3: do the strongest heads by attention mass, or by contribution, predict better than the copy score's recall?

    Args:
        errors: the table `prediction_errors`.

    Raises:
        ResultError: a column that is not there.
    """
    need(errors, ["conditions", "task", "predictor", "reference", "gain", "gain_low", "gain_high", "finding"],
         "prediction_errors")
    rows = _pooled(errors[(errors["conditions"] == ALL) & (errors["predictor"] == "recall")], EVERY)
    rows = rows[rows["reference"].isin(["mass_top", "contribution_top"])]
    # the rows say what recall gains on the measure: worse recall is a better measure
    better, worse = int((rows["finding"] == WORSE).sum()), int((rows["finding"] == BETTER).sum())
    verdict = UNDECIDED
    if better:
        verdict = SUPPORTED if better == len(rows) > 1 else IN_PART
    elif worse == len(rows) > 1:
        verdict = NOT
    said = [f"{one.reference}: {-one.gain:+.3f} ({-one.gain_high:+.3f} to {-one.gain_low:+.3f})."
            for one in rows.itertuples()]
    best = Interval(NAN, NAN, NAN)
    if len(rows):
        gain, low, high = rows.sort_values("gain").iloc[0][["gain", "gain_low", "gain_high"]].astype(float)
        best = Interval(-gain, -high, -low)
    return Verdict(
        "Q3", ALL, verdict, "absolute error of recall less that of the better of mass_top and contribution_top",
        *plain(best), "fraction", 0 if rows.empty else int(rows["n_conditions"].min()), "conditions", RULE_OF_MEASURES,
        " ".join(said) or "Neither was measured.", CHAPTER, "prediction_errors",
    )


def _pooled(rows: pd.DataFrame, name: str = ALL) -> pd.DataFrame:
    """The rows of the tasks together; those of the task, where there is only one."""
    return rows if rows["task"].nunique() == 1 and name not in set(rows["task"]) else rows[rows["task"] == name]


def _near(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of one threshold of the heads."""
    return rows[np.isclose(rows["threshold"].astype(float), threshold)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _left(rows: pd.DataFrame, threshold: float) -> str:
    rest = _near(rows[rows["predictor"].isin(["cosine", "mean_strength"]) & (rows["conditions"] == ALL)
                      & (rows["method"] == "spearman")], threshold)
    rest = _pooled(rest, ALL if (rest["task"] == ALL).any() else EVERY)
    left = [f"{one.predictor} {one.estimate:.2f} (p = {one.p:.3g})" for one in rest[rest["base"] == ALL].itertuples()]
    return f"What is left to correlate: {', '.join(left) or 'nothing'}."


def _c3(verdict: str, found: Interval, n: int, detail: str) -> Verdict:
    return Verdict(
        "C3", ALL, verdict, "Spearman's correlation of recall with performance over conditions, ranks within tasks",
        *plain(found), "rank correlation", n, "conditions", RULE, detail, CHAPTER, "correlation_runs",
    )
