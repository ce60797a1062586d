"""Claim C1: models trained on synthetic data fall short of models trained on real data.

The quantity is the mean difference of `real` and a condition in the metric of the claim, paired by base model, seed and
example, with a bootstrap interval over all three. A difference counts *for* the claim when its interval lies above 0
and its mean is above 0 in every base model. One below 0 stands against it by its interval alone; the verdict
`not supported` asks for the same sign in every base model there too. An end of an interval that lies within its own
Monte Carlo error of 0 counts as 0.

Two base models are hardly a sample of base models. So beside the interval that decides stands the one with the base
models fixed, and in how many of them, taken by themselves, the difference lies above 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import synthetic
from retrieval_heads.claims.repeated import cells, frame, one_sign
from retrieval_heads.claims.score_arrays import EXACT, SCORE, TaskScores, claim_column, task_scores
from retrieval_heads.claims.verdict import (
    ALL,
    NEEDED,
    plain,
)
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import (
    RESAMPLES,
    Interval,
    bootstrap_crossed,
    crossed_means,
    percentile_interval,
)
from retrieval_heads.stats.ends import MANY, Ends, crossed_ends

NAN = float("nan")

ASKED, REFUTING = 10, 2
"""`NEEDED` of so many conditions have to fall short; more than the second that do better refute the claim."""

COLUMNS = ("task", "condition", "metric", "value", "low", "high", "low_error", "high_error", "fixed_low", "fixed_high",
           "bases_above", "resamples", "n", "n_seeds", "n_bases", "same_sign")
MEAN_COLUMNS = ("task", "metric", "value", "low", "high", "n_conditions", "n", "n_seeds", "n_bases", "same_sign")

CHAPTER = "02_lora_finetuning"
RULE = (
    f"Supported when the difference to `real` lies above 0 for at least {NEEDED} of the {ASKED} synthetic conditions "
    f"and below 0 for none; not supported when it lies below 0 for more than {REFUTING}; tested only where `real` is "
    "better than the raised theta alone; a sign counts when it is that of each base model, and an end of an interval "
    "when it is further from 0 than its Monte Carlo error."
)


def shortfall(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_deciding: int = MANY) -> pd.DataFrame:
    """By how much each condition falls short of `real`, in exact match and in the score of the task.

    Args:
        answers: the table.
        n_resamples: of each bootstrap.
        n_deciding: of those of the synthetic conditions in the metric of the claim, on which the verdict hangs.

    Returns:
        Columns `COLUMNS`: `value` is a difference of fractions, positive when `real` is better; `low_error` and
        `high_error` the Monte Carlo errors of the ends; `fixed_low`, `fixed_high` the interval with these base models
        as all there is; `bases_above` in how many of them by themselves the interval lies above 0; `n` examples;
        `same_sign`: the mean has this sign in each base model. Conditions without a run beside a real one are left out.
    """
    rows = []
    for column in (EXACT, SCORE):
        for one in task_scores(answers, column):
            deciding = synthetic(one.conditions) if column == claim_column(one.task) else []
            others = [name for name in one.conditions if name not in (REFERENCE, *deciding)]
            for names, count in ((deciding, n_deciding), (others, n_resamples)):
                rows += _differences(one, names, count)
    return frame(rows, COLUMNS).sort_values(list(COLUMNS[:3]), ignore_index=True)


def _differences(one: TaskScores, names: Iterable[str], n_resamples: int) -> Iterator[dict[str, Any]]:
    """A row for each condition; those with the same base models and seeds share the samples."""
    alike: dict[tuple, list[tuple[str, np.ndarray]]] = {}
    for name in names:
        scores, bases = one.together([REFERENCE, name])
        if scores.size:
            alike.setdefault((bases, scores.shape), []).append((name, scores[0] - scores[1]))
    for (bases, _), found in alike.items():
        differences = np.stack([values for _, values in found])
        ends = crossed_ends(differences, n_resamples=n_resamples)
        for i, (name, values) in enumerate(found):
            drawn, fixed = ends["drawn"][i], ends["fixed"][i]
            by_base = pd.Series(values.mean(axis=(1, 2)), index=list(bases))
            n_bases, n_seeds, n = values.shape
            yield {
                "task": one.task, "condition": name, "metric": one.metric, **cells(drawn.interval),
                **dict(zip(("low_error", "high_error"), plain(drawn[3:]), strict=True)),
                **dict(zip(("fixed_low", "fixed_high"), plain(fixed[1:3]), strict=True)),
                "bases_above": sum(above(ends[str(base)][i]) for base in range(n_bases)), "resamples": n_resamples,
                "n": n, "n_seeds": n_seeds, "n_bases": n_bases, "same_sign": one_sign(by_base, one.bases),
            }


def above(ends: Ends) -> bool:
    """Whether an interval lies above 0 by more than the Monte Carlo error of its end."""
    return bool(ends.low - ends.low_error > 0)


def mean_shortfall(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The mean difference over the synthetic conditions of each task, and over all tasks, by the metric of the claims.

    Over tasks the base models are drawn jointly, seeds and examples within each task; tasks and conditions are all
    there is. Columns `MEAN_COLUMNS`.
    """
    rows, differences = [], {}
    for one in task_scores(answers):
        names = synthetic(one.conditions)
        scores, bases = one.together([REFERENCE, *names])
        if not names or not scores.size:
            continue
        differences[one.task] = scores[0] - scores[1:].mean(axis=0)
        rows.append({"task": one.task, "metric": one.metric, "n_conditions": len(names),
                     **_difference(differences[one.task], bases, one.bases, n_resamples)})
    if len({row["n_bases"] for row in rows}) == 1 and len(rows) > 1:
        together = _over_tasks(differences, n_resamples)
        rows.append({
            "task": ALL, "metric": ALL, **cells(together),
            **{name: min(row[name] for row in rows) for name in ("n_conditions", "n", "n_seeds", "n_bases")},
            "same_sign": all(row["same_sign"] and row["value"] * together.estimate > 0 for row in rows),
        })
    return frame(rows, MEAN_COLUMNS)


def _difference(differences: np.ndarray, bases: tuple, every: tuple, n_resamples: int) -> dict[str, Any]:
    """Cells of the differences `[bases, seeds, examples]`; `every` names the base models of the study."""
    n_bases, n_seeds, n = differences.shape
    by_base = pd.Series(differences.mean(axis=(1, 2)), index=list(bases))
    return {**cells(bootstrap_crossed(differences, n_resamples=n_resamples)), "n": n, "n_seeds": n_seeds,
            "n_bases": n_bases, "same_sign": one_sign(by_base, every)}


def _over_tasks(differences: Mapping[str, np.ndarray], n_resamples: int) -> Interval:
    estimate = float(np.mean([one.mean() for one in differences.values()]))
    samples = [crossed_means(one, kept=(0,), n_resamples=n_resamples, seed=index)
               for index, one in enumerate(differences.values())]
    if any(one is None for one in samples):
        return Interval(estimate, NAN, NAN)
    by_base = np.mean(samples, axis=0)  # [samples, bases]
    n_bases = by_base.shape[1]
    rng = np.random.default_rng(len(samples))
    weights = rng.multinomial(n_bases, np.full(n_bases, 1 / n_bases), size=n_resamples) / n_bases
    return percentile_interval(estimate, (weights * by_base).sum(axis=1))
