"""The verdicts on claim C3 and on the question whether attention mass or the contribution predict better (Q3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.prediction import BETTER, COLUMNS, UNMIXED, WORSE
from retrieval_heads.claims.run_predictors import CHEAPER, THRESHOLD
from retrieval_heads.claims.verdict import ALL, IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict, plain
from retrieval_heads.stats.bootstrap import Interval

LOW, STRONG, LEVEL = 0.4, 0.7, 0.05
"""Of the rule: the interval's lower end, a strong correlation, the level of the permutation test."""

RULE = (
    "Supported with an interval over conditions above 0.4 and a permutation p below 0.05, in part with the second "
    "only, and the same sign in each base model; otherwise not supported with an interval below 0.7."
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
    at = np.isclose(correlations["threshold"].astype(float), threshold)
    own = _pooled(correlations[at & (correlations["method"] == "spearman")])
    recall = own[(own["predictor"] == "recall") & (own["conditions"] == ALL)]
    of_all, of_bases = recall[recall["base"] == ALL], recall[recall["base"] != ALL]
    if of_all.empty or pd.isna(of_all.iloc[0]["estimate"]):
        reason = "no runs to compare" if of_all.empty else of_all.iloc[0]["reason"]
        return _c3(UNDECIDED, Interval(NAN, NAN, NAN), 0, f"{_sentence(reason)}. {_left(own)}")
    row = of_all.iloc[0]
    agree = bool((of_bases["estimate"] > 0).all())
    if row["p"] < LEVEL and row["estimate"] > 0 and agree:
        verdict = SUPPORTED if row["low"] > LOW else IN_PART
    else:
        verdict = NOT if row["high"] < STRONG else UNDECIDED
    said = [f"p = {row['p']:.3g}"]
    said += [f"{one.base}: {one.estimate:.2f}" for one in of_bases.itertuples()]
    without = own[(own["predictor"] == "recall") & (own["conditions"] == UNMIXED) & (own["base"] == ALL)]
    said += [f"without mixtures {one.estimate:.2f} ({one.low:.2f} to {one.high:.2f}), p = {one.p:.3g}"
             for one in without.itertuples()]
    if verdict in (SUPPORTED, IN_PART) and row["high"] < STRONG:
        said.append("the interval lies below 0.7, so the correlation is not strong")
    worths = [] if errors is None else worth(errors)
    found = Interval(*(float(row[name]) for name in ("estimate", "low", "high")))
    detail = f"{_sentence('; '.join(said))}." + (f" Recall {'; '.join(worths)}." if worths else "")
    return _c3(verdict, found, int(row["n_conditions"]), detail)


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
    rows = _pooled(errors[(errors["conditions"] == ALL) & (errors["predictor"] == "recall")])
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


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all tasks together; those of the task, where there is only one."""
    return rows if rows["task"].nunique() == 1 else rows[rows["task"] == ALL]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _left(rows: pd.DataFrame) -> str:
    rest = rows[rows["predictor"].isin(["cosine", "mean_strength"]) & (rows["conditions"] == ALL)]
    left = [f"{one.predictor} {one.estimate:.2f} (p = {one.p:.3g})" for one in rest[rest["base"] == ALL].itertuples()]
    return f"What is left to correlate: {', '.join(left) or 'nothing'}."


def _c3(verdict: str, found: Interval, n: int, detail: str) -> Verdict:
    return Verdict(
        "C3", ALL, verdict, "Spearman's correlation of recall with performance over conditions, ranks within tasks",
        *plain(found), "rank correlation", n, "conditions", RULE, detail, CHAPTER, "correlation_runs",
    )
