"""Claim C1 on the pretrained model: do models trained on synthetic data fall short of those trained on real data?

By F1 of the greedy answer, in three named contrasts of `real` with a synthetic set. All other sets, theta alone, and
the other outcomes are shown with the same intervals and decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from retrieval_heads.claims.pretrained.loading import CHAPTER, NAMED, THETA_ALONE, few_seeds, runs_by_example
from retrieval_heads.claims.pretrained.sampled import (
    RESAMPLES,
    Means,
    at_least,
    both,
    holm,
    lies_above,
    none_of,
    resampled_means,
    significant,
)
from retrieval_heads.claims.runs import from_cells, told
from retrieval_heads.claims.verdict import ALL, Verdict, decide, first_that_holds
from retrieval_heads.settings import REFERENCE
from retrieval_heads.wording import words

MARGIN = 0.03
"""A difference in F1 smaller than this counts as none."""

SHORT, BETTER, EQUIVALENT, OPEN = "short", "better", "equivalent", "open"

C1 = partial(
    Verdict, claim="C1", quantity="mean shortfall of the three named sets in F1", unit="fraction", n_of="contrasts",
    chapter=CHAPTER, table="contrasts", rule=
    "Supported when `real` beats `high_high`, `low_low` and `symbolic` in F1 (p < .05 by Holm's method, and not "
    f"equivalent within {MARGIN}); in part when it beats one and loses to none; not supported when it beats none and "
    "at least two are equivalent or better; tested only where `real` beats theta alone.",
)

OUTCOMES, GAIN = {"f1": "score", "subspan": "subspan", "loss": "nll"}, {"gain_from_context": "gain"}
"""Names of the outcomes, and the columns that hold them."""


def contrasts(
    answers: pd.DataFrame, base_answers: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The table `contrasts` of one task: by how much `real` is better than each other set, in each outcome.

    A `finding` only for the three named contrasts in F1, whose mean is the row `all`; nothing when there is no run on
    `real`, or nothing beside it.
    """
    rows = []
    for outcomes in (OUTCOMES, GAIN):  # the gain is measured on fewer examples
        values, columns = _values(answers, base_answers, task, outcomes)
        others = [name for name in values if name != REFERENCE]
        if REFERENCE not in values or not others:
            continue
        with_seeds = not few_seeds({name: len(one) for name, one in values.items()}, (REFERENCE, *NAMED))
        means = resampled_means(values, with_seeds=with_seeds, n_resamples=n_resamples, seed=seed)
        sets = {other: (other,) for other in others} | ({ALL: NAMED} if set(NAMED) <= set(others) else {})
        rows += [
            {"task": task, "condition": name, "outcome": outcome, **_cells(means, members, place, outcome),
             "n": values[REFERENCE].shape[1], "n_seeds": min(len(values[other]) for other in members),
             "n_seeds_real": len(values[REFERENCE]), "seeds_counted": with_seeds}
            for name, members in sets.items() for place, outcome in enumerate(columns)
        ]
    return pd.DataFrame(_with_findings(rows))


def _values(
    answers: pd.DataFrame, base_answers: pd.DataFrame, task: str, outcomes: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """By training set float64 `[seeds, examples, outcomes]`, more being better, and the outcomes that are known."""
    runs, alone = (_with_gain(table) for table in (answers, base_answers))
    if len(alone):
        alone = alone[(alone["task"] == task) & (alone["condition"] == THETA_ALONE)]
    known = [name for name, column in outcomes.items() if column in runs and (column in alone or not len(alone))]
    if not known:
        return {}, []
    columns = [outcomes[name] for name in known]
    if outcomes is GAIN:
        runs, alone = (table.dropna(subset=columns) if len(table) else table for table in (runs, alone))
    signs = np.array([-1.0 if column == "nll" else 1.0 for column in columns])
    values = runs_by_example(runs, task, columns, "answers", {THETA_ALONE: alone})
    return {name: one * signs for name, one in values.items()}, known


def _with_gain(answers: pd.DataFrame) -> pd.DataFrame:
    if not {"nll", "nll_without"} <= set(answers):
        return answers
    return answers.assign(gain=answers["nll_without"] - answers["nll"])


def _cells(means: Means, others: Sequence[str], outcome: int, name: str) -> dict:
    def better(one: Mapping[str, np.ndarray]) -> np.ndarray:
        return one[REFERENCE][..., outcome] - np.mean([one[other][..., outcome] for other in others], axis=0)

    found = means.of(better)
    (p, p_error), (equivalent, equivalent_error) = found.p_zero(), found.p_equivalent(MARGIN)
    of_f1 = name == "f1"
    return found.cells() | {
        "p": p, "p_error": p_error, "p_equivalent": equivalent if of_f1 else None,
        "p_equivalent_error": equivalent_error if of_f1 else None, "p_holm": None, "p_equivalent_holm": None,
        "finding": None,
    }


def _with_findings(rows: list[dict]) -> list[dict]:
    """The rows with p-values adjusted over the named contrasts in F1, and what each of these three shows."""
    named = [row for row in rows if row["outcome"] == "f1" and row["condition"] in NAMED]
    of_zero = holm([(row["p"], row["p_error"]) for row in named])
    of_margin = holm([(row["p_equivalent"], row["p_equivalent_error"]) for row in named])
    for row, (p, error), (equivalent, other_error) in zip(named, of_zero, of_margin, strict=True):
        shown = {EQUIVALENT: significant(equivalent, other_error),
                 SHORT if row["value"] > 0 else BETTER: significant(p, error)}
        row |= {"p_holm": p, "p_equivalent_holm": equivalent, "finding": first_that_holds(shown, OPEN)}
    return rows


def verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C1 in one task, from the table `contrasts`."""
    named = rows[(rows["outcome"] == "f1") & rows["condition"].isin(NAMED)] if len(rows) else rows
    found = list(named["finding"]) if len(named) else []
    taught, why = _taught(rows, task)
    few = _few(rows)
    findings = [f"{words(row.condition)}: {row.finding}" for row in named.itertuples()] if len(named) else []
    short, better = ([one == name for one in found] for name in (SHORT, BETTER))
    settled = [one in (BETTER, EQUIVALENT) for one in found]
    outcome = decide(
        undecided=few or len(found) < len(NAMED) or not taught, supported=all(short),
        in_part=both(at_least(1, short), none_of(better)), not_supported=both(none_of(short), at_least(2, settled)),
    )
    mean = rows[(rows["outcome"] == "f1") & (rows["condition"] == ALL)] if len(rows) else rows
    interval = from_cells(mean.iloc[0]) if len(mean) else (None, None, None)
    said = (f"`real` against each: {'; '.join(findings)}." if findings else "", why, few)
    detail = " ".join(text for text in said if text)
    return C1(task, outcome, *interval, len(named), detail)


def _taught(rows: pd.DataFrame, task: str) -> tuple[bool, str]:
    alone = rows[(rows["condition"] == THETA_ALONE) & (rows["outcome"] == "f1")] if len(rows) else rows
    if not len(alone):
        return False, "What theta alone answers is not known, so the claim is not tested."
    one = alone.iloc[0]
    numbers = told(one)
    if lies_above(one, 0.0):
        return True, f"`real` gains {numbers} over theta alone."
    return False, f"`real` is not shown to gain over theta alone: {numbers}; so the claim is not tested."


def _few(rows: pd.DataFrame) -> str:
    if not len(rows):
        return "There are no runs."
    if rows["seeds_counted"].all():
        return ""
    n_seeds = dict(zip(rows["condition"], rows["n_seeds"], strict=True)) | {REFERENCE: rows["n_seeds_real"].iloc[0]}
    return few_seeds(n_seeds, (REFERENCE, *NAMED))
