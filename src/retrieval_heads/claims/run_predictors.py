"""What could predict the performance of a run: its heads beside those of real runs, and cheaper quantities (claim C3).

Heads are compared with those of the real runs of the same base model and *other* seeds, and the values averaged over
these, so that a shared random start counts for nothing. Two ways make two matrices comparable: sets of retrieval heads
(above a threshold), and the n strongest heads of either run, n being the number of the real run's retrieval heads; the
second has no threshold for measures that are no copy score, and recall and precision are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import TaskHeads, claimed, need, task_heads
from retrieval_heads.claims.pairs import known_mean
from retrieval_heads.data.example import task_of
from retrieval_heads.keys import RUN
from retrieval_heads.stats.overlap import THRESHOLDS

THRESHOLD = 0.1

OF_HEADS = {
    "recall": "share of the real run's retrieval heads that the run has",
    "precision": "share of the run's retrieval heads that the real run has",
    "cosine": "cosine of the scores with the real run's",
    "mean_strength": "mean score, in the run, of the real run's retrieval heads",
    "n_heads": "number of retrieval heads of the run",
    "base_overlap": "share of the un-tuned base model's retrieval heads that the run still has",
    "score_top": "share of the real run's n strongest heads by score that are among the run's n strongest",
    "mass_cosine": "cosine of the attention mass on the needles with the real run's",
    "mass_top": "as score_top, by attention mass",
    "query_mass_cosine": "cosine of the attention from the question to the needles with the real run's",
    "query_mass_top": "as score_top, by attention from the question",
    "contribution_cosine": "cosine of the contributions to the logits with the real run's",
    "contribution_top": "as score_top, by contribution",
    "recall_few": "recall from the scores of 20 probe examples, of the run and of the real run",
    "cosine_few": "cosine of the scores from 20 probe examples",
}
"""Predictors from head scores, and what they are."""

CHEAPER = {
    "training_loss": "low", "probe_loss": "low", "ngram_overlap": "high", "base_overlap": "high",
}
"""Predictors that need no real run, with the values that promise performance."""

PREDICTORS = (*OF_HEADS, "training_loss", "probe_loss", "ngram_overlap")
OUTCOME = "performance"

_MEASURES = ("mass", "query_mass", "contribution")


def run_predictors(
    head_scores: pd.DataFrame, answers: pd.DataFrame, training: pd.DataFrame, probe_loss: pd.DataFrame,
    examples: pd.DataFrame, *, threshold: float = THRESHOLD,
) -> pd.DataFrame:
    """The table `run_predictors`: one row a run of the conditions that the claims are about, `real` among them.

    Args:
        head_scores, answers, training, probe_loss, examples: the tables of these names.
        threshold: a head with a score above is a retrieval head.

    Returns:
        The key columns of a run, `performance` (exact match; citation F1 for `summhay`; mean over the test examples)
        and `PREDICTORS`, NaN where not defined: without another real seed, heads or the quantity itself.

    Raises:
        ResultError: a column that is not there, or as in `head_arrays.task_heads`.
    """
    of_heads = [
        _rows(one, _of_heads(one, threshold))
        for one in task_heads(head_scores, ("score", "score_few", *_MEASURES))
    ]
    need(answers, [*RUN, "exact_match", "score"], "answers")
    need(training, [*RUN, "final_loss"], "training")
    need(probe_loss, [*RUN, "loss"], "probe_loss")
    need(examples, ["task", "condition", "split", "ngram_overlap"], "examples")
    cites = answers["task"].map(lambda task: task_of(task).cites)
    value = answers["score"].where(cites, answers["exact_match"])
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
    """The table `run_recall`: recall, precision and number of heads of each run over thresholds.

    Args:
        head_scores, thresholds: as in `subsets.subset_rows`.

    Returns:
        The key columns of a run, `threshold`, `recall`, `precision` (means over the real runs of other seeds; NaN where
        not defined), `n_heads`.
    """
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
    of_base = one.base["score"] > threshold
    common = ((one.runs["score"] > threshold) & of_base[:, None]).sum(axis=(-2, -1))
    n_base = of_base.sum(axis=(-2, -1))[:, None]
    found["base_overlap"] = np.where(n_base, common / np.maximum(n_base, 1), np.nan)
    for name, column in (("cosine", "score"), ("cosine_few", "score_few"), *((f"{m}_cosine", m) for m in _MEASURES)):
        found[name] = _cosine(one, column)
    for column in ("score", *_MEASURES):
        found[f"{column}_top"] = _top_overlap(one, column, threshold)
    return found


def _set_measures(one: TaskHeads, column: str, threshold: float) -> dict[str, np.ndarray]:
    """Of `[conditions, bases, seeds]`: recall, precision, mean strength and number of heads."""
    runs, real = one.runs[column], one.real(column)
    flat = runs.reshape(*runs.shape[:3], -1)
    n_heads = np.where(np.isnan(flat).any(axis=-1), np.nan, (flat > threshold).sum(axis=-1))
    found = {"n_heads": n_heads}
    if real is None:
        return found | {name: np.full(n_heads.shape, np.nan) for name in ("recall", "precision", "mean_strength")}
    heads = (real.reshape(*real.shape[:2], -1) > threshold).astype(np.float64)
    common = np.einsum("cbsx,btx->cbst", (flat > threshold).astype(np.float64), heads, optimize=True)
    strength = np.einsum("cbsx,btx->cbst", flat, heads)
    n_real, n_run = heads.sum(axis=-1)[None, :, None], n_heads[..., None]
    for name, part, whole in (
        ("recall", common, n_real), ("precision", common, n_run), ("mean_strength", strength, n_real),
    ):
        share = part / np.where(whole > 0, whole, np.nan)
        found[name] = _over_real(one, np.where(np.isnan(n_run), np.nan, share), real)
    return found


def _over_real(one: TaskHeads, pairs: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Means `[conditions, bases, seeds]` of `[..., seeds of the real run]` over real runs of other seeds."""
    there = np.isfinite(real).all(axis=(-2, -1))[None, :, None]
    return known_mean(np.where(one.other_seeds & there, pairs, np.nan), -1)


def _cosine(one: TaskHeads, column: str) -> np.ndarray:
    runs, real = one.runs[column], one.real(column)
    if real is None:
        return np.full(runs.shape[:3], np.nan)
    units = []
    for scores in (runs, real):
        flat = scores.reshape(*scores.shape[:-2], -1)
        norm = np.sqrt((flat * flat).sum(axis=-1, keepdims=True))
        units.append(flat / np.where(norm > 0, norm, np.nan))
    return _over_real(one, np.einsum("cbsx,btx->cbst", *units), real)


def _top_overlap(one: TaskHeads, column: str, threshold: float) -> np.ndarray:
    """Share of the real run's n strongest heads by a column that are among the run's n strongest.

    n is the number of the real run's retrieval heads (by score). Equal values are in order of mass, layer and head.
    """
    real = one.real("score")
    if real is None:
        return np.full(one.runs[column].shape[:3], np.nan)
    n = (real > threshold).sum(axis=(-2, -1))
    places = _places(one, column)
    top_real = places[one.conditions.index("real")] < n[..., None]  # [bases, seeds of the real run, heads]
    top_run = places[:, :, :, None] < n[:, None, :, None]  # [conditions, bases, seeds, seeds of the real run, heads]
    common = (top_run & top_real[:, None]).sum(axis=-1)
    there = np.isfinite(one.runs[column]).all(axis=(-2, -1))[..., None]
    share = np.where(there & (n[:, None] > 0), common / np.maximum(n[:, None], 1), np.nan)
    return _over_real(one, share, one.real(column))


def _places(one: TaskHeads, column: str) -> np.ndarray:
    """int `[conditions, bases, seeds, heads]`: 0 for the strongest head."""
    values, mass = (np.nan_to_num(one.runs[name]).reshape(*one.runs[name].shape[:3], -1) for name in (column, "mass"))
    order = np.lexsort((-mass, -values), axis=-1)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    return places
