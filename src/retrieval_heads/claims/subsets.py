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

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import (
    HALVES,
    WAYS,
    TaskHeads,
    flat,
    known_mean,
    pair_intervals,
    pair_means,
    seed_means,
    task_heads,
)
from retrieval_heads.claims.runs import synthetic
from retrieval_heads.claims.verdict import Verdict, decide, over_tasks, plain, too_few
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.overlap import THRESHOLDS, common_distribution, recall_precision
from retrieval_heads.stats.resample import RESAMPLES, UNKNOWN, bootstrap_mean

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

C2 = partial(
    Verdict, claim="C2", quantity="precision of the heads of synthetic runs; interval over conditions",
    unit="fraction", n_of="synthetic conditions", chapter="03_head_detection", table="subsets", rule=
    "Precision above one half and above the 97.5% quantile of random sets with as many heads in each layer, in each "
    "base model, and at least 0.8 of the way from chance to the ceiling, in eight of ten synthetic conditions, of "
    "all heads and of those gained over the base model with the raised theta (in part: of all only, or where the "
    "gained are not known for each base model); not supported with two conditions at or below chance.",
)


def subset_rows(
    head_scores: pd.DataFrame, thresholds: Iterable[float] = THRESHOLDS, *, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """The table `subsets`, with heads above each of the thresholds; a task without real runs gives no row."""
    rows = []
    for one in task_heads(head_scores, ("score", *HALVES)):
        if one.reference is None:
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
    measures = _pair_measures(masks, one.reference, candidates, known)
    own = known_mean(np.diagonal(measures["precision"][one.reference], axis1=-2, axis2=-1), (0, 1))
    other = {name: one.of_other_seeds(values) for name, values in measures.items()}
    means = {name: pair_means(values) for name, values in other.items()}
    low, high = pair_intervals(other["precision"], n_resamples=n_resamples)
    by_base = {name: seed_means(other[name]) for name in ("precision", "chance_high")}
    counts = np.mean([mask.sum(axis=(-2, -1)) for mask in masks], axis=0)
    ceiling = means["precision"][one.reference]
    above_chance = ceiling > means["chance"]
    part = (means["precision"] - means["chance"]) / np.where(above_chance, ceiling - means["chance"], np.nan)
    columns = {
        **means, "low": low, "high": high, "normalised": part,
        "n_heads": known_mean(np.where(known, counts, np.nan), (-2, -1)),
        "n_pairs": (~np.isnan(other["precision"])).sum(axis=(1, 2, 3)),
        "bases_above": (by_base["precision"] > np.fmax(by_base["chance_high"], HALF)).sum(axis=1),
        "n_bases": (~np.isnan(by_base["precision"])).sum(axis=1), "bases_known": known.any(axis=-1).sum(axis=1),
    }
    return one.rows(columns, heads=heads, threshold=threshold, ceiling=float(ceiling), retest=float(own))


def _pair_measures(
    masks: list[np.ndarray], real: int, candidates: np.ndarray, known: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures `[conditions, bases, seeds, seeds of the real run]` of all pairs, each the mean of both ways.

    Of each half `masks` are bool `[conditions, bases, seeds, layers, heads]`; `candidates` are `[bases, layers,
    heads]`, and `known` `[conditions, bases, seeds]`, the runs that are there.
    """
    pairs, ways = known[..., None] & known[real][:, None, :], []
    for half, other in WAYS:
        run, reference = masks[half][:, :, :, None], masks[other][real][None, :, None]
        recall, precision = recall_precision(flat(reference), flat(run))
        in_layers = np.broadcast_arrays(run.sum(axis=-1), reference.sum(axis=-1),
                                        candidates.sum(axis=-1)[None, :, None, None])
        expected, quantile, inside = (
            x.reshape(pairs.shape) for x in layer_chance(*(x.reshape(-1, x.shape[-1]) for x in in_layers)))
        n_run, n_real = (x.sum(axis=-1) for x in in_layers[:2])
        of_run = {"precision": precision, "chance": expected / np.maximum(n_run, 1),
                  "chance_high": quantile / np.maximum(n_run, 1), "strict": (precision == 1) & (n_run < n_real),
                  "strict_chance": inside * (n_run < n_real)}
        ways.append({name: np.where(pairs & (n_run > 0), values, np.nan) for name, values in of_run.items()}
                    | {"recall": np.where(pairs, recall, np.nan)})
    return {name: known_mean(np.stack([way[name] for way in ways]), 0) for name in ways[0]}


def layer_chance(first: np.ndarray, second: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of many pairs of sets with as many heads in each layer: the expected number of common heads, its 97.5% quantile,
    and the probability that the first set lies inside the second; arguments `[pairs, layers]`, results `[pairs]`."""
    probabilities = common_distribution(second, first, width)
    quantile = np.argmax(probabilities.cumsum(axis=1) >= 0.975 - 1e-12, axis=1)
    whole = np.minimum(first.sum(axis=1), probabilities.shape[1] - 1)
    inside = np.take_along_axis(probabilities, whole[:, None], axis=1)[:, 0]
    expected = (first * second / np.maximum(width, 1)).sum(axis=1)
    return expected, quantile.astype(np.float64), np.where((first <= second).all(axis=1), inside, 0.0)


def subset_verdicts(subsets: pd.DataFrame, threshold: float = THRESHOLD) -> list[Verdict]:
    """The verdict on claim C2 in each task, and of the claim (task `all`), from the table `subsets`.

    A condition without a value is none in which it holds. Less than eight of ten conditions that hold, and less than
    two at or below chance, decide nothing; neither does a task whose real runs have less than one head on average. The
    gained heads count when the real runs gain one on average, and were told for every base model of the study.
    """
    at = subsets[np.isclose(subsets["threshold"], threshold)]
    counting = at["condition"].isin(synthetic(at["condition"]))
    tasks = [_task_verdict(str(task), part[counting.loc[part.index]], part[part["condition"] == REFERENCE])
             for task, part in at.groupby("task") if counting.loc[part.index].any()]
    if not tasks:
        return []
    decided = at[counting & (at["heads"] == "all") & at["task"].isin([one.task for one in tasks if one.decided])]
    # with an interval over conditions: the tasks share them, so one is drawn for all tasks
    precision = decided.groupby("condition")["precision"].mean().dropna()
    return [*tasks, over_tasks(tasks, bootstrap_mean(precision) if len(precision) else None)]


def _task_verdict(task: str, part: pd.DataFrame, of_real: pd.DataFrame) -> Verdict:
    own, gained = (part[part["heads"] == heads] for heads in HEADS)
    real = of_real.set_index("heads").reindex(list(HEADS))
    n_real, n_gained = real["n_heads"]
    bases = tuple(int(count) for count in real["bases_known"].fillna(0))
    least = math.ceil(LEAST_SHARE * len(own))
    at_chance = int((own["precision"] <= own["chance"]).sum())
    few = too_few(len(own))
    holds = _holding(own) >= least
    learned = n_gained >= LEAST_HEADS and _holding(gained) >= least and bases[0] == bases[1]
    verdict = decide(undecided=few or not n_real >= LEAST_HEADS, not_supported=at_chance >= AT_CHANCE,
                     supported=holds and learned, in_part=holds)
    known = own["precision"].dropna()
    mean = bootstrap_mean(known) if len(known) else UNKNOWN
    said = [few or f"It holds of all heads in {_holding(own)} of {len(own)} synthetic conditions; {at_chance} are at "
            "or below chance."]
    if len(known) < len(own):
        said.append(f"In {len(own) - len(known)} a run or the real ones have no heads.")
    if not n_real >= LEAST_HEADS:
        said.append(f"The real runs have {n_real:.2g} heads on average: there is nothing to be a subset of.")
    elif not few:
        said.append(_of_gained(gained, float(n_gained), bases))
    return C2(task, verdict, *plain(mean), len(own), " ".join(said))


def _of_gained(gained: pd.DataFrame, n_real: float, bases: tuple[int, int]) -> str:
    """What is said of gained heads, which may be told for some of the base models only."""
    every, known = bases
    if not known:
        return "Which heads are gained is not known: no base model was scored with the raised theta at this length."
    of = "" if known == every else f" (of {known} of {every} base models, the only one scored with the raised theta)"
    if not n_real >= LEAST_HEADS:
        return f"The real runs gain {n_real:.2g} heads on average{of}, so nothing is said of what is learned."
    undefined = int(gained["precision"].isna().sum())
    none = f" In {undefined} none are gained." if undefined else ""
    return (f"Of the gained heads it holds in {_holding(gained)} of {len(gained)}, with precisions from "
            f"{gained['precision'].min():.2f} to {gained['precision'].max():.2f} beside a chance of "
            f"{gained['chance'].mean():.2f} and a ceiling of {gained['ceiling'].mean():.2f}; the real runs gain "
            f"{n_real:.1f} heads on average, and the recall of these spans {gained['recall'].min():.2f} to "
            f"{gained['recall'].max():.2f}{of}.{none}")


def _holding(rows: pd.DataFrame) -> int:
    """In how many conditions the rule holds."""
    above = rows["precision"] > np.fmax(rows["chance_high"], HALF)
    return int((above & (rows["normalised"] >= LEAST_PART) & (rows["bases_above"] == rows["n_bases"])).sum())
