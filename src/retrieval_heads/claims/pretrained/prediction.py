"""Claim C3 on the pretrained model: does the recall of the real runs' heads predict performance?

Over the training sets other than `real`, each one point: means over seeds. A permutation of the sets tests the rank
correlation of strength-weighted recall with F1, and another one the same given the overlap of theta alone: what a run
shares with the real runs because both still have the heads of the un-tuned model is nothing that was learned.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from retrieval_heads.claims.arrays import WAYS, flat, seed_means
from retrieval_heads.claims.pretrained.loading import CHAPTER, LEAST_SEEDS, Probed, ranked
from retrieval_heads.claims.pretrained.sampled import RESAMPLES, Sampled, both, lies_above, lies_below, significant
from retrieval_heads.claims.runs import from_cells
from retrieval_heads.claims.strengths import pair_values
from retrieval_heads.claims.verdict import Verdict, decide, undecided
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.stats.correlation import residuals
from retrieval_heads.stats.overlap import cosines, recall_precision
from retrieval_heads.stats.prediction import left_out_errors
from retrieval_heads.wording import PREDICTORS, listed, p_value, words

LEAST_SETS = 12
WEAK = 0.4
"""A correlation whose interval lies below this is no strong one."""

C3 = partial(
    Verdict, claim="C3", quantity="rank correlation of strength-weighted recall with F1 over training sets",
    unit="correlation", n_of="training sets", chapter=CHAPTER, table="set_correlation", rule=
    "Associated: over at least 12 training sets, recall of strength and F1 correlate positively (p < .05 by permuting "
    "the sets), also given the overlap of theta alone, by ranks and by values. Useful: recall predicts a left-out set "
    "better than the loss on the probe examples. Supported: both; in part: the first; not supported: interval of the "
    f"correlation below {WEAK}.",
)

SETS = {"all": lambda name: True, "whole": lambda name: not (kind_of(name).members or kind_of(name).sized)}
"""All ranked sets, and those that share no examples with another by construction."""


def set_points(probes: Probed, answers: pd.DataFrame, probe_loss: pd.DataFrame, task: str) -> pd.DataFrame:
    """The table `set_points` of one task: for each ranked training set, means over its seeds.

    Of theta alone's heads, recall is that by the run.
    """
    strengths = {"recall": probes.strengths(), "gained_recall": probes.gained_strengths()}
    alone, real = probes.alone_strengths(), probes.reference
    f1 = answers[answers["task"] == task].groupby(["condition", "seed"])["score"].mean()
    losses = probe_loss[probe_loss["task"] == task].groupby(["condition", "seed"])["loss"].mean()
    rows = []
    for name in ranked(list(probes.conditions)):
        if name not in f1.index.get_level_values(0) or real is None:
            continue
        place = probes.conditions.index(name)
        recall = {column: np.nan if own is None else float(
            seed_means(pair_values(flat(own[:, place]), flat(own[:, real]))[0])) for column, own in strengths.items()}
        known = losses[name] if name in losses.index.get_level_values(0) else pd.Series(dtype=float)
        rows.append({
            "task": task, "condition": name, "f1": float(f1[name].mean()), **recall,
            "alone_overlap": _alone_overlap(strengths["recall"][:, place], alone), "probe_loss": float(known.mean()),
            "n_seeds": min(int(probes.there[place].sum()), len(f1[name]), len(known)),
        })
    return pd.DataFrame(rows)


def _alone_overlap(runs: np.ndarray, alone: np.ndarray | None) -> float:
    """Of `[2 halves, seeds, layers, heads]`: mean recall of theta alone's strengths by the runs."""
    if alone is None:
        return np.nan
    found = np.array([recall_precision(flat(alone[other]), flat(runs[own]))[0] for own, other in WAYS])
    return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan


def correlation_rows(points: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The table `set_correlation` of one task, from `set_points`: rank correlations with F1 over the training sets.

    One row for each predictor (`recall`, `gained_recall`, `probe_loss`), whether theta alone's overlap is `given` (then
    of ranks and of values: ranks of a strong common cause keep too little of it, and find what is not there), and the
    `sets` (`all`; `whole`: without mixtures and other sizes); and one for the predictor `recall_over_probe_loss`, whose
    value is by how much smaller the error in predicting a left-out set is by recall.
    """
    rows = []
    for sets, wanted in SETS.items() if len(points) else ():
        part = points[points["condition"].map(wanted)]
        for predictor in ("recall", "gained_recall", "probe_loss"):
            for given, scale in ((None, "ranks"), ("alone_overlap", "ranks"), ("alone_overlap", "values")):
                columns = [name for name in (predictor, "f1", given) if name]
                known = part.dropna(subset=columns)
                found = _correlation(known[columns].to_numpy(np.float64).T, scale, n_resamples, seed)
                rows.append({"task": task, "predictor": predictor, "given": given, "scale": scale, "sets": sets,
                             **found})
        known = part.dropna(subset=["recall", "probe_loss", "f1"])
        rows.append({"task": task, "predictor": "recall_over_probe_loss", "given": None, "scale": "values",
                     "sets": sets, **_smaller_error(known, n_resamples, seed)})
    return pd.DataFrame(rows)


def _correlation(columns: np.ndarray, scale: str, n_resamples: int, seed: int) -> dict:
    """Correlation of the first two of `[2 or 3, sets]` given the third, its interval and p-value.

    Spearman's of `ranks`, Pearson's of `values`.
    """
    n = columns.shape[1]
    nothing = {"value": None, "low": None, "high": None, "low_error": None, "high_error": None, "p": None,
               "p_error": None, "n": n}
    if n < 4 or not all(np.ptp(one) for one in columns[:2]):
        return nothing
    ranks = _centred(columns, scale)
    estimate = float(cosines(*residuals(ranks)))
    if np.isnan(estimate):
        return nothing
    rng = np.random.default_rng(seed)
    drawn = columns[:, rng.integers(n, size=(n_resamples, n))]
    samples = cosines(*residuals(_centred(drawn, scale)))
    samples = samples[~np.isnan(samples)]  # a sample in which all sets are equal says nothing
    p, p_error = _permuted(ranks, estimate, n_resamples, rng)
    return Sampled(estimate, samples).cells() | {"p": p, "p_error": p_error, "n": n}


def _centred(columns: np.ndarray, scale: str) -> np.ndarray:
    values = rankdata(columns, axis=-1) if scale == "ranks" else columns
    return values - values.mean(axis=-1, keepdims=True)


def _permuted(ranks: np.ndarray, estimate: float, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Two-sided p-value by permuting the second rank's residuals, and its Monte Carlo error.

    Given a third, its fit is put back before each permuted column is taken apart again (Freedman and Lane 1983).
    """
    second = residuals(ranks)[1]
    fit = ranks[1] - second
    drawn = rng.permuted(np.broadcast_to(second, (n, len(second))), axis=1) + fit
    again = np.stack(np.broadcast_arrays(*(one[None] for one in ranks)))  # [2 or 3, 1, sets]
    again = np.repeat(again, n, axis=1)
    again[1] = drawn
    found = cosines(*residuals(again))
    as_large = int((np.abs(found) >= abs(estimate) - 1e-12).sum())
    p = (as_large + 1) / (n + 1)
    return p, float(np.sqrt(p * (1 - p) / n))


def _smaller_error(points: pd.DataFrame, n_resamples: int, seed: int) -> dict:
    """By how much smaller the absolute error in F1 of a left-out set is by recall than by probe loss."""
    n = len(points)
    cells = {"p": None, "p_error": None, "n": n}
    if n < 4:
        return dict.fromkeys(("value", "low", "high", "low_error", "high_error")) | cells
    errors = left_out_errors(points.assign(base="all", seed=0), ["recall", "probe_loss"], "f1")
    errors = errors.set_index("condition").loc[points["condition"]]
    gain = (errors["probe_loss"] - errors["recall"]).to_numpy()
    drawn = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    return Sampled(float(gain.mean()), gain[drawn].mean(axis=1)).cells() | cells


def verdict(points: pd.DataFrame, rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C3 in one task, from the tables `set_points` and `set_correlation`."""
    few = _few(points)
    if few:
        return undecided(C3, task, few, len(points))
    of_all = rows[rows["sets"] == "all"].assign(given=rows["given"].fillna(""))
    of_all = of_all.set_index(["predictor", "given", "scale"])
    plain, given, by_value, useful = (of_all.loc[key] for key in (
        ("recall", "", "ranks"), ("recall", "alone_overlap", "ranks"), ("recall", "alone_overlap", "values"),
        ("recall_over_probe_loss", "", "values")))
    associated = both(_positive(plain), _positive(given), _positive(by_value))
    better, weak = lies_above(useful, 0.0), lies_below(plain, WEAK)
    outcome = decide(
        undecided=True if pd.isna(plain["value"]) else both(associated, weak), supported=both(associated, better),
        in_part=associated, not_supported=weak,
    )
    detail = (f"{_said(plain)}; given the overlap of theta alone {_said(given)}, and of values, not ranks, "
              f"{_said(by_value)}. Recall {'is' if better else 'is not'} shown to predict a left-out set "
              f"better than the loss on the probe examples does: its error is smaller by {_interval(useful)} of F1.")
    return C3(task, outcome, *from_cells(plain), len(points), detail)


def _few(points: pd.DataFrame) -> str:
    """Why the claim is not tested; empty when it is."""
    if len(points) < LEAST_SETS:
        return f"{len(points)} training sets are ranked, and {LEAST_SETS} are needed."
    lacking = points.loc[points["n_seeds"] < LEAST_SEEDS, "condition"].tolist()
    if lacking:
        return f"Fewer than {LEAST_SEEDS} seeds of {'; '.join(map(words, lacking))}."
    named = {**PREDICTORS, "alone_overlap": "overlap with theta alone"}
    absent = [named[name] for name in ("recall", "alone_overlap", "probe_loss") if points[name].isna().any()]
    return f"Not known for every set: {listed(absent)}." if absent else ""


def _positive(row: pd.Series) -> bool | None:
    """Whether a correlation is positive beyond chance."""
    if pd.isna(row["value"]):
        return False
    return both(bool(row["value"] > 0), significant(float(row["p"]), float(row["p_error"])))


def _said(row: pd.Series) -> str:
    return f"{_interval(row)}, {p_value(row['p'])}" if pd.notna(row["p"]) else "not defined"


def _interval(row: pd.Series) -> str:
    value, low, high = (f"{row[name]:.3f}" if pd.notna(row[name]) else "?" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
