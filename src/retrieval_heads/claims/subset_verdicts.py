"""What the table of the subsets says of claim C2: see `subsets`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need, synthetic
from retrieval_heads.claims.subsets import (
    AT_CHANCE,
    CHAPTER,
    HALF,
    HEADS,
    LEAST_HEADS,
    LEAST_PART,
    LEAST_SHARE,
    NAN,
    RULE,
    THRESHOLD,
)
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict, over_tasks, plain, too_few
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import Interval, bootstrap_mean


def subset_verdicts(subsets: pd.DataFrame, threshold: float = THRESHOLD) -> list[Verdict]:
    """The verdict on claim C2 in each task, and of the claim (task `all`), from the table `subsets`.

    A condition without a value is none in which it holds. Less than eight of ten conditions that hold, and less than
    two at or below chance, decide nothing; neither does a task whose real runs have less than one head on average. The
    gained heads count when the real runs gain one on average, and were told for every base model of the study.

    Returns:
        One verdict a task, and that of all; none without a synthetic condition.

    Raises:
        ResultError: a column that is not there.
    """
    need(subsets, ["task", "condition", "heads", "threshold", "precision", "chance", "chance_high", "ceiling",
                   "recall", "normalised", "n_heads", "bases_above", "n_bases", "bases_known"],
         "subsets")
    at = subsets[np.isclose(subsets["threshold"], threshold)]
    counting = at["condition"].isin(synthetic(at["condition"]))
    tasks = [_task_verdict(str(task), part[counting.loc[part.index]], part[part["condition"] == REFERENCE])
             for task, part in at.groupby("task") if counting.loc[part.index].any()]
    decided = counting & at["task"].isin([one.task for one in tasks if one.decided])
    return [*tasks, over_tasks(tasks, _pooled(at[decided & (at["heads"] == "all")]))] if tasks else []


def _pooled(rows: pd.DataFrame) -> Interval | None:
    """Precision over tasks, with an interval over conditions: the tasks share them, so one is drawn for all tasks."""
    known = rows.groupby("condition")["precision"].mean().dropna()
    return bootstrap_mean(known) if len(known) else None


def _task_verdict(task: str, part: pd.DataFrame, of_real: pd.DataFrame) -> Verdict:
    own, gained = (part[part["heads"] == heads] for heads in HEADS)
    real = of_real.set_index("heads").reindex(list(HEADS))
    n_real, n_gained = real["n_heads"]
    bases = tuple(int(count) for count in real["bases_known"].fillna(0))
    least = math.ceil(LEAST_SHARE * len(own))
    at_chance = int((own["precision"] <= own["chance"]).sum())
    few = too_few(len(own))
    if few or not n_real >= LEAST_HEADS:
        verdict = UNDECIDED
    elif at_chance >= AT_CHANCE:
        verdict = NOT
    elif _holding(own) < least:
        verdict = UNDECIDED
    else:
        learned = n_gained >= LEAST_HEADS and _holding(gained) >= least and bases[0] == bases[1]
        verdict = SUPPORTED if learned else IN_PART
    known = own["precision"].dropna()
    mean = bootstrap_mean(known) if len(known) else Interval(NAN, NAN, NAN)
    said = [few or f"It holds of all heads in {_holding(own)} of {len(own)} synthetic conditions; {at_chance} are at "
            "or below chance."]
    if len(known) < len(own):
        said.append(f"In {len(own) - len(known)} a run or the real ones have no heads.")
    if not n_real >= LEAST_HEADS:
        said.append(f"The real runs have {n_real:.2g} heads on average: there is nothing to be a subset of.")
    elif not few:
        said.append(_of_gained(gained, float(n_gained), bases))
    return Verdict(
        "C2", task, verdict, "precision of the heads of synthetic runs; interval over conditions", *plain(mean),
        "fraction", len(own), "synthetic conditions", RULE, " ".join(said), CHAPTER, "subsets",
    )


def _of_gained(gained: pd.DataFrame, n_real: float, bases: tuple[int, int]) -> str:
    """What is said of gained heads, which may be told for some of the base models only."""
    every, known = bases
    if not known:
        return "Which heads are gained is not known: no base model was scored with the raised theta at this length."
    of = "" if known == every else f" (of {known} of {every} base models, the only one scored with the raised theta)"
    if not n_real >= LEAST_HEADS:
        return f"The real runs gain {n_real:.2g} heads on average{of}, so nothing is said of what is learned."
    undefined = int(gained["precision"].isna().sum())
    none = f" In {undefined} none are gained." if undefined else ""
    return (f"Of the gained heads it holds in {_holding(gained)} of {len(gained)}, with precisions from "
            f"{gained['precision'].min():.2f} to {gained['precision'].max():.2f} beside a chance of "
            f"{gained['chance'].mean():.2f} and a ceiling of {gained['ceiling'].mean():.2f}; the real runs gain "
            f"{n_real:.1f} heads on average, and the recall of these spans {gained['recall'].min():.2f} to "
            f"{gained['recall'].max():.2f}{of}.{none}")


def _holding(rows: pd.DataFrame) -> int:
    """In how many conditions the rule holds."""
    above = rows["precision"] > np.fmax(rows["chance_high"], HALF)
    return int((above & (rows["normalised"] >= LEAST_PART) & (rows["bases_above"] == rows["n_bases"])).sum())
