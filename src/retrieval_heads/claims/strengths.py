"""Beside claim C2: strength-weighted recall and precision, and what runs share beyond their base model.

Pairs of runs, halves and intervals are those of `subsets`: real runs of the same base model and other seeds, opposite
halves of the probe examples, a bootstrap over base models and seeds. Arrays of strengths have the halves first:
`[2 halves, ..., seeds, layers, heads]`. The chance level of a head is that on all probe examples. These measures decide
nothing in the small study, whose rules speak of sets, and claim C2 on the pretrained model.

The correlation of scores given the base model's is Spearman's partial one (Kendall and Stuart 1973, chapter 27), over
all heads or inside layers: the ranks of the base model's scores are regressed out of those of each run, and what is
left is correlated.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from retrieval_heads.claims.arrays import (
    BASE,
    HALVES,
    RAISED,
    WAYS,
    TaskHeads,
    flat,
    known_mean,
    pair_intervals,
    pair_means,
    seed_means,
    task_heads,
)
from retrieval_heads.stats.correlation import group_ranks, residuals
from retrieval_heads.stats.overlap import cosine, cosines, recall_precision
from retrieval_heads.stats.resample import RESAMPLES
from retrieval_heads.stats.strength import gained, rank_biased_overlap, strength

PERMUTATIONS = 200


def strength_rows(
    head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """The table `strengths`; a task without real runs gives no row.

    Gained strength is told of where there are scores of the base model at the runs' length and theta; at its own length
    it is no measure of what was gained.
    """
    rows = []
    for one in task_heads(head_scores, (*HALVES, "chance")):
        if one.reference is not None:
            runs, alone = (np.stack([strength(values[half], values["chance"]) for half in HALVES])
                           for values in (one.runs, one.raised))
            rows += _strength_rows(one, "all", runs, n_resamples, n_permutations)
            if np.isfinite(one.raised["chance"]).all():
                rows += _strength_rows(one, "gained", gained(runs, alone[:, None, :, None]), n_resamples,
                                       n_permutations)
    return pd.DataFrame(rows)


def _strength_rows(one: TaskHeads, heads: str, own: np.ndarray, n_resamples: int, n_permutations: int) -> list[dict]:
    real = own[:, [one.reference]]
    values = dict(zip(("recall", "precision"), pair_values(flat(own), flat(real)), strict=True))
    columns = {"n_pairs": (~np.isnan(values["precision"])).sum(axis=(1, 2, 3))}
    for name, found in values.items():
        columns[name] = pair_means(found)
        columns[f"{name}_low"], columns[f"{name}_high"] = pair_intervals(found, n_resamples=n_resamples)
    columns["chance"], columns["chance_high"] = (
        known_mean(found, -1) for found in chance_within_layers(own, real, n_permutations, 0))
    others = pd.DataFrame([
        pd.DataFrame([beside(own[:, i, base], real[:, 0, base]) for base in range(len(one.bases))]).mean()
        for i in range(len(one.conditions))
    ])
    return one.rows(columns | {name: others[name].to_numpy() for name in others}, heads=heads,
                    ceiling=float(columns["precision"][one.reference]))


def pair_values(runs: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of runs among real runs of other seeds.

    Args:
        runs: `[2 halves, ..., seeds, heads]` strengths.
        real: `[2 halves, ..., seeds, heads]`, with the same seeds; the leading axes broadcast.

    Returns:
        Two arrays `[..., seeds of the run, seeds of the real run]`, the mean of both ways; NaN for equal seeds.
    """
    found = [recall_precision(real[other][..., None, :, :], runs[own][..., :, None, :]) for own, other in WAYS]
    same = np.eye(runs.shape[-2], dtype=bool)
    recall, precision = (np.where(same, np.nan, (one + two) / 2) for one, two in zip(*found, strict=True))
    return recall, precision


def chance_within_layers(
    own: np.ndarray, real: np.ndarray, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 97.5% quantile `[conditions, ...]` of the mean precision when each run's heads are permuted in layers.

    Both are `[2 halves, conditions, ..., seeds, layers, heads]`, the real runs with one condition or none of that axis.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        order = rng.random(own.shape[1:]).argsort(axis=-1)  # of one run the same in both halves
        permuted = np.take_along_axis(own, order[None], axis=-1)
        found.append(seed_means(pair_values(flat(permuted), flat(real))[1]))
    return np.mean(found, axis=0), np.quantile(found, 0.975, axis=0)


def beside(own: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Rank-biased overlap and cosine of `[2 halves, seeds, layers, heads]`, means over the pairs that are known."""
    pairs = [(one, run) for half, other in WAYS for s, run in enumerate(own[half]) for t, one in enumerate(real[other])
             if s != t and np.isfinite(run).all() and np.isfinite(one).all()]
    return {name: float(np.mean([measure(*pair) for pair in pairs])) if pairs else np.nan
            for name, measure in (("rank_biased_overlap", rank_biased_overlap), ("cosine", cosine))}


def base_share_rows(head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The table `base_share`: how scores of a run and of real runs agree beyond what both have from the base model.

    Given is the base model with the raised theta, where it was scored so, and as it is.
    """
    return pd.DataFrame([
        row for one in task_heads(head_scores, ("score", *HALVES)) if one.reference is not None
        for given, start in ((BASE, one.base["score"]), (RAISED, one.raised["score"]))
        if np.isfinite(start).all(axis=(-2, -1)).any()
        for ranks in ("all", "layer") for row in _share_rows(one, given, start, ranks, n_resamples)
    ])


def _share_rows(one: TaskHeads, given: str, base: np.ndarray, ranks: str, n_resamples: int) -> list[dict]:
    n_layers, n_heads = base.shape[-2:]
    codes = np.repeat(np.arange(n_layers), n_heads) if ranks == "layer" else np.zeros(n_layers * n_heads, dtype=int)
    halves = [_ranks(flat(one.runs[half]), flat(base)[:, None], codes) for half in HALVES]
    partial, correlation = (
        one.of_other_seeds(np.mean([cosines(halves[x][place][:, :, :, None], halves[y][place][one.reference][:, None])
                                    for x, y in WAYS], axis=0)) for place in (0, 1))
    of_base = known_mean(np.mean([cosines(own, start) for _, own, start in halves], axis=0), (1, 2))
    low, high = pair_intervals(partial, n_resamples=n_resamples)
    columns = {"partial": pair_means(partial), "low": low, "high": high, "correlation": pair_means(correlation),
               "base_run": of_base, "n_pairs": (~np.isnan(partial)).sum(axis=(1, 2, 3))}
    return one.rows(columns, given=given, ranks=ranks, ceiling=float(columns["partial"][one.reference]),
                    base_real=float(of_base[one.reference]))


def _ranks(run: np.ndarray, base: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of the run less what those of its base model tell, as they are, and those of the base model; all are 0
    where one of the two is not there."""
    columns = np.stack(np.broadcast_arrays(run, base))
    columns = np.where(np.isfinite(columns).all(axis=(0, -1))[..., None], columns, 0.0)
    own, start = group_ranks(rankdata(columns, method="dense", axis=-1), codes)
    return residuals(np.stack([own, own, start]))[0], own, start
