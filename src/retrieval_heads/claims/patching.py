"""Claim C5: the heads help when patched in from the real run, and do not close the gap to it.

The condition is a gap: the real run is better than the synthetic one beyond the interval, and answers at least a fifth
of the examples, as the rules ask of runs that are tested. The runs that count are those on the synthetic conditions, of
all tasks together; `real_limited` and mixtures are shown beside them. All numbers are of answers that are right token
by token, teacher forced. A sign counts when the mean change has it in every base model.

Whether a part of the gap stays open is decided by the pooled share with its interval, and in every base model. By the
runs' own intervals it could hardly be found: `power_of_runs` says how rarely.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from scipy.stats import norm

from retrieval_heads.claims.necessity import ABLE, METRIC
from retrieval_heads.claims.runs import cells, claimed, frame, groups, one_sign, ratio, synthetic
from retrieval_heads.claims.verdict import ALL, Judged, Verdict, decide, plain, too_few
from retrieval_heads.keys import RUN
from retrieval_heads.stats.resample import RESAMPLES, Interval

INTERVALS = [f"{name}{end}" for name in ("change", "closed", "over_random") for end in ("", "_low", "_high")]

Z = 1.96
"""Half the width of a normal 95% interval, in standard errors."""

SETS = ("intersection", "complement", "random", "random_complement", "intersection_equal", "all")

CONTRASTS = {
    "complement_over_intersection": ("complement", "intersection_equal"),
    "complement_over_random": ("complement", "random_complement"),
    "intersection_over_random": ("intersection_equal", "random_complement"),
}
"""Comparisons of sets with as many heads as the complement has; the random ones are of the complement's layers."""

C5 = partial(
    Verdict, claim="C5", quantity="share of the gap to the real run closed by patching the shared retrieval heads",
    unit="share of the gap", n_of="runs", chapter="05_patching", table="sufficiency", rule=
    "Supported when the intersection helps in more than half of the runs with a gap and hurts in none, helps more than "
    "random heads in more than half, and leaves a part open: the interval of the pooled share lies below 1, and the "
    "share in each base model; in part when it helps, but no more than random heads; not supported when it hurts in "
    "more runs than it helps, or closes the whole gap in more than half.",
)

SHARES = (0.8, 0.9)
"""Shares of the gap for which it is said how often single runs would show that a part stays open."""


def judge_patching(patching: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> Judged:
    """Claim C5 from the table `patching`; the verdicts of the tasks are for show, that of all runs is the claim's."""
    rows = patched(patching)
    tables = {
        "sufficiency": sufficiency(rows, n_resamples=n_resamples),
        "sufficiency_equal": equal_numbers(rows, n_resamples=n_resamples),
        "sufficiency_against": against(rows),
    }
    return Judged(tables, tuple(verdicts(rows, n_resamples=n_resamples)))


def patched(patching: pd.DataFrame) -> pd.DataFrame:
    """The rows of every set of heads of every patched run, with `gap` (whether it has one that counts) and `counted`
    (whether it is on a synthetic condition)."""
    rows = patching[(patching["metric"] == METRIC) & (patching["draw"] == 0)]
    conditions = rows["condition"].unique()
    rows = rows[rows["condition"].isin(claimed(conditions))]
    rows = rows[[*RUN, "set", "n_heads", "n", "value", *INTERVALS]].astype({name: float for name in INTERVALS})
    source = rows[rows["set"] == "source"].set_index(RUN)
    gap = ((source["change_low"] > 0) & (source["value"] >= ABLE)).rename("gap")
    rows = rows[~rows["set"].isin(["source", "none"])].drop(columns="value").join(gap, on=RUN)
    rows["gap"] = rows["gap"].eq(True)
    return rows.assign(counted=rows["condition"].isin(synthetic(conditions))).reset_index(drop=True)


def sufficiency(rows: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Each set of heads in each task and condition; `all` stands for the conditions that count, and for all tasks."""
    bases, found = rows["base"].unique(), []
    for task, condition, part in groups(rows, rows[rows["counted"]]):
        for name in SETS:
            own = part[part["set"] == name]
            if len(own):
                found.append({"task": task, "condition": condition, "set": name, **_row(own, bases, n_resamples)})
    return frame(found, "sufficiency")


def _row(own: pd.DataFrame, bases: Any, n_resamples: int) -> dict[str, Any]:
    gap = own[own["gap"]]
    return {
        "counted": bool(own["counted"].all()), "n_runs": len(own), "n_gap": len(gap), "n_heads": gap["n_heads"].mean(),
        **cells(ratio(gap, "change", n_resamples=n_resamples), "change"),
        **cells(ratio(gap, "closed", n_resamples=n_resamples), "closed"),
        **_counts(gap),
        "same_sign": one_sign(gap.groupby("base")["change"].mean(), bases),
    }


def equal_numbers(rows: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Sets compared at equal numbers of heads, in the runs with a gap that have both, with some head in each."""
    bases, found = rows["base"].unique(), []
    rows = rows[rows["gap"]]
    for task, condition, part in groups(rows, rows[rows["counted"]]):
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
                "same_sign": one_sign(both.groupby("base")["difference"].mean(), bases),
                "counted": bool(both["counted"].all()),
            })
    return frame(found, "sufficiency_equal")


def against(rows: pd.DataFrame) -> pd.DataFrame:
    """Every run with a gap that speaks against the claim, one row per case.

    Cases: `hurts` (patching the intersection is worse than nothing, beyond the interval; `value` is the change),
    `whole` (it closes the whole gap by the estimate; the share), `under_random` (it helps less than random heads,
    beyond the interval; the difference).
    """
    own = rows[(rows["set"] == "intersection") & rows["gap"]]
    cases = (("hurts", "change", own["change_high"] < 0), ("whole", "closed", own["closed"] >= 1),
             ("under_random", "over_random", own["over_random_high"] < 0))
    found = [
        {**{name: row[name] for name in RUN}, "case": case, "value": row[column], "low": row[f"{column}_low"],
         "high": row[f"{column}_high"], **{name: row[name] for name in ("n_heads", "n", "counted")}}
        for case, column, where in cases for row in own[where].to_dict("records")
    ]
    return frame(found, "sufficiency_against").sort_values([*RUN, "case"], ignore_index=True)


def verdicts(rows: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> list[Verdict]:
    """One verdict per task and that over all runs, from the rows of `patched`."""
    every = rows[rows["set"] == "intersection"]
    if every.empty:
        return []
    few = too_few(len(synthetic(rows["condition"].unique())))
    parts = [*every.groupby("task"), (ALL, every)]
    return [_verdict(str(task), part, every["base"].unique(), few, n_resamples) for task, part in parts]


def _verdict(task: str, every: pd.DataFrame, bases: Any, few: str, n_resamples: int) -> Verdict:
    own = every[every["counted"]]
    runs = own[own["gap"]]
    closed = ratio(runs, "closed", n_resamples=n_resamples)
    found, also = (_decide(part, ratio(part, "closed", n_resamples=n_resamples), bases, few)
                   for part in (runs, every[every["gap"]]))
    more = int(every["gap"].sum()) - len(runs)
    detail = " ".join(part for part in (few, _detail(own, runs, closed, bases)) if part)
    if more and not few:
        detail += f" With the {more} runs on real data of few relations and on mixtures that have a gap too: {also}."
    return C5(task, found, *plain(closed), len(runs), detail)


def _counts(runs: pd.DataFrame) -> dict[str, int]:
    """Of runs with a gap: in how many a set helps, hurts, ..., each beyond the interval; `whole` by the estimate."""
    return {
        "n_helped": int((runs["change_low"] > 0).sum()), "n_hurt": int((runs["change_high"] < 0).sum()),
        "n_controls": int(runs["over_random"].notna().sum()),
        "n_over_random": int((runs["over_random_low"] > 0).sum()),
        "n_under_random": int((runs["over_random_high"] < 0).sum()),
        "n_open": int((runs["closed_high"] < 1).sum()), "n_whole": int((runs["closed"] >= 1).sum()),
    }


def _open(runs: pd.DataFrame, closed: Interval) -> bool:
    """Whether a part of the gap stays open: by the pooled share, beyond its interval, and in every base model."""
    return bool(closed.high < 1 and (runs.groupby("base")["closed"].mean() < 1).all())


def power_of_runs(runs: pd.DataFrame, share: float) -> float:
    """In what part of the runs a share of the gap would be found to be below 1 by the run's own interval.

    As if the estimate were normal around the share, with the width of the interval that the run has.
    """
    widths = (runs["closed_high"] - runs["closed_low"]).dropna().to_numpy()
    errors = widths[widths > 0] / (2 * Z)
    return float(norm.cdf((1 - share) / errors - Z).mean()) if len(errors) else float("nan")


def _decide(runs: pd.DataFrame, closed: Interval, bases: Any, few: str) -> str:
    """The verdict from the rows of the intersection in the runs with a gap, and their pooled share of it."""
    n, count, better = len(runs), _counts(runs), runs["change"].mean() > 0
    helps = better and count["n_helped"] > n / 2 and not count["n_hurt"]
    over_random = count["n_over_random"] > n / 2
    return decide(
        undecided=few or not n or not one_sign(runs.groupby("base")["change"].mean(), bases),
        not_supported=count["n_whole"] > n / 2 or (count["n_hurt"] > count["n_helped"] and not better),
        supported=helps and over_random and _open(runs, closed),
        in_part=helps and not over_random,
    )


def _detail(own: pd.DataFrame, runs: pd.DataFrame, closed: Interval, bases: Any) -> str:
    if runs.empty:
        return f"None of {len(own)} synthetic runs has a gap to a real run that answers {ABLE:.0%} of the examples."
    count = _counts(runs)
    text = (
        f"Of {len(runs)} synthetic runs with a gap ({len(own)} in all) the intersection helps in {count['n_helped']} "
        f"and hurts in {count['n_hurt']}, helps more than random heads in {count['n_over_random']} "
        f"({count['n_controls']} have such a control) and closes the whole gap by its estimate in {count['n_whole']}."
    )
    if not pd.isna(closed.high):
        said = "leaves a part of it open" if _open(runs, closed) else "does not show that a part of it stays open"
        text += f" The pooled share {said}."
    power = [f"{power_of_runs(runs, share):.0%} of runs for a true share of {share}" for share in SHARES]
    text += (f" By its own interval a part stays open in {count['n_open']} runs; with so few examples a run this would "
             f"show in {' and in '.join(power)}, so it decides nothing.")
    if not one_sign(runs.groupby("base")["change"].mean(), bases):
        text += " The mean change has not one sign in all base models, or one has no gap."
    return text
