"""What training on real data adds to the raised RoPE theta alone: the condition for a test of claim C1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.repeated import cells, frame, one_row_a_key, one_sign
from retrieval_heads.claims.score_arrays import EXACT, SCORE, TaskScores, claim_column, fractions, task_scores
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, bootstrap_crossed

ROPE = "rope"
"""The condition of the base models with the raised theta and nothing else."""

COLUMNS = ("task", "metric", "value", "low", "high", "n", "n_seeds", "n_bases", "same_sign", "paired")


def gains(
    answers: pd.DataFrame, base: pd.DataFrame | None = None, base_answers: pd.DataFrame | None = None, *,
    n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Mean of `real` less the raised theta alone, by the metric of the claims; one row a task.

    Paired by base model and example where there are `base_answers`. With the means of the table `base` alone, the two
    intervals are put together as those of independent means (their distances from the means, squared and added: Zou and
    Donner 2008), which is too wide, as both are of the same examples. Base models without one of the two are left out;
    `same_sign` is then False.

    Columns `COLUMNS`: `n` examples, `paired` whether differences were taken by example.

    Raises:
        ResultError: a column that is not there, or rows that do not fit the answers.
    """
    rows = []
    for one in task_scores(answers):
        scores, bases = one.together([REFERENCE])
        if not scores.size:
            continue
        if base_answers is not None:
            found = _paired(one, scores[0], bases, base_answers, n_resamples)
        else:
            found = None if base is None else _unpaired(one, scores[0], bases, base, n_resamples)
        if found:
            rows.append({"task": one.task, "metric": one.metric, **found, "paired": base_answers is not None})
    return frame(rows, COLUMNS)


def _paired(
    one: TaskScores, real: np.ndarray, bases: tuple[str, ...], base_answers: pd.DataFrame, n_resamples: int,
) -> dict[str, Any] | None:
    column = claim_column(one.task)
    need(base_answers, ["task", "condition", "base", "example", EXACT, SCORE], "base_answers")
    rows = base_answers[(base_answers["task"] == one.task) & (base_answers["condition"] == ROPE)]
    rows = one_row_a_key(rows, ["base", "example"], "base_answers").sort_values(["base", "example"])
    known = [name for name in bases if (rows["base"] == name).any()]
    if not known:
        return None
    of_bases = [rows[rows["base"] == name] for name in known]
    if any(tuple(part["example"]) != one.examples for part in of_bases):
        raise ResultError("other examples than in the table answers", where=f"table base_answers, {one.task}",
                          value=[len(part) for part in of_bases],
                          remedy=f"Score the same {len(one.examples)} examples.")
    rope = np.stack([fractions(part[column], f"table base_answers, column {column}") for part in of_bases])
    differences = real[[bases.index(name) for name in known]] - rope[:, None, :]
    by_base = pd.Series(differences.mean(axis=(1, 2)), index=known)
    return {**cells(bootstrap_crossed(differences, n_resamples=n_resamples)), **_counts(differences),
            "same_sign": one_sign(by_base, one.bases)}


def _unpaired(
    one: TaskScores, real: np.ndarray, bases: tuple[str, ...], base: pd.DataFrame, n_resamples: int,
) -> dict[str, Any] | None:
    need(base, ["task", "condition", "base", "eval_length", "metric", "value", "low", "high"], "base")
    rows = base[(base["task"] == one.task) & (base["condition"] == ROPE) & (base["metric"] == one.metric)]
    rows = rows[rows["eval_length"] == rows["eval_length"].max()]
    rope = one_row_a_key(rows, ["base"], "base").set_index("base")[["value", "low", "high"]].astype(float)
    known = [name for name in bases if name in rope.index]
    if not known:
        return None
    rope, real = rope.loc[known], real[[bases.index(name) for name in known]]
    mean = bootstrap_crossed(real, n_resamples=n_resamples)
    value = rope["value"].mean()
    down, up = (float(np.sqrt((rope[end] - rope["value"]).pow(2).sum(skipna=False)) / len(rope))
                for end in ("low", "high"))
    gain = mean.estimate - value
    by_base = pd.Series(real.mean(axis=(1, 2)), index=known) - rope["value"]
    found = Interval(
        gain, gain - np.hypot(mean.estimate - mean.low, up), gain + np.hypot(mean.high - mean.estimate, down))
    return {**cells(found), **_counts(real), "same_sign": one_sign(by_base, one.bases)}


def _counts(values: np.ndarray) -> dict[str, int]:
    """Of an array `[bases, seeds, examples]`."""
    n_bases, n_seeds, n = values.shape
    return {"n": n, "n_seeds": n_seeds, "n_bases": n_bases}
