"""Further questions of book/preregistration.md: Q3 to Q5, on measures, base models and what varies.

**Q3.** Do attention mass or the contribution predict better than the copy score?

**Q4.** Are the heads of two base models alike? A head has no identity across models: heads of a layer can be in any
order. What can be compared is how strong the heads of each layer are. `profile` is the mean strength of each layer,
`sorted` the strengths of each layer from the strongest to the weakest. Chance is what remains when the layers of one
model are permuted, each with all its heads, the same in all tasks (`stats.correlation`, exchange of whole blocks);
intervals are over layers.

**Q5.** Does recall vary less, or performance, in single-hop questions than in chains of facts? A correlation needs
something to vary. The paper finds hardly any on single-hop questions; if recall or performance is nearly the same in
all conditions there, that is why. Compared are variances over conditions of the means over seeds and base models; the
share of it that the chance of runs would give stands beside it.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import BASE, TaskHeads, known_mean, task_heads
from retrieval_heads.claims.prediction import BETTER, EVERY, WORSE, parts, pooled
from retrieval_heads.claims.run_predictors import OUTCOME
from retrieval_heads.claims.runs import frame, where
from retrieval_heads.claims.verdict import ALL, Verdict, decide, plain, undecided
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.correlation import PERMUTATIONS, correlate
from retrieval_heads.stats.resample import NAN, RESAMPLES, UNKNOWN, Interval, percentile_interval
from retrieval_heads.stats.runs import balanced
from retrieval_heads.wording import PREDICTORS as WORDS
from retrieval_heads.wording import p_value

MEASURES = ("profile", "sorted")
LEVEL = 0.05

Q3 = partial(
    Verdict, claim="Q3", unit="fraction", n_of="conditions", chapter="07_verdicts", table="prediction_errors",
    quantity="absolute error of recall less that of the better of the top heads by attention mass and by contribution",
    rule=
    "Supported when the strongest heads by mass and by contribution both predict left-out conditions with a smaller "
    "absolute error than recall, beyond the interval over conditions and in each base model; in part with one; not "
    "supported when both have a larger one.",
)
Q4 = partial(
    Verdict, claim="Q4", quantity="rank correlation of the layers' mean strengths between base models",
    unit="rank correlation", n_of="layers", chapter="03_head_detection", table="base_alike", rule=
    "Supported when the rank correlation of the mean strengths of layers between two base models' real runs, ranks "
    "within tasks, is above 0 with p below 0.05 against permuted layers; not supported when it is below 0 so; of more "
    "than one pair of base models: in part when of some.",
)

TASK, OTHER_TASK = "mdqa", "musique"
QUANTITIES = ("recall", OUTCOME)
LEAST_CONDITIONS = 3

Q5 = partial(
    Verdict, claim="Q5", unit="ratio", n_of="conditions", chapter="06_correlation", table="spread",
    quantity=f"the smaller ratio of variances over conditions, {TASK} to {OTHER_TASK}, of recall and of performance",
    rule=
    "Supported when the variance over conditions of recall, or of performance, is smaller in mdqa than in musique, the "
    "interval of the ratio below 1 and the ratio below 1 in each base model; not supported when both are larger so.",
)


def measures_verdict(errors: pd.DataFrame) -> Verdict:
    """Q3: do the strongest heads by attention mass, or by contribution, predict better than the copy score's recall?"""
    rows = pooled(where(errors, conditions=ALL, predictor="recall"), EVERY)
    rows = rows[rows["reference"].isin(["mass_top", "contribution_top"])]
    # the rows say what recall gains on the measure: worse recall is a better measure
    better, worse = int((rows["finding"] == WORSE).sum()), int((rows["finding"] == BETTER).sum())
    verdict = decide(supported=better == len(rows) > 1, in_part=better, not_supported=worse == len(rows) > 1)
    said = [f"Against the {WORDS[one.reference]}: {-one.gain:+.3f} ({-one.gain_high:+.3f} to {-one.gain_low:+.3f})."
            for one in rows.itertuples()]
    best = UNKNOWN if rows.empty else -rows.sort_values("gain").iloc[0][["gain", "gain_high", "gain_low"]].astype(float)
    return Q3(ALL, verdict, *plain(best), 0 if rows.empty else int(rows["n_conditions"].min()),
              " ".join(said) or "Neither was measured.")


def base_alike_rows(
    head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """The table `base_alike`: how alike the heads of two base models are, as they are and after training."""
    tasks, rows = task_heads(head_scores), []
    for condition in (BASE, REFERENCE):
        means = {one.task: mean for one in tasks if (mean := _mean_scores(one, condition)) is not None}
        bases = sorted({base for mean in means.values() for base in mean})
        for pair in combinations(bases, 2):
            both = {task: [mean[base] for base in pair] for task, mean in means.items() if set(pair) <= set(mean)}
            groups = {task: {task: scores} for task, scores in both.items()} | ({ALL: both} if len(both) > 1 else {})
            for task, group in groups.items():
                for measure in MEASURES:
                    found = _between(group, measure, n_resamples, n_permutations)
                    same = [one for one in tasks if one.task in group]
                    rows.append({
                        "task": task, "condition": condition, "base": pair[0], "other_base": pair[1],
                        "measure": measure, **{name: found[name] for name in ("estimate", "low", "high", "p")},
                        "same_base": _same_base(same, condition, measure), "n_layers": found["n_clusters"],
                        "n_seeds": 0 if condition == BASE else len(same[0].seeds), "reason": found["reason"],
                    })
    return frame(rows, "base_alike")


def _mean_scores(one: TaskHeads, condition: str) -> dict[str, np.ndarray] | None:
    """float64 `[layers, heads]` of each base model that has any, the mean over seeds."""
    if condition == BASE:
        means = one.base["score"]
    elif condition in one.conditions:
        means = known_mean(one.runs["score"][one.conditions.index(condition)], 1)
    else:
        return None
    return {base: mean for base, mean in zip(one.bases, means, strict=True) if np.isfinite(mean).all()}


def _strengths(scores: np.ndarray, measure: str) -> np.ndarray:
    """`[layers, 1]` or `[layers, heads]` from `[layers, heads]`."""
    return scores.mean(axis=-1, keepdims=True) if measure == "profile" else -np.sort(-scores, axis=-1)


def _between(group: dict[str, list[np.ndarray]], measure: str, n_resamples: int, n_permutations: int) -> dict:
    columns = [np.stack([_strengths(pair[i], measure) for pair in group.values()]) for i in (0, 1)]
    task, layer, _ = np.indices(columns[0].shape)
    # a cluster is a layer, its rows in the order of tasks and of strengths
    order = np.lexsort((task.ravel(), layer.ravel()))
    x, y, tasks, layers = (one.ravel()[order] for one in (*columns, task, layer))
    return correlate(x, y, groups=tasks, clusters=layers, exchange="whole", n_resamples=n_resamples,
                     n_permutations=n_permutations)


def _same_base(tasks: list[TaskHeads], condition: str, measure: str) -> float:
    """Mean correlation of runs of one base model and different seeds; NaN without such runs."""
    found = []
    for one in tasks:
        if condition not in one.conditions:
            continue
        for runs in one.runs["score"][one.conditions.index(condition)]:
            known = [_strengths(run, measure).ravel() for run in runs if np.isfinite(run).all()]
            if len(known) > 1:
                ranks = pd.DataFrame(known).T.corr("spearman").to_numpy()
                found += list(ranks[np.triu_indices(len(known), 1)])
    return float(known_mean(np.array(found), 0)) if found else NAN


def alike_verdict(alike: pd.DataFrame) -> Verdict:
    """The verdict on Q4 from the table `base_alike`: the real runs, all tasks together."""
    own = pooled(where(alike, condition=REFERENCE, measure="profile"))
    significant = own[own["p"] < LEVEL]
    above, below = int((significant["estimate"] > 0).sum()), int((significant["estimate"] < 0).sum())
    verdict = decide(supported=above == len(own) > 0, in_part=above, not_supported=below == len(own) > 0)
    detail = " ".join(
        f"Base models {row.base} and {row.other_base}: {p_value(row.p)}; runs of one base model have "
        f"{row.same_base:.2f}."
        for row in own.itertuples()) or "There is one base model only, or no real run."
    found = UNKNOWN if own.empty else own[["estimate", "low", "high"]].mean()
    return Q4(ALL, verdict, *plain(found), 0 if own.empty else int(own["n_layers"].min()), detail)


def spread_rows(runs: pd.DataFrame, *, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The table `spread`: how much recall and performance vary over conditions (but `real`) in each task."""
    counting, rows = parts(runs)[ALL], []
    for quantity in QUANTITIES:
        known, _ = balanced(counting, [quantity])
        means, by_base = _wide(known, quantity), [_wide(own, quantity) for _, own in known.groupby("base")]
        for task in means.index:
            own = means.loc[task].dropna().to_numpy()
            found, ratio = _variance(own, n_resamples, seed), _ratio(means, task, n_resamples, seed)
            below = [_ratio(one, task, n_resamples, seed).estimate < 1 for one in by_base]
            rows.append({
                "task": task, "quantity": quantity, "variance": found.estimate, "low": found.low, "high": found.high,
                "noise": _noise(known[known["task"] == task], quantity), "ratio": ratio.estimate,
                "ratio_low": ratio.low, "ratio_high": ratio.high, "bases_below": sum(below),
                "n_bases": len(below), "n_conditions": len(own),
                "reason": f"no variance in {OTHER_TASK}, or no common conditions" * bool(np.isnan(ratio.estimate)),
            })
    return frame(rows, "spread")


def _wide(known: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Means over runs: one row per task, one column per condition."""
    return known.pivot_table(index="task", columns="condition", values=quantity, aggfunc="mean")


def _variance(values: np.ndarray, n_resamples: int, seed: int) -> Interval:
    if len(values) < LEAST_CONDITIONS:
        return UNKNOWN
    drawn = values[np.random.default_rng(seed).integers(len(values), size=(n_resamples, len(values)))]
    return percentile_interval(float(values.var(ddof=1)), drawn.var(axis=1, ddof=1))


def _ratio(means: pd.DataFrame, task: str, n_resamples: int, seed: int) -> Interval:
    """Of the variance in a task to that in `OTHER_TASK`, over the conditions of both."""
    if OTHER_TASK not in means.index or task not in means.index:
        return UNKNOWN
    both = means.loc[[task, OTHER_TASK]].dropna(axis=1).to_numpy()
    n = both.shape[1]
    if n < LEAST_CONDITIONS or not both[1].var():
        return UNKNOWN
    own, other = both.var(axis=1, ddof=1)
    drawn, of_other = both[:, np.random.default_rng(seed).integers(n, size=(n_resamples, n))].var(axis=-1, ddof=1)
    # a sample of one condition again and again has no variance
    return percentile_interval(float(own / other), drawn[of_other > 0] / of_other[of_other > 0])


def _noise(known: pd.DataFrame, quantity: str) -> float:
    """Variance of a condition's mean by the chance of its runs: that within a base model by the number of runs."""
    groups = known.groupby(["condition", "base"])[quantity]
    return float(groups.var(ddof=1).mean() / known.groupby("condition").size().mean())


def spread_verdict(spread: pd.DataFrame) -> Verdict:
    """The verdict on Q5 from the table `spread`."""
    rows = spread[(spread["task"] == TASK) & spread["ratio_low"].notna()]
    if rows.empty:
        return undecided(Q5, ALL, f"There is no ratio of {TASK} to {OTHER_TASK}.")
    less = rows[(rows["ratio_high"] < 1) & (rows["bases_below"] == rows["n_bases"])]
    more = rows[(rows["ratio_low"] > 1) & (rows["bases_below"] == 0)]
    verdict = decide(supported=len(less), not_supported=len(more) == len(QUANTITIES))
    said = [f"The variance of {row.quantity} in {TASK} is {row.ratio:.2f} times that in {OTHER_TASK} "
            f"({row.ratio_low:.2f} to {row.ratio_high:.2f})." for row in rows.itertuples()]
    said += [f"What varies less is {' and '.join(less['quantity'])}."] if len(less) else []
    smallest = rows.sort_values("ratio").iloc[0][["ratio", "ratio_low", "ratio_high"]]
    return Q5(ALL, verdict, *plain(smallest), int(rows["n_conditions"].min()), " ".join(said))
