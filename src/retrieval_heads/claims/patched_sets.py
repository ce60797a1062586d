"""What patching each set of heads does, in tables: by set, at equal numbers of heads, and what speaks against claim C5.

All functions take the rows of `patching.patched`. Runs count where there is a gap; means are over runs, with intervals
over seeds and base models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from retrieval_heads.claims.repeated import cells, frame, one_sign, ratio
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.keys import RUN
from retrieval_heads.stats.bootstrap import RESAMPLES

SETS = ("intersection", "complement", "random", "random_complement", "intersection_equal", "all")

COLUMNS = (
    "task", "condition", "set", "n_runs", "n_gap", "n_heads", "change", "change_low", "change_high", "closed",
    "closed_low", "closed_high", "n_helped", "n_hurt", "n_controls", "n_over_random", "n_under_random", "n_open",
    "n_whole", "same_sign", "counted",
)

CONTRASTS = {
    "complement_over_intersection": ("complement", "intersection_equal"),
    "complement_over_random": ("complement", "random_complement"),
    "intersection_over_random": ("intersection_equal", "random_complement"),
}
"""Comparisons of sets with as many heads as the complement has; the random ones are of the complement's layers."""

EQUAL_COLUMNS = ("task", "condition", "contrast", "value", "low", "high", "n_runs", "n_heads", "n_first_better",
                 "n_second_better", "same_sign", "counted")

AGAINST_COLUMNS = (*RUN, "case", "value", "low", "high", "n_heads", "n", "counted")


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, str, bool, pd.DataFrame]]:
    """Task, condition, whether it counts, and rows: of each condition, and of the counted ones of a task and of all."""
    for (task, condition), part in rows.groupby(["task", "condition"]):
        yield task, condition, bool(part["counted"].all()), part
    counted = rows[rows["counted"]]
    for task, part in counted.groupby("task"):
        yield task, ALL, True, part
    if len(counted):
        yield ALL, ALL, True, counted


def sufficiency(rows: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Each set of heads in each task and condition; `all` stands for the conditions that count, and for all tasks.

    Returns:
        Columns `COLUMNS`: `n_runs` patched, `n_gap` of them with a gap; of these `n_heads` (mean), `change` (mean gain
        in the share of right answers), `closed` (mean share of the gap), `n_helped`, `n_hurt`, `n_open` (share below
        1) beyond the interval, `n_whole` (share at least 1), `n_controls` (with random sets matched to this one) and
        `n_over_random`, `n_under_random` beyond the interval; `same_sign` of the change in each base model; `counted`,
        whether the rule is about the condition.
    """
    bases, found = rows["base"].unique(), []
    for task, condition, counted, part in _groups(rows):
        for name in SETS:
            own = part[part["set"] == name]
            if len(own):
                found.append({"task": task, "condition": condition, "set": name, "counted": counted,
                              **_row(own, bases, n_resamples)})
    return frame(found, COLUMNS)


def _row(own: pd.DataFrame, bases: Any, n_resamples: int) -> dict[str, Any]:
    gap = own[own["gap"]]
    return {
        "n_runs": len(own), "n_gap": len(gap), "n_heads": gap["n_heads"].mean(),
        **cells(ratio(gap, "change", n_resamples=n_resamples), "change"),
        **cells(ratio(gap, "closed", n_resamples=n_resamples), "closed"),
        "n_helped": int((gap["change_low"] > 0).sum()), "n_hurt": int((gap["change_high"] < 0).sum()),
        "n_controls": int(gap["over_random"].notna().sum()),
        "n_over_random": int((gap["over_random_low"] > 0).sum()),
        "n_under_random": int((gap["over_random_high"] < 0).sum()),
        "n_open": int((gap["closed_high"] < 1).sum()), "n_whole": int((gap["closed"] >= 1).sum()),
        "same_sign": one_sign(gap.groupby("base")["change"].mean(), bases),
    }


def equal_numbers(rows: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Sets compared at equal numbers of heads, in the runs with a gap that have both, with some head in each.

    Returns:
        Columns `EQUAL_COLUMNS`: `value` is the mean difference of the two changes within a run (positive: the set that
        is named first gains more), with its interval over seeds and base models; `n_runs`; `n_heads` (mean);
        `n_first_better`, `n_second_better` count runs by the estimates alone.
    """
    bases, found = rows["base"].unique(), []
    for task, condition, counted, part in _groups(rows[rows["gap"]]):
        for contrast, (first, second) in CONTRASTS.items():
            one, two = (part[(part["set"] == name) & (part["n_heads"] > 0)].set_index(RUN) for name in (first, second))
            same = one["n_heads"] == two["n_heads"].reindex(one.index)
            both = one.assign(difference=one["change"] - two["change"].reindex(one.index))[same].reset_index()
            if both.empty:
                continue
            found.append({
                "task": task, "condition": condition, "contrast": contrast,
                **cells(ratio(both, "difference", n_resamples=n_resamples)), "n_runs": len(both),
                "n_heads": both["n_heads"].mean(), "n_first_better": int((both["difference"] > 0).sum()),
                "n_second_better": int((both["difference"] < 0).sum()),
                "same_sign": one_sign(both.groupby("base")["difference"].mean(), bases), "counted": counted,
            })
    return frame(found, EQUAL_COLUMNS)


def against(rows: pd.DataFrame) -> pd.DataFrame:
    """Every run with a gap that speaks against the claim, one row a case.

    Cases: `hurts` (patching the intersection is worse than nothing, beyond the interval; `value` is the change),
    `whole` (it closes the whole gap by the estimate; the share), `under_random` (it helps less than random heads,
    beyond the interval; the difference). Columns `AGAINST_COLUMNS`.
    """
    own = rows[(rows["set"] == "intersection") & rows["gap"]]
    cases = (("hurts", "change", own["change_high"] < 0), ("whole", "closed", own["closed"] >= 1),
             ("under_random", "over_random", own["over_random_high"] < 0))
    found = [
        {**{name: row[name] for name in RUN}, "case": case, "value": row[column], "low": row[f"{column}_low"],
         "high": row[f"{column}_high"], **{name: row[name] for name in ("n_heads", "n", "counted")}}
        for case, column, where in cases for row in own[where].to_dict("records")
    ]
    return frame(found, AGAINST_COLUMNS).sort_values([*RUN, "case"], ignore_index=True)
