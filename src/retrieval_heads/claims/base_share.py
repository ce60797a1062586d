"""What two runs share beyond the base model that both were trained from, for all pairs of runs of a study (claim C2).

The correlation of scores given the base model's is Spearman's partial one, over all heads or inside layers, as in
`stats.base_model.partial_score_correlation`: the ranks of the base model's scores are regressed out of those of each
run, and what is left is correlated. Pairs are those of `claims.subsets`: real runs of other seeds, other halves of the
probe examples. The base model is taken with the raised theta at the length of the runs, and at its own length.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from retrieval_heads.claims.head_arrays import BASE, RAISED, TaskHeads, task_heads
from retrieval_heads.claims.pairs import known_mean, pair_intervals, pair_means
from retrieval_heads.claims.subsets import HALVES, WAYS
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES
from retrieval_heads.stats.ranks import group_ranks, residuals


def base_share_rows(head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The table `base_share`: how scores of a run and of real runs agree beyond what both have from the base model.

    Args:
        head_scores, n_resamples: as in `subset_rows`.

    Returns:
        One row a task, condition, `given` (the base model with the raised theta, `rope`, where it was scored so, or as
        it is, `base`) and `ranks` (`all` heads, or within a `layer`): `partial` with `low` and `high` (rank correlation
        of the scores given the base model's), `ceiling` (that between real runs), `correlation` (without the base
        model), `base_run` and `base_real` (of each with the base model), `n_pairs`.

    Raises:
        ResultError: as in `head_arrays.task_heads`.
    """
    rows = []
    for one in task_heads(head_scores, ("score", *HALVES)):
        if one.real(HALVES[0]) is not None:
            for given, start in ((BASE, one.base), (RAISED, one.raised)):
                if np.isfinite(start["score"]).all(axis=(-2, -1)).any():
                    for ranks in ("all", "layer"):
                        rows += _share_rows(one, given, start["score"], ranks, n_resamples)
    return pd.DataFrame(rows)


def _share_rows(one: TaskHeads, given: str, base: np.ndarray, ranks: str, n_resamples: int) -> list[dict]:
    n_layers, n_heads = base.shape[-2:]
    codes = np.repeat(np.arange(n_layers), n_heads) if ranks == "layer" else np.zeros(n_layers * n_heads, dtype=int)
    real = one.conditions.index(REFERENCE)
    base = base.reshape(len(one.bases), -1)
    vectors = []
    for half in HALVES:
        run = one.runs[half].reshape(*one.runs[half].shape[:3], -1)
        start = np.broadcast_to(base[:, None], run.shape)
        vectors.append(_unit_vectors(run, start, codes))
    pairs: dict[str, np.ndarray] = {}
    for place, name in enumerate(("partial", "correlation")):
        both = [np.einsum("cbsx,btx->cbst", vectors[x][place], vectors[y][place][real]) for x, y in WAYS]
        pairs[name] = np.where(one.other_seeds, np.mean(both, axis=0), np.nan)
    with_base = np.mean([half[2] for half in vectors], axis=0)  # [conditions, bases, seeds]
    means = {name: pair_means(values) for name, values in pairs.items()}
    low, high = pair_intervals(pairs["partial"], n_resamples=n_resamples)
    of_base = known_mean(with_base, (1, 2))
    return [
        {"task": one.task, "condition": condition, "given": given, "ranks": ranks,
         "partial": float(means["partial"][i]), "low": float(low[i]), "high": float(high[i]),
         "ceiling": float(means["partial"][real]),
         "correlation": float(means["correlation"][i]), "base_run": float(of_base[i]),
         "base_real": float(of_base[real]), "n_pairs": int((~np.isnan(pairs["partial"][i])).sum())}
        for i, condition in enumerate(one.conditions)
    ]


def _unit_vectors(run: np.ndarray, base: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of the run less what those of its base model tell, and as they are, of length 1; their cosine with these.

    Products of such vectors are correlations. All are NaN where the run or the base model is not there or constant.
    """
    there = np.isfinite(run).all(axis=-1) & np.isfinite(base).all(axis=-1)
    columns = np.where(there[..., None], np.stack([run, base]), 0.0)
    own, start = group_ranks(rankdata(columns, method="dense", axis=-1), codes)
    rest = residuals(np.stack([own, own, start]))[0]
    rest, own, start = (_unit(np.where(there[..., None], one, 0.0)) for one in (rest, own, start))
    return rest, own, (own * start).sum(axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norm = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return np.where(norm > 0, vectors / np.where(norm > 0, norm, 1), np.nan)
