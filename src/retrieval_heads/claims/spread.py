"""Does recall vary less, or performance, in single-hop questions than in chains of facts (question Q5)?

A correlation needs something to vary. The paper finds hardly any on single-hop questions; if recall or performance is
nearly the same in all conditions there, that is why. Compared are variances over conditions of the means over seeds and
base models; the share of it that the chance of runs would give stands beside it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import claimed, need, without_blanks
from retrieval_heads.claims.run_predictors import OUTCOME
from retrieval_heads.claims.verdict import ALL, NOT, SUPPORTED, UNDECIDED, Verdict, plain
from retrieval_heads.keys import RUN
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, percentile_interval
from retrieval_heads.stats.runs import balanced

TASK, OTHER_TASK = "mdqa", "musique"
QUANTITIES = ("recall", OUTCOME)
LEAST_CONDITIONS = 3
NAN = float("nan")

COLUMNS = ("task", "quantity", "variance", "low", "high", "noise", "ratio", "ratio_low", "ratio_high", "bases_below",
           "n_bases", "n_conditions", "reason")

RULE = (
    "Supported when the variance over conditions of recall, or of performance, is smaller in mdqa than in musique, the "
    "interval of the ratio below 1 and the ratio below 1 in each base model; not supported when both are larger so."
)


def spread_rows(runs: pd.DataFrame, *, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The table `spread`: how much recall and performance vary over conditions in each task.

    Args:
        runs: the table `run_predictors`; `real` does not count.
        n_resamples, seed: of the bootstrap, which draws conditions, the same in all tasks.

    Returns:
        `COLUMNS`. One row a `task` and `quantity`: `variance` of the conditions' means over seeds and base
        models, with `low` and `high`; `noise`, the part that the chance of runs alone would give (their variance within
        a condition and base model by the number of runs); `ratio` of the variance to that in musique, over the
        conditions of both, with `ratio_low` and `ratio_high`; `bases_below` of `n_bases` (base models with a ratio
        below 1); `n_conditions`, `reason`.

    Raises:
        ResultError: a column that is not there.
    """
    need(runs, [*RUN, *QUANTITIES], "run_predictors")
    counting = runs[runs["condition"].isin(claimed(runs["condition"].unique())) & (runs["condition"] != REFERENCE)]
    rows = []
    for quantity in QUANTITIES:
        known, _ = balanced(counting, [quantity])
        means, by_base = _wide(known, quantity), [_wide(own, quantity) for _, own in known.groupby("base")]
        for task in means.index:
            own = means.loc[task].dropna().to_numpy()
            found = _variance_interval(own, n_resamples, seed)
            ratio = _ratio_interval(means, task, n_resamples, seed)
            below = [_ratio(one, task) for one in by_base]
            rows.append({
                "task": task, "quantity": quantity, "variance": found.estimate, "low": found.low, "high": found.high,
                "noise": _noise(known[known["task"] == task], quantity), "ratio": ratio.estimate,
                "ratio_low": ratio.low, "ratio_high": ratio.high, "bases_below": sum(one < 1 for one in below),
                "n_bases": len(below), "n_conditions": len(own),
                "reason": f"no variance in {OTHER_TASK}, or no common conditions" * bool(np.isnan(ratio.estimate)),
            })
    return without_blanks(pd.DataFrame(rows, columns=list(COLUMNS)), "reason")


def _wide(known: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Means over runs: a row a task, a column a condition."""
    return known.pivot_table(index="task", columns="condition", values=quantity, aggfunc="mean")


def _variance_interval(values: np.ndarray, n_resamples: int, seed: int) -> Interval:
    if len(values) < LEAST_CONDITIONS:
        return Interval(NAN, NAN, NAN)
    drawn = values[np.random.default_rng(seed).integers(len(values), size=(n_resamples, len(values)))]
    return percentile_interval(float(values.var(ddof=1)), drawn.var(axis=1, ddof=1))


def _common(means: pd.DataFrame, task: str) -> np.ndarray:
    """float64 `[2, conditions]` of a task and of the one it is compared with."""
    if OTHER_TASK not in means.index or task not in means.index:
        return np.empty((2, 0))
    return means.loc[[task, OTHER_TASK]].dropna(axis=1).to_numpy()


def _ratio(means: pd.DataFrame, task: str) -> float:
    both = _common(means, task)
    if both.shape[1] < LEAST_CONDITIONS:
        return NAN
    own, other = both.var(axis=1, ddof=1)
    return float(own / other) if other else NAN


def _ratio_interval(means: pd.DataFrame, task: str, n_resamples: int, seed: int) -> Interval:
    both, estimate = _common(means, task), _ratio(means, task)
    if np.isnan(estimate):
        return Interval(NAN, NAN, NAN)
    n = both.shape[1]
    own, other = both[:, np.random.default_rng(seed).integers(n, size=(n_resamples, n))].var(axis=-1, ddof=1)
    # a sample of one condition again and again has no variance
    return percentile_interval(estimate, own[other > 0] / other[other > 0])


def _noise(known: pd.DataFrame, quantity: str) -> float:
    """Variance of a condition's mean by the chance of its runs: that within a base model by the number of runs."""
    groups = known.groupby(["condition", "base"])[quantity]
    return float(groups.var(ddof=1).mean() / known.groupby("condition").size().mean())


def spread_verdict(spread: pd.DataFrame) -> Verdict:
    """The verdict on Q5 from the table `spread`.

    Raises:
        ResultError: a column that is not there.
    """
    need(spread, COLUMNS, "spread")
    rows = spread[(spread["task"] == TASK) & spread["ratio_low"].notna()]
    if rows.empty:
        return _verdict(UNDECIDED, Interval(NAN, NAN, NAN), 0, f"There is no ratio of {TASK} to {OTHER_TASK}.")
    less = rows[(rows["ratio_high"] < 1) & (rows["bases_below"] == rows["n_bases"])]
    more = rows[(rows["ratio_low"] > 1) & (rows["bases_below"] == 0)]
    verdict = SUPPORTED if len(less) else NOT if len(more) == len(QUANTITIES) else UNDECIDED
    said = [f"The variance of {row.quantity} in {TASK} is {row.ratio:.2f} times that in {OTHER_TASK} "
            f"({row.ratio_low:.2f} to {row.ratio_high:.2f})." for row in rows.itertuples()]
    said += [f"What varies less is {' and '.join(less['quantity'])}."] if len(less) else []
    smallest = rows.sort_values("ratio").iloc[0]
    found = Interval(*(float(smallest[name]) for name in ("ratio", "ratio_low", "ratio_high")))
    return _verdict(verdict, found, int(rows["n_conditions"].min()), " ".join(said))


def _verdict(verdict: str, found: Interval, n: int, detail: str) -> Verdict:
    return Verdict(
        "Q5", ALL, verdict, f"the smaller ratio of variances over conditions, {TASK} to {OTHER_TASK}, of recall and of "
        "performance", *plain(found), "ratio", n, "conditions", RULE, detail, "06_correlation", "spread",
    )
