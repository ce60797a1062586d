"""Claim C2: are the heads of synthetic runs mostly a subset of those of real runs? (book/preregistration.md)

Each run is set beside the real runs of the same base model and *other* seeds, its scores on one half of the probe
examples beside theirs on the other half, both ways round; so neither a shared random start nor shared noise of the
examples counts. The same between real runs is the ceiling. All values are means over these pairs. *Gained* heads are
above the threshold in the run and not in the un-tuned base model with the raised theta, at the length of the runs (by
all its examples); base models that were not scored so give no gained heads.

The chance of a mean is the mean of the pairs' chances, and its 97.5% quantile the mean of the pairs' quantiles: as if
all pairs were one, which is the strict side.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from retrieval_heads.claims.chance import layer_chance
from retrieval_heads.claims.head_arrays import TaskHeads, task_heads
from retrieval_heads.claims.pairs import base_means, known_mean, pair_intervals, pair_means
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES
from retrieval_heads.stats.overlap import THRESHOLDS
from retrieval_heads.stats.retest import normalised_overlap

HALVES = ("score_even", "score_odd")
WAYS = ((0, 1), (1, 0))
"""The half of the run, and that of the real run."""

HEADS = ("all", "gained")
LEAST_HEADS = 1
"""Heads that the real runs need on average: there is nothing to be a subset of with less."""

HALF = 0.5
"""The least precision for a subset that is `mostly` one."""

LEAST_PART, LEAST_SHARE = 0.8, 0.8
"""Of the rule: part between chance and ceiling, share of the conditions."""

AT_CHANCE = 2
"""So many conditions of a task at or below chance speak against the claim."""

THRESHOLD = 0.1

RULE = (
    "Precision above one half and above the 97.5% quantile of random sets with as many heads in each layer, in each "
    "base model, and at least 0.8 of the way from chance to the ceiling, in eight of ten synthetic conditions, of "
    "all heads and of those gained over the base model with the raised theta (in part: of all only, or where the "
    "gained are not known for each base model); not supported with two conditions at or below chance."
)
CHAPTER = "06_correlation"

NAN = float("nan")

COLUMNS = ("precision", "recall", "strict", "chance", "chance_high", "strict_chance")


def subset_rows(
    head_scores: pd.DataFrame, thresholds: Iterable[float] = THRESHOLDS, *, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """The table `subsets` from the table `head_scores`.

    Args:
        head_scores: of all runs and the base models, with both halves of the probe examples.
        thresholds: fractions; a head with a score above is a retrieval head.
        n_resamples: of the bootstrap over base models and seeds.

    Returns:
        One row a task, condition (the real ones and mixtures too), `heads` (all, gained) and threshold: `precision`
        with `low` and `high`, its `chance` and `chance_high`, `ceiling` (precision between real runs), `retest` (of the
        real runs' halves), `normalised` (part between chance and ceiling), `recall`, `strict` (share of strict subsets
        among pairs in which the run has heads) and `strict_chance`, `n_heads` (mean of the run), `n_pairs` (with a
        precision), `bases_above` of `n_bases` (base models in which precision is above one half and `chance_high`, of
        those with a precision), `bases_known` (base models of which it is known which heads a run has, or has gained).
        Numbers that are not defined are NaN. A task without real runs gives no row.

    Raises:
        ResultError: as in `head_arrays.task_heads`.
    """
    rows = []
    for one in task_heads(head_scores, ("score", *HALVES)):
        if one.real(HALVES[0]) is None:
            continue
        for threshold in thresholds:
            for heads in HEADS:
                rows += _rows(one, heads, float(threshold), n_resamples)
    return pd.DataFrame(rows)


def _rows(one: TaskHeads, heads: str, threshold: float, n_resamples: int) -> list[dict]:
    candidates = np.ones(one.base["score"].shape, dtype=bool)
    known = np.isfinite(np.stack([one.runs[half] for half in HALVES])).all(axis=(0, -2, -1))
    if heads == "gained":
        candidates = ~(one.raised["score"] > threshold)
        known = known & np.isfinite(one.raised["score"]).all(axis=(-2, -1))[:, None]
    masks = [(one.runs[half] > threshold) & candidates[:, None] for half in HALVES]
    real = one.conditions.index(REFERENCE)
    pairs = known[..., None] & known[real][:, None, :]  # [conditions, bases, seeds, seeds of the real run]
    measures, itself = _pair_measures(masks, real, candidates, pairs)
    other = {name: np.where(one.other_seeds, values, np.nan) for name, values in measures.items()}
    means = {name: pair_means(values) for name, values in other.items()}
    low, high = pair_intervals(other["precision"], n_resamples=n_resamples)
    by_base = {name: base_means(other[name]) for name in ("precision", "chance_high")}
    above = (by_base["precision"] > np.fmax(by_base["chance_high"], HALF)).sum(axis=1)
    n_bases = (~np.isnan(by_base["precision"])).sum(axis=1)
    counts = np.mean([mask.sum(axis=(-2, -1)) for mask in masks], axis=0)
    n_heads = known_mean(np.where(known, counts, np.nan), (-2, -1))
    rows = []
    for i, condition in enumerate(one.conditions):
        mean = {name: float(values[i]) for name, values in means.items()}
        ceiling = float(means["precision"][real])
        rows.append({
            "task": one.task, "condition": condition, "heads": heads, "threshold": threshold,
            "precision": mean["precision"], "low": float(low[i]), "high": float(high[i]), "chance": mean["chance"],
            "chance_high": mean["chance_high"], "ceiling": ceiling, "retest": itself,
            "normalised": normalised_overlap(mean["precision"], mean["chance"], ceiling)["normalised"],
            "recall": mean["recall"], "strict": mean["strict"], "strict_chance": mean["strict_chance"],
            "n_heads": float(n_heads[i]), "n_pairs": int((~np.isnan(other["precision"][i])).sum()),
            "bases_above": int(above[i]), "n_bases": int(n_bases[i]),
            "bases_known": int(known[i].any(axis=-1).sum()),
        })
    return rows


def _pair_measures(
    masks: list[np.ndarray], real: int, candidates: np.ndarray, pairs: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """`COLUMNS` of all pairs that are known, each the mean of both ways; and the real runs' precision to themselves.

    Args:
        masks: bool `[conditions, bases, seeds, layers, heads]` of each half.
        real: index of the real condition.
        candidates: bool `[bases, layers, heads]`.
        pairs: bool `[conditions, bases, seeds, seeds]`, where both runs are there.
    """
    ways = []
    for half, other in WAYS:
        run, reference = masks[half], masks[other][real]
        common = np.einsum("cbsx,btx->cbst", _flat(run), _flat(reference), optimize=True)
        in_layers, of_real = run.sum(axis=-1), reference.sum(axis=-1)
        layers = np.broadcast_arrays(
            in_layers[:, :, :, None], of_real[None, :, None], candidates.sum(axis=-1)[None, :, None, None])
        chances = (x.reshape(pairs.shape) for x in layer_chance(*(x.reshape(-1, x.shape[-1]) for x in layers)))
        expected, quantile, inside = chances
        n_run = np.broadcast_to(in_layers.sum(axis=-1)[..., None], pairs.shape)
        n_real = np.broadcast_to(of_real.sum(axis=-1)[None, :, None], pairs.shape)
        some, strict = pairs & (n_run > 0), n_run < n_real
        ways.append({
            "precision": _ratio(common, n_run, some), "chance": _ratio(expected, n_run, some),
            "chance_high": _ratio(quantile, n_run, some), "recall": _ratio(common, n_real, pairs & (n_real > 0)),
            "strict": np.where(some, (common == n_run) & strict, np.nan),
            "strict_chance": np.where(some, inside * strict, np.nan),
        })
    both = {name: known_mean(np.stack([way[name] for way in ways]), 0) for name in COLUMNS}
    own = np.diagonal(both["precision"][real], axis1=-2, axis2=-1)
    return both, float(known_mean(own, (0, 1)))


def _flat(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(*mask.shape[:-2], -1).astype(np.float32)  # whole numbers, so exact in any order


def _ratio(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    return np.where(defined, part / np.maximum(whole, 1), np.nan)
