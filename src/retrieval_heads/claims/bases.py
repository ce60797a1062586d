"""Are the heads of two base models alike (question Q4 of book/preregistration.md)?

A head has no identity across models: heads of a layer can be in any order. What can be compared is how strong the heads
of each layer are. `profile` is the mean strength of each layer, `sorted` the strengths of each layer from the strongest
to the weakest. Chance is what remains when the layers of one model are permuted, each with all its heads, the same in
all tasks (`stats.correlation`, exchange of whole blocks); intervals are over layers.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import BASE, TaskHeads, need, task_heads, without_blanks
from retrieval_heads.claims.pairs import known_mean
from retrieval_heads.claims.verdict import ALL, IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict, plain
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval
from retrieval_heads.stats.correlation import PERMUTATIONS, correlate

MEASURES = ("profile", "sorted")
STATES = (BASE, REFERENCE)
LEVEL = 0.05
NAN = float("nan")

COLUMNS = ("task", "condition", "base", "other_base", "measure", "estimate", "low", "high", "p", "same_base",
                 "n_layers", "n_seeds", "reason")

RULE = (
    "Supported when the rank correlation of the mean strengths of layers between two base models' real runs, ranks "
    "within tasks, is above 0 with p below 0.05 against permuted layers; not supported when it is below 0 so; of more "
    "than one pair of base models: in part when of some."
)


def base_alike_rows(
    head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """The table `base_alike`: how alike the heads of two base models are, as they are and after training.

    Args:
        head_scores: of all runs and the base models.
        n_resamples, n_permutations: of the bootstrap over layers and the permutations of layers.

    Returns:
        `COLUMNS`. One row a `task` (and `all`, ranks within tasks), `condition` (`base` and `real`), pair
        of base models and measure: Spearman's `estimate` of the mean scores over seeds, `low`, `high`, `p` (two-sided),
        `same_base` (mean correlation of two runs of one base model and different seeds), `n_layers`,
        `n_seeds`, `reason`.

    Raises:
        ResultError: as in `head_arrays.task_heads`.
    """
    tasks, rows = task_heads(head_scores), []
    for condition in STATES:
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
    return without_blanks(pd.DataFrame(rows, columns=list(COLUMNS)), "reason")


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
    """The verdict on Q4 from the table `base_alike`: the real runs, all tasks together.

    Raises:
        ResultError: a column that is not there.
    """
    need(alike, COLUMNS, "base_alike")
    own = alike[(alike["condition"] == REFERENCE) & (alike["measure"] == "profile")]
    own = own if own["task"].nunique() == 1 else own[own["task"] == ALL]
    significant = own[own["p"] < LEVEL]
    above, below = int((significant["estimate"] > 0).sum()), int((significant["estimate"] < 0).sum())
    verdict = UNDECIDED
    if above:
        verdict = SUPPORTED if above == len(own) else IN_PART
    elif below == len(own) > 0:
        verdict = NOT
    detail = " ".join(
        f"{row.base} and {row.other_base}: p = {row.p:.3g}; runs of one base model have {row.same_base:.2f}."
        for row in own.itertuples()) or "There is one base model only, or no real run."
    found = Interval(NAN, NAN, NAN) if own.empty else Interval(*own[["estimate", "low", "high"]].mean().astype(float))
    return Verdict(
        "Q4", ALL, verdict, "rank correlation of the layers' mean strengths between base models", *plain(found),
        "rank correlation", 0 if own.empty else int(own["n_layers"].min()), "layers", RULE, detail,
        "03_head_detection", "base_alike",
    )
