"""Claim C4: retrieval heads are necessary.

The quantity is the area between the knock-out curves of random and of retrieval heads of a run, over log(1 + k), from
the table `knockout_area`. Runs count that answer at least a fifth of the examples before anything is knocked out: what
cannot be lost cannot be knocked out. A sign counts when the mean area has it in every base model, so a base model
without such a run leaves the claim undecided.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from retrieval_heads.claims.head_arrays import claimed, need, synthetic
from retrieval_heads.claims.repeated import cells, frame, one_row_a_key, one_sign, ratio
from retrieval_heads.claims.specificity import specificity, specificity_sentence
from retrieval_heads.claims.verdict import (
    ALL,
    IN_PART,
    NOT,
    SUPPORTED,
    UNDECIDED,
    Judged,
    Verdict,
    over_tasks,
    too_few,
)
from retrieval_heads.keys import RUN
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval

MODE, SCOPE, METRIC, AXIS = "zero", "answer", "forced_exact_match", "log"

ABLE = 0.2
"""Share of right answers that a run needs to be tested."""

MOST, LITTLE = 0.5, 0.25
"""Shares of the right answers: retrieval heads have to take at least the first, random ones less than the second."""

COLUMNS = (
    "task", "condition", "n_runs", "n_able", "start", "n_retrieval", "n_area", "area", "area_low", "area_high",
    "n_above", "n_below", "same_sign", "k_max_least", "k_max_most", "n_shares", "share_retrieval",
    "share_retrieval_low", "share_retrieval_high", "share_random", "share_random_low", "share_random_high",
    "ten_retrieval", "ten_retrieval_low", "ten_retrieval_high", "ten_random", "ten_random_low", "ten_random_high",
)

TEN = 10
"""Heads that the paper knocks out, whatever the number of retrieval heads."""

CHAPTER = "04_knockout"
RULE = (
    "Supported when the area's interval lies above 0 in more than half of the able runs and below 0 in none, and all "
    "retrieval heads take at least half of the right answers while as many random ones take less than a quarter; in "
    "part when only the first holds; not supported when it lies below 0 in more runs than above."
)


def judge_necessity(
    knockout: pd.DataFrame, areas: pd.DataFrame, text_loss: pd.DataFrame | None = None, *,
    n_resamples: int = RESAMPLES,
) -> Judged:
    """Claim C4 from the tables `knockout`, `knockout_area` and `text_loss`.

    Returns:
        The tables `necessity` and `specificity` (empty without `text_loss`), and the verdicts.

    Raises:
        ResultError: a column that is not there, or a row that stands twice.
    """
    runs = able_runs(knockout, areas)
    tables = {
        "necessity": necessity(runs, n_resamples=n_resamples),
        "specificity": specificity(runs, knockout, text_loss, n_resamples=n_resamples),
    }
    return Judged(tables, tuple(verdicts(tables["necessity"], tables["specificity"])))


def able_runs(knockout: pd.DataFrame, areas: pd.DataFrame) -> pd.DataFrame:
    """One row a run that heads were knocked out of.

    Returns:
        The key columns of a run; `start` (share of right answers before); `able`; `n_retrieval`; `without_retrieval`
        and `without_random` (share of right answers without all retrieval heads, and without as many random ones: NaN
        where the run has none, or too few heads are free for a control), the same as `ten_retrieval` and `ten_random`
        without ten; `area`, `low`, `high`, `k_max`.
    """
    need(knockout, [*RUN, "mode", "scope", "set", "draw", "k", "metric", "value", "n_retrieval"], "knockout")
    rows = knockout[(knockout["metric"] == METRIC) & (knockout["draw"] == 0)]
    rows = rows[rows["condition"].isin(claimed(rows["condition"].unique()))]
    start = one_row_a_key(rows[rows["set"] == "none"], RUN, "knockout").set_index(RUN)
    runs = pd.DataFrame({"start": start["value"], "n_retrieval": start["n_retrieval"]})
    runs["able"] = runs["start"] >= ABLE
    rows = rows[(rows["mode"] == MODE) & (rows["scope"] == SCOPE)]
    for place, chosen in (("without", (rows["k"] == rows["n_retrieval"]) & (rows["k"] > 0)), ("ten", rows["k"] == TEN)):
        for name in ("retrieval", "random"):
            left = one_row_a_key(rows[chosen & (rows["set"] == name)], RUN, "knockout").set_index(RUN)
            runs[f"{place}_{name}"] = left["value"].astype(float)
    return runs.join(_areas(areas)).reset_index()


def _areas(areas: pd.DataFrame) -> pd.DataFrame:
    """The area of each run beside random heads; where there are several ends, up to the last that all runs have."""
    need(areas, [*RUN, "mode", "scope", "set", "value", "low", "high", "k_max"], "knockout_area")
    rows = areas[(areas["mode"] == MODE) & (areas["scope"] == SCOPE) & (areas["set"] == "random")]
    rows = rows[rows["axis"] == AXIS] if "axis" in rows else rows
    if rows.duplicated(RUN).any():
        n_runs = len(rows[RUN].drop_duplicates())
        shared = rows.groupby("k_max")["value"].count().loc[lambda counts: counts == n_runs]
        rows = rows[rows["k_max"] == shared.index.max()] if len(shared) else rows
    rows = one_row_a_key(rows, RUN, "knockout_area").set_index(RUN)
    return rows[["value", "low", "high", "k_max"]].astype(float).rename(columns={"value": "area"})


def necessity(runs: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Counts and means of the able runs of each task and condition, of each task (`all`), and of all of them.

    Args:
        runs: as `able_runs` gives them.
        n_resamples: of the bootstrap over seeds and base models.

    Returns:
        Columns `COLUMNS`: `n_runs` knocked out, `n_able`; of the able ones `start` and `n_retrieval` (means), `n_area`
        (with an area), `area` (mean, with interval), `n_above` and `n_below` (runs whose own interval lies above or
        below 0), `same_sign` (of the mean area in each base model that was studied), `k_max_least` and `k_max_most`
        (ends of the curves); of the `n_shares` with a control the share of all right answers that is taken by all
        retrieval heads, and by as many random ones. Empty cells where no run is able.
    """
    groups: list[tuple[tuple[str, str], pd.DataFrame]] = list(runs.groupby(["task", "condition"]))
    groups += [((task, ALL), part) for task, part in runs.groupby("task")]
    groups += [((ALL, ALL), runs)] if len(runs) else []
    return frame(({"task": task, "condition": condition, **_row(part, runs["base"].unique(), n_resamples)}
                  for (task, condition), part in groups), COLUMNS)


def _row(part: pd.DataFrame, bases: Any, n_resamples: int) -> dict[str, Any]:
    able = part[part["able"]]
    area = able.dropna(subset=["area"])
    shares = able.dropna(subset=["without_retrieval", "without_random"])
    taken = {
        f"{cell}_{name}": ratio(known.assign(taken=known["start"] - known[f"{place}_{name}"]), "taken", "start",
                                n_resamples=n_resamples)
        for cell, place, known in (("share", "without", shares), ("ten", "ten", able))
        for name in ("retrieval", "random")
    }
    return {
        "n_runs": len(part), "n_able": len(able), "start": able["start"].mean(),
        "n_retrieval": able["n_retrieval"].mean(), "n_area": len(area),
        **cells(ratio(area, "area", n_resamples=n_resamples), "area"),
        "n_above": int((able["low"] > 0).sum()), "n_below": int((able["high"] < 0).sum()),
        "same_sign": one_sign(area.groupby("base")["area"].mean(), bases),
        "k_max_least": area["k_max"].min(), "k_max_most": area["k_max"].max(), "n_shares": len(shares),
        **{key: cell for name, interval in taken.items() for key, cell in cells(interval, name).items()},
    }


def verdicts(necessity: pd.DataFrame, specificity: pd.DataFrame) -> list[Verdict]:
    """One verdict a task, and that over all tasks."""
    need(necessity, COLUMNS, "necessity")
    totals = necessity[necessity["condition"] == ALL].set_index("task")
    few = too_few(len(synthetic(necessity.loc[necessity["condition"] != ALL, "condition"])))
    of_tasks = [_of_task(task, row, specificity, few) for task, row in totals.iterrows() if task != ALL]
    if not of_tasks:
        return []
    return [*of_tasks, over_tasks(of_tasks, _area(totals.loc[ALL]))]


def _area(row: pd.Series) -> Interval:
    return Interval(*(float(row[name]) for name in ("area", "area_low", "area_high")))


def _of_task(task: str, row: pd.Series, specificity: pd.DataFrame, few: str) -> Verdict:
    effect = (None if pd.isna(number) else number for number in _area(row))
    return Verdict(
        "C4", task, UNDECIDED if few else _decide(row),
        "area between the knock-out curves of random and of retrieval heads", *effect, "share of right answers",
        int(row["n_able"]), "runs", RULE,
        " ".join(part for part in (few, _detail(row), specificity_sentence(specificity, task)) if part), CHAPTER,
        "necessity",
    )


def _decide(row: pd.Series) -> str:
    if not row["n_able"] or not row["same_sign"]:
        return UNDECIDED
    if row["area"] > 0 and row["n_above"] > row["n_able"] / 2 and not row["n_below"]:
        return SUPPORTED if row["share_retrieval"] >= MOST and row["share_random"] < LITTLE else IN_PART
    return NOT if row["area"] < 0 and row["n_below"] > row["n_above"] else UNDECIDED


def _detail(row: pd.Series) -> str:
    if not row["n_able"]:
        return f"None of {row['n_runs']} runs answers {ABLE:.0%} of the examples, so nothing can be lost."
    text = (f"Of {row['n_able']} able runs ({row['n_runs']} in all) the area lies above 0 in {row['n_above']} and "
            f"below 0 in {row['n_below']}, beyond the interval. ")
    if not row["same_sign"]:
        text += "The mean area has not one sign in all base models, or one has no able run. "
    if row["n_area"] < row["n_able"]:
        text += f"{row['n_able'] - row['n_area']} have no random control and count as undecided. "
    if row["k_max_least"] < row["k_max_most"]:
        text += f"The curves end between {row['k_max_least']:.0f} and {row['k_max_most']:.0f} heads. "
    if not row["n_shares"]:
        return text + "No able run has as many random heads as retrieval heads to compare all of them."
    text += (f"Without all their retrieval heads the runs lose {row['share_retrieval']:.0%} of their right answers, "
             f"without as many random ones {row['share_random']:.0%} ({row['n_shares']} runs).")
    if pd.isna(row["ten_retrieval"]):
        return text
    collapse = "is seen here too" if row["ten_retrieval"] >= MOST else "is not seen here"
    return text + (f" The ten strongest alone take {row['ten_retrieval']:.0%}, ten random ones "
                   f"{row['ten_random']:.0%}: the collapse at ten heads that is reported of the paper {collapse}.")
