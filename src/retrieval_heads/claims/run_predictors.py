"""What could predict the performance of a run: its heads beside those of real runs, and cheaper quantities (claim C3).

Heads are compared with those of the real runs of the same base model and *other* seeds, and the values averaged over
these, so that a shared random start counts for nothing. Two ways make two matrices comparable: sets of retrieval heads
(above a threshold), and the n strongest heads of either run, n being the number of the real run's retrieval heads; the
second has no threshold for measures that are not a copy score, and recall and precision are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import EXACT, SCORE, TaskHeads, claim_column, flat, known_mean, task_heads
from retrieval_heads.claims.runs import claimed
from retrieval_heads.keys import RUN
from retrieval_heads.stats.overlap import THRESHOLDS, cosines, recall_precision

THRESHOLD = 0.1

OF_HEADS = (
    "recall", "precision", "cosine", "mean_strength", "n_heads", "base_overlap", "score_top", "mass_cosine", "mass_top",
    "query_mass_cosine", "query_mass_top", "contribution_cosine", "contribution_top", "recall_few", "cosine_few",
)
"""Predictors from head scores; the data dictionary says what they are."""

CHEAPER = ("training_loss", "probe_loss", "ngram_overlap", "base_overlap")
"""Predictors that need no real run."""

PREDICTORS = (*OF_HEADS, "training_loss", "probe_loss", "ngram_overlap")
OUTCOME = "performance"

_MEASURES = ("mass", "query_mass", "contribution")


def run_predictors(
    head_scores: pd.DataFrame, answers: pd.DataFrame, training: pd.DataFrame, probe_loss: pd.DataFrame,
    examples: pd.DataFrame, *, threshold: float = THRESHOLD,
) -> pd.DataFrame:
    """The table `run_predictors`: one row per run of the conditions that the claims are about, `real` among them.

    `PREDICTORS` are NaN where not defined: without another real seed, heads or the quantity itself.
    """
    of_heads = [
        _rows(one, _of_heads(one, threshold))
        for one in task_heads(head_scores, ("score", "score_few", *_MEASURES))
    ]
    value = answers[SCORE].where(answers["task"].map(claim_column) == SCORE, answers[EXACT])
    table = answers[RUN].assign(performance=value).groupby(RUN, as_index=False)[OUTCOME].mean()
    table = table[table["condition"].isin(claimed(table["condition"].unique()))]
    if of_heads:
        table = table.merge(pd.concat(of_heads), on=RUN, how="left")
    table = _with(table, training, RUN, "final_loss", "training_loss")
    table = _with(table, probe_loss, RUN, "loss", "probe_loss")
    of_training = examples[examples["split"] == "train"]
    table = _with(table, of_training, ["task", "condition"], "ngram_overlap", "ngram_overlap")
    return table.reindex(columns=[*RUN, OUTCOME, *PREDICTORS]).sort_values(RUN, ignore_index=True)


def run_recall(head_scores: pd.DataFrame, thresholds: Iterable[float] = THRESHOLDS) -> pd.DataFrame:
    """Recall, precision (means over the real runs of other seeds) and number of heads of each run over thresholds."""
    rows = [
        _rows(one, _set_measures(one, "score", float(threshold))).assign(threshold=float(threshold))
        for one in task_heads(head_scores) for threshold in thresholds
    ]
    columns = [*RUN, "threshold", "recall", "precision", "n_heads"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _with(table: pd.DataFrame, other: pd.DataFrame, keys: list[str], column: str, name: str) -> pd.DataFrame:
    values = other.groupby(keys)[column].mean().rename(name).reset_index()
    return table.merge(values, on=keys, how="left")


def _rows(one: TaskHeads, measures: dict[str, np.ndarray]) -> pd.DataFrame:
    """The runs that are there, one row each, from arrays `[conditions, bases, seeds]`."""
    index = pd.MultiIndex.from_product([one.conditions, one.bases, one.seeds], names=["condition", "base", "seed"])
    rows = pd.DataFrame({name: values.ravel() for name, values in measures.items()}, index=index).reset_index()
    there = np.isfinite(one.runs["score"]).all(axis=(-2, -1)).ravel()
    return rows.assign(task=one.task)[there]


def _of_heads(one: TaskHeads, threshold: float) -> dict[str, np.ndarray]:
    found = _set_measures(one, "score", threshold)
    found["recall_few"] = _set_measures(one, "score_few", threshold)["recall"]
    heads, of_base = (flat(scores) > threshold for scores in (one.runs["score"], one.base["score"]))
    found["base_overlap"] = recall_precision(of_base[:, None], heads)[0]
    for name, column in (("cosine", "score"), ("cosine_few", "score_few"), *((f"{m}_cosine", m) for m in _MEASURES)):
        found[name] = _over_real(one, column, lambda run, real: cosines(real, run))
    for column in ("score", *_MEASURES):
        found[f"{column}_top"] = _top_overlap(one, column, threshold)
    return found


def _set_measures(one: TaskHeads, column: str, threshold: float) -> dict[str, np.ndarray]:
    """Of `[conditions, bases, seeds]`: recall, precision, mean strength and number of heads."""
    def strength(run: np.ndarray, real: np.ndarray) -> np.ndarray:
        n = (real > threshold).sum(axis=-1)
        return (run * (real > threshold)).sum(axis=-1) / np.where(n > 0, n, np.nan)

    runs = flat(one.runs[column])
    return {
        "n_heads": np.where(np.isnan(runs).any(axis=-1), np.nan, (runs > threshold).sum(axis=-1)),
        "recall": _over_real(one, column, lambda run, real: recall_precision(real > threshold, run > threshold)[0]),
        "precision": _over_real(one, column, lambda run, real: recall_precision(real > threshold, run > threshold)[1]),
        "mean_strength": _over_real(one, column, strength),
    }


def _over_real(one: TaskHeads, column: str, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Means `[conditions, bases, seeds]` of a measure of every run and every real run of another seed.

    `measure` gets both as arrays that broadcast to `[conditions, bases, seeds, seeds of the real run, heads]`.
    """
    runs = flat(one.runs[column])
    if one.reference is None:
        return np.full(runs.shape[:3], np.nan)
    there = np.isfinite(runs).all(axis=-1)
    pairs = measure(runs[:, :, :, None], runs[one.reference][:, None])
    return known_mean(one.of_other_seeds(
        np.where(there[..., None] & there[one.reference][:, None], pairs, np.nan)), -1)


def _top_overlap(one: TaskHeads, column: str, threshold: float) -> np.ndarray:
    """Share of the real run's n strongest heads by a column that are among the run's n strongest.

    n is the number of the real run's retrieval heads (by score). Equal values are in order of mass, layer and head.
    """
    if one.reference is None:
        return np.full(one.runs[column].shape[:3], np.nan)
    n = (flat(one.runs["score"][one.reference]) > threshold).sum(axis=-1)[:, None, :, None]
    places = _places(one, column)
    share, _ = recall_precision(places[one.reference][:, None] < n, places[:, :, :, None] < n)
    return _over_real(one, column, lambda run, real: share)


def _places(one: TaskHeads, column: str) -> np.ndarray:
    """int `[conditions, bases, seeds, heads]`: 0 for the strongest head."""
    values, mass = (np.nan_to_num(flat(one.runs[name])) for name in (column, "mass"))
    return np.lexsort((-mass, -values), axis=-1).argsort(axis=-1)
