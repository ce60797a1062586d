"""Which axis of realism costs more, the needle's or the haystack's, and whether the two interact (beside claim C1)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.repeated import cells, frame, one_sign
from retrieval_heads.claims.score_arrays import TaskScores, task_scores
from retrieval_heads.data.conditions import LEVELS
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval
from retrieval_heads.stats.factorial import SCALES, factorial_effects

COLUMNS = ("task", "scale", "effect", "value", "low", "high", "n", "n_seeds", "n_bases", "same_sign", "reason")

CELLS = tuple(f"{concept}_{context}" for concept in LEVELS for context in LEVELS)
"""Conditions in the order of `factorial_effects`: concept expression, then context diversity, from the most real."""


def axis_effects(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The effects of `stats.factorial` of the nine conditions, on both scales, for each task that has them all.

    The cost of a condition is `real` less its score, paired by base model, seed and example; on the scale `log_odds` it
    is the error, 1 - score. Columns `COLUMNS`: `value` in fractions or log-odds, `same_sign` in each base model, `n`
    examples. No rows for a task that lacks a condition.

    Raises:
        ResultError: as in `task_scores`.
    """
    rows = []
    for one in task_scores(answers):
        scores, bases = one.together([REFERENCE, *CELLS])
        if scores.size:
            rows += [row for scale in SCALES for row in _rows(one, scores, bases, scale, n_resamples)]
    return frame(rows, COLUMNS)


def _rows(one: TaskScores, scores: np.ndarray, bases: tuple[str, ...], scale: str, n_resamples: int) -> list[dict]:
    costs = scores[0] - scores[1:] if scale == "difference" else 1 - scores[1:]
    costs = costs.reshape(len(LEVELS), len(LEVELS), *costs.shape[1:])
    *_, n_bases, n_seeds, n = costs.shape
    effects = factorial_effects(costs, scale=scale, n_resamples=n_resamples)
    by_base = pd.DataFrame({
        name: factorial_effects(costs[:, :, index], scale=scale, n_resamples=1).set_index("effect")["estimate"]
        for index, name in enumerate(bases)
    })
    return [
        {"task": one.task, "scale": scale, "effect": row.effect,
         **cells(Interval(row.estimate, row.low, row.high)), "n": n, "n_seeds": n_seeds, "n_bases": n_bases,
         "same_sign": one_sign(by_base.loc[row.effect], one.bases), "reason": row.reason or None}
        for row in effects.itertuples()
    ]


def axis_sentence(effects: pd.DataFrame, task: str) -> str:
    """Which axis costs more in a task, and whether they interact; empty without rows of it.

    A difference counts when its interval excludes 0 and it has one sign in all base models; an interaction also needs
    the same sign on the scale of log-odds, as the floor of a metric alone makes one.
    """
    need(effects, COLUMNS, "axis_effects")
    rows = effects[effects["task"] == task].set_index(["scale", "effect"])
    if rows.empty:
        return ""
    concept, context, more, both = (
        rows.loc[("difference", name)] for name in ("concept", "context", "difference", "interaction"))
    text = (f"From the most to the least real level, concept expression costs {concept.value:.3f} "
            f"({concept.low:.3f} to {concept.high:.3f}) and context diversity {context.value:.3f} "
            f"({context.low:.3f} to {context.high:.3f}); ")
    if _counts(more):
        text += f"{'concept expression' if more.value > 0 else 'context diversity'} costs more. "
    else:
        text += "which costs more is not decided. "
    odds = rows.loc[("log_odds", "interaction")]
    if not _counts(both):
        return text + "No interaction is shown."
    if odds.value * both.value <= 0:
        return text + "They interact in the metric, but not with the same sign in log-odds, so no interaction is shown."
    return text + (f"They interact: both together cost {'more' if both.value > 0 else 'less'} than the sum of each "
                   f"alone, by {abs(both.value):.3f}, with the same sign in log-odds.")


def _counts(row: pd.Series) -> bool:
    return bool((row.low > 0 or row.high < 0) and row.same_sign)
