"""Rank correlation of a measure of heads with performance, over conditions and runs.

Spearman's rho and Kendall's tau-b, each with a bootstrap interval and a permutation p-value, in three further forms:

* within groups: ranks are taken inside each group (a task, say), centred and divided by the group's size, and pooled,
  so that a difference between groups is no correlation; for Kendall, only pairs inside a group are compared.
* partial (Spearman): the covariate's ranks are regressed out of both ranks. It asks whether heads tell more of a run
  than what is already in the base model.
* clustered: runs that share a seed or a base model are not independent. The bootstrap draws whole clusters; the
  permutations keep to the exchangeability blocks of Winkler et al. (2015): `within` shuffles inside each cluster (the
  cluster is a seed, its rows are conditions), `whole` exchanges whole clusters (the cluster is a condition, its rows
  are its seeds).

Permutation p-values are two-sided on the absolute value, exact where all permutations can be listed. For a partial
correlation the residuals are permuted (Freedman and Lane 1983). A value that is not defined is NaN, and `reason` says
why. Rows that repeat one condition under several seeds are no independent evidence: make the condition the cluster and
exchange `whole`, or average over the seeds first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import cosines
from retrieval_heads.stats.resample import NAN, RESAMPLES, check_resampling, percentile_interval

PERMUTATIONS = 4999
METHODS = ("spearman", "kendall")
EXCHANGES = ("within", "whole")

ROUNDING = 1e-10
"""Relative size below which a difference is one of rounding."""

_IN_MEMORY = 1_000_000  # numbers in memory at a time, in the largest intermediate array


def correlate(
    x: ArrayLike, y: ArrayLike, *, method: str = "spearman", groups: ArrayLike | None = None,
    clusters: ArrayLike | None = None, exchange: str = "within", covariate: ArrayLike | None = None,
    level: float = 0.95, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS, seed: int = 0,
) -> dict[str, float | int | str]:
    """Correlate two columns of runs; one tidy row.

    Args:
        x, y: `[n]` numbers, one per run. Rows with a NaN (recall without heads, say) are dropped and counted.
        method: `spearman` or `kendall`.
        groups: `[n]` labels; correlation inside the groups, pooled.
        clusters: `[n]` labels of rows that are not independent; each cluster is resampled as one.
        exchange: with clusters, whether the permutations exchange rows `within` a cluster or `whole` clusters, which
            must then have the same number of rows, in the same order of groups.
        covariate: `[n]` numbers, partialled out of both columns (Spearman only).
        level: coverage of the interval.
        n_resamples: number of bootstrap samples.
        n_permutations: number of permutations, if not all can be listed.
        seed: of both.

    Returns:
        `method`, `estimate`, `low`, `high`, `p`, `n` (rows used), `n_dropped`, `n_groups`, `n_clusters` (`n` without
        clusters), `reason` (empty, or why a value is NaN). The interval needs at least three clusters, and leaves out
        samples in which the correlation is not defined.

    Raises:
        ConfigError: columns of different lengths or not of numbers, missing labels, an unknown method or exchange, or
            whole clusters that cannot be exchanged.
    """
    _check(method, exchange, covariate)
    check_resampling(level, min(n_resamples, n_permutations))
    columns, kept = _columns({"x": x, "y": y} | ({} if covariate is None else {"covariate": covariate}))
    n, rng = columns.shape[1], np.random.default_rng(seed)
    codes = np.zeros(n, dtype=np.intp) if groups is None else _codes("groups", groups, kept)
    cluster = np.arange(n) if clusters is None else _codes("clusters", clusters, kept)
    row: dict[str, float | int | str] = {
        "method": method, "estimate": NAN, "low": NAN, "high": NAN, "p": NAN, "n": n, "n_dropped": len(kept) - n,
        "n_groups": len(np.unique(codes)), "n_clusters": len(np.unique(cluster)), "reason": _undefined(columns, codes),
    }
    if row["reason"]:
        return row
    row["estimate"] = estimate = float(rank_correlation(method, columns, codes))
    orders = _orders(codes, None if clusters is None else cluster, exchange, n_permutations, rng)
    if len(orders) > 1:
        as_large = np.abs(_permuted(method, columns, codes, orders)) >= abs(estimate) - ROUNDING
        row["p"] = float(as_large.mean())
    # without clusters the groups keep their sizes: rows are drawn inside each group
    strata = codes if clusters is None else np.zeros_like(codes)
    resampled = _resampled(method, columns, codes, cluster, strata, n_resamples, rng)
    defined = resampled[~np.isnan(resampled)]
    if row["n_clusters"] >= 3 and len(defined) >= len(resampled) / 2:
        _, row["low"], row["high"] = percentile_interval(estimate, defined, level)
    missing = {"low": "no interval: too few clusters or distinct values", "p": "no p-value: nothing to exchange"}
    return row | {"reason": "; ".join(why for name, why in missing.items() if math.isnan(row[name]))}


def rank_correlation(method: str, columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Correlation `[...]` of the first two columns; given the third, if there is one (Spearman only).

    scipy computes one pair of columns a call, and not inside groups; a bootstrap needs thousands. Columns are
    `[2 or 3, ..., n]` ranks of any kind, from 1 upwards without gaps, the middle axes resamples; codes `[..., n]` the
    group of each row. NaN where a column is constant inside every group.
    """
    if method == "kendall":
        # tau-b is the cosine of the signs of the differences, here of the pairs inside a group
        i, j = np.triu_indices(codes.shape[-1], 1)
        return cosines(*(np.sign(columns[..., i] - columns[..., j]) * (codes[..., i] == codes[..., j])))
    return cosines(*residuals(group_ranks(columns, codes)))


def group_ranks(columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Ranks inside groups with ties shared, centred on 0 and divided by the group's size."""
    ranks = rankdata(columns + codes * (columns.max() + 1), axis=-1)  # a group's values lie above all of those before
    centred = np.zeros_like(ranks)
    for code in np.unique(codes):
        inside = codes == code
        count = np.maximum(inside.sum(axis=-1, keepdims=True), 1)
        mean = (ranks * inside).sum(axis=-1, keepdims=True) / count
        centred += inside * (ranks - mean) / count
    return centred


def residuals(ranks: np.ndarray) -> np.ndarray:
    """The first two of `[2 or 3, ..., n]` less their regression on the third, if there is one."""
    if len(ranks) == 2:
        return ranks
    first, z = ranks[:2], ranks[2]
    weight = (z * z).sum(axis=-1, keepdims=True)
    rest = first - (first * z).sum(axis=-1, keepdims=True) / np.where(weight > 0, weight, 1) * z
    # what the covariate determines leaves a residue of rounding errors, whose correlation would mean nothing
    gone = (rest**2).sum(axis=-1, keepdims=True) <= ROUNDING * (first**2).sum(axis=-1, keepdims=True)
    return np.where(gone, 0.0, rest)


def _permuted(method: str, columns: np.ndarray, codes: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The statistic with the second column in each of `orders` `[B, n]`, which keep every row in its group."""
    if method == "kendall":
        return np.concatenate([
            rank_correlation(method, np.stack(np.broadcast_arrays(columns[0], columns[1][part])), codes)
            for part in _parts(orders, len(codes) ** 2 // 2)
        ])
    ranks = group_ranks(columns, codes)
    x, y = residuals(ranks)
    return cosines(*residuals(np.stack(np.broadcast_arrays(x, y[orders], *ranks[2:]))))


def _orders(
    codes: np.ndarray, cluster: np.ndarray | None, exchange: str, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Row orders `[B, n]` with the observed one among them; all of them where these are at most `n_permutations`."""
    if cluster is not None and exchange == "whole":
        members = [np.flatnonzero(cluster == label) for label in np.unique(cluster)]
        if len({tuple(codes[rows]) for rows in members}) > 1:
            raise ConfigError(
                "whole clusters with different rows cannot be exchanged", where="clusters",
                value=sorted({len(rows) for rows in members}),
                remedy="Give every cluster the same rows, in the same order of groups, or use exchange='within'.",
            )
        units = [np.stack(members)]  # [clusters, rows of each]
    else:
        labels = pd.factorize(pd.MultiIndex.from_arrays([codes, codes if cluster is None else cluster]))[0]
        units = [np.flatnonzero(labels == label)[:, None] for label in np.unique(labels)]  # [rows, 1] each

    def order(chosen: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        result = np.empty(len(codes), dtype=np.intp)
        for unit, places in zip(units, chosen, strict=True):
            result[unit] = unit[list(places)]
        return result

    if math.prod(math.factorial(len(unit)) for unit in units) <= n_permutations:
        every = itertools.product(*(itertools.permutations(range(len(unit))) for unit in units))
        return np.stack([order(chosen) for chosen in every])
    drawn = [order([rng.permutation(len(unit)) for unit in units]) for _ in range(n_permutations)]
    return np.stack([np.arange(len(codes)), *drawn])


def _resampled(
    method: str, columns: np.ndarray, codes: np.ndarray, cluster: np.ndarray, strata: np.ndarray, n_resamples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The statistic `[n_resamples]` of samples of whole clusters, drawn with replacement inside each stratum."""
    members = [np.flatnonzero(cluster == label) for label in np.unique(cluster)]
    of_stratum = [[m for m in members if strata[m[0]] == label] for label in np.unique(strata)]
    samples: dict[int, list[np.ndarray]] = {}
    for _ in range(n_resamples):
        rows = np.concatenate([some[i] for some in of_stratum for i in rng.integers(len(some), size=len(some))])
        samples.setdefault(len(rows), []).append(rows)  # samples of one size are computed together
    return np.concatenate([
        rank_correlation(method, columns[:, part], codes[part])
        for size, rows in samples.items()
        for part in _parts(np.stack(rows), size**2 // 2 if method == "kendall" else size)
    ])


def _parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return np.array_split(rows, max(1, -(-len(rows) * size // _IN_MEMORY)))


def _undefined(columns: np.ndarray, codes: np.ndarray) -> str:
    """Why the correlation is not defined; empty when it is."""
    if columns.shape[1] < 2:
        return "fewer than 2 rows"
    ranks = group_ranks(columns, codes)
    inside = " in every group" if codes.any() else ""
    for name, row in zip("xy", ranks, strict=False):
        if not row.any():
            return f"{name} is constant{inside}"
    for name, row in zip("xy", residuals(ranks), strict=True):
        if not row.any():
            return f"{name} is determined by the covariate{inside}"
    return ""


def _columns(given: dict[str, ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """The columns as ranks `[2 or 3, kept]`, all that the statistics need, and which rows were kept, bool `[n]`."""
    arrays = []
    for name, values in given.items():
        try:
            arrays.append(np.asarray(values, dtype=np.float64))
        except (TypeError, ValueError):
            arrays.append(np.empty((0, 0)))
        if arrays[-1].ndim != 1:
            raise ConfigError("not a list of numbers", where=name, value=values, remedy="Give one number per run.")
    if len({len(array) for array in arrays}) > 1:
        raise ConfigError(
            "columns of different lengths", where=", ".join(given), value=[len(array) for array in arrays],
            remedy="Give one number per run in each.",
        )
    table = np.stack(arrays)
    kept = ~np.isnan(table).any(axis=0)
    return rankdata(table[:, kept], method="dense", axis=1) if kept.any() else table[:, kept], kept


def _codes(where: str, labels: ArrayLike, kept: np.ndarray) -> np.ndarray:
    codes, _ = pd.factorize(np.asarray(labels, dtype=object))
    if len(codes) != len(kept) or (codes < 0).any():
        raise ConfigError(
            f"not one label for each of the {len(kept)} rows", where=where, value=labels,
            remedy="Give every run a label, none missing.",
        )
    return pd.factorize(codes[kept])[0]


def _check(method: str, exchange: str, covariate: ArrayLike | None) -> None:
    for where, value, known in (("method", method, METHODS), ("exchange", exchange, EXCHANGES)):
        if value not in known:
            raise ConfigError(f"unknown {where}", where=where, value=value, remedy=f"Use one of {', '.join(known)}.")
    if method == "kendall" and covariate is not None:
        raise ConfigError(
            "no partial correlation of this kind", where="method", value=method,
            remedy="Use spearman with a covariate.",
        )
