"""What the tables of the shortfall say of claim C1: see `shortfall`."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.axes import axis_effects, axis_sentence
from retrieval_heads.claims.gain import gains
from retrieval_heads.claims.head_arrays import need, synthetic
from retrieval_heads.claims.score_arrays import EXACT
from retrieval_heads.claims.shortfall import CHAPTER, COLUMNS, MEAN_COLUMNS, REFUTING, RULE, mean_shortfall, shortfall
from retrieval_heads.claims.sizes import size_effects, size_sentence
from retrieval_heads.claims.verdict import (
    ALL,
    NEEDED,
    NOT,
    SUPPORTED,
    UNDECIDED,
    Judged,
    Verdict,
    over_tasks,
    too_few,
)
from retrieval_heads.stats.bootstrap import (
    RESAMPLES,
    Interval,
)
from retrieval_heads.stats.ends import MANY


def judge_shortfall(
    answers: pd.DataFrame, base: pd.DataFrame | None = None, base_answers: pd.DataFrame | None = None, *,
    n_resamples: int = RESAMPLES, n_deciding: int = MANY,
) -> Judged:
    """Claim C1 from the tables `answers`, `base` and `base_answers`.

    Args:
        answers: the scores of every run on every example.
        base, base_answers: the base models with the raised theta alone, as means or by example (then paired); without
            either no task can be decided.
        n_resamples: of each bootstrap.
        n_deciding: as in `shortfall`.

    Returns:
        The tables `shortfall`, `mean_shortfall`, `training_gain`, `axis_effects` and `size_effects`, and the verdicts.

    Raises:
        ResultError: a table that does not follow the data dictionary.
    """
    tables = {
        "shortfall": shortfall(answers, n_resamples=n_resamples, n_deciding=n_deciding),
        "mean_shortfall": mean_shortfall(answers, n_resamples=n_resamples),
        "training_gain": gains(answers, base, base_answers, n_resamples=n_resamples),
        "axis_effects": axis_effects(answers, n_resamples=n_resamples),
        "size_effects": size_effects(answers, n_resamples=n_resamples),
    }
    return Judged(tables, tuple(verdicts(tables)))


def verdicts(tables: Mapping[str, pd.DataFrame]) -> list[Verdict]:
    """One verdict a task, and that over all tasks, from the tables of `judge_shortfall`."""
    for name, columns in (("shortfall", COLUMNS), ("mean_shortfall", MEAN_COLUMNS)):
        need(tables[name], columns, name)
    means = tables["mean_shortfall"].set_index("task")
    gain = tables["training_gain"].set_index("task")
    of_tasks = [
        _of_task(task, tables, means.loc[task] if task in means.index else None,
                 gain.loc[task] if task in gain.index else None)
        for task in sorted(tables["shortfall"]["task"].unique())
    ]
    if not of_tasks:
        return []
    pooled = Interval(*means.loc[ALL, ["value", "low", "high"]].astype(float)) if ALL in means.index else None
    return [*of_tasks, over_tasks(of_tasks, pooled)]


def _of_task(
    task: str, tables: Mapping[str, pd.DataFrame], mean: pd.Series | None, gain: pd.Series | None,
) -> Verdict:
    rows = tables["shortfall"][tables["shortfall"]["task"] == task]
    rows = rows[rows["condition"].isin(synthetic(rows["condition"].unique()))]
    rows = rows[rows["metric"] == (EXACT if mean is None else mean["metric"])]
    count = _counts(rows)
    taught, why = _taught(gain)
    few = too_few(len(rows))
    if few or not taught:
        verdict = UNDECIDED
    elif count["short"] >= NEEDED and not count["better"]:
        verdict = SUPPORTED
    else:
        verdict = NOT if count["clearly_better"] > REFUTING else UNDECIDED
    detail = few or _counted(rows, count)
    extra = [why, axis_sentence(tables["axis_effects"], task), size_sentence(tables["size_effects"], task)]
    effect = [None if mean is None or pd.isna(mean[name]) else float(mean[name]) for name in ("value", "low", "high")]
    metric = "" if mean is None else f" in {mean['metric']}"
    return Verdict(
        "C1", task, verdict, f"mean shortfall of the synthetic conditions{metric}", *effect, "fraction", len(rows),
        "conditions", RULE, " ".join(text for text in (detail, *extra) if text), CHAPTER, "shortfall",
    )


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    """Of the rows of `shortfall`: conditions that fall short, or are better, by an end that is not in doubt."""
    above_0, below_0 = rows["low"] - rows["low_error"] > 0, rows["high"] + rows["high_error"] < 0
    in_doubt = (rows["low"].abs() <= rows["low_error"]) | (rows["high"].abs() <= rows["high_error"])
    return {
        "short": int((above_0 & rows["same_sign"]).sum()), "better": int(below_0.sum()),
        "clearly_better": int((below_0 & rows["same_sign"]).sum()), "in_doubt": int(in_doubt.sum()),
        "fixed": int((rows["fixed_low"] > 0).sum()), "every_base": int((rows["bases_above"] == rows["n_bases"]).sum()),
    }


def _counted(rows: pd.DataFrame, count: Mapping[str, int]) -> str:
    text = (f"Of {len(rows)} synthetic conditions {count['short']} fall short of `real` beyond the interval and in "
            f"each base model, and {count['better']} are better beyond it.")
    error = rows[["low_error", "high_error"]].max(axis=None)
    if pd.isna(error):
        return text
    text += (f" The ends of the intervals are exact to {error:.4f} ({rows['resamples'].min():,} resamples); "
             f"{count['in_doubt']} of them lie so near 0 that they decide nothing.")
    if rows["n_bases"].max() > 1:
        text += (f" With these base models fixed, {count['fixed']} fall short beyond the interval; in each base model "
                 f"by itself, {count['every_base']} do.")
    return text


def _taught(gain: pd.Series | None) -> tuple[bool, str]:
    """Whether `real` is better than the raised theta alone, and the sentence that says so."""
    if gain is None or pd.isna(gain["low"]):
        return False, "What the raised theta alone answers is not known, so the condition for a test is not met."
    numbers = f"{gain['value']:.3f} ({gain['low']:.3f} to {gain['high']:.3f})"
    if gain["low"] > 0 and gain["same_sign"]:
        return True, f"`real` gains {numbers} over the raised theta alone."
    where = "" if gain["same_sign"] else ", not of one sign in all base models"
    return False, f"`real` does not gain over the raised theta alone: {numbers}{where}; so the claim is not tested."
