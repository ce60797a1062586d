"""How far the retrieval heads of every run agree with those of the real runs, and beside it the runs' performance.

Every run is compared with the real run of its own seed, from the same base model; real runs and the base model itself
with the real runs of the other seeds too, which shows how much agreement there can be. Runs of one seed also start from
the same random adapter, so the claims are decided on pairs of different seeds (`claims.subsets`).

A condition trained under several seeds is one piece of evidence, so heads and performance are averaged over seeds and
base models.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.evaluation import main_metric
from retrieval_heads.keys import RUN, Options
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING, RAISED, UNTUNED
from retrieval_heads.stages.head_sets import fitting_kind, score_matrix
from retrieval_heads.stages.provide import write_derived
from retrieval_heads.stats.overlap import overlap_curve
from retrieval_heads.store import Store, load_table

SET_MEASURES = ("recall", "precision", "jaccard")
OUTCOMES = ("exact_match", "f1")

GROUP = ["task", "kind", "score_mode", "base", "condition", "seed"]
"""The columns that tell score matrices apart; those before the condition are the same in what is compared."""

# beside itself the real condition has recall 1, base models were not extended, controls lack what the claims are about
_LEFT_OUT = (*UNTUNED, *(name for name, condition in CONDITIONS.items() if not condition.dissected))


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `overlap` of all runs that are there; its path.

    It is made again at each call, as it takes seconds and depends on all runs.
    """
    detect.run(profile, options)
    return derive(profile)


def derive(profile: Profile) -> list[Path]:
    """Make the table `overlap` from the table `head_scores` that is there."""
    store = Store(profile)
    with store.merging():
        scores = fitting_kind(profile, load_table(profile.name, "head_scores"))
        rows = overlap_rows(scores[scores.condition != RAISED], profile.detect.thresholds)
        return write_derived(store, {"overlap": rows})


def overlap_rows(head_scores: pd.DataFrame, thresholds: Iterable[float]) -> pd.DataFrame:
    """The table `overlap` from the table `head_scores` of any runs, the base models among them.

    A task without a real run gives no row; a head with a score above one of the thresholds is a retrieval head.
    """
    thresholds, rows = tuple(thresholds), []
    matrices = {name: score_matrix(one) for name, one in head_scores.groupby(GROUP)}
    for run, scores in matrices.items():
        for other, real in matrices.items():
            if other[:-1] != (*run[:-2], REFERENCE) or other == run:
                continue
            if run[-2] not in (REFERENCE, "base") and other[-1] != run[-1]:
                continue
            place, curve = dict(zip(GROUP, run, strict=True)), overlap_curve(real, scores, thresholds)
            place["reference_seed"] = other[-1]
            rows += [_row(place, found, measure) for found in curve.to_dict("records") for measure in SET_MEASURES]
            # one row: it does not depend on the threshold
            rows.append(_row(place, curve.iloc[0].to_dict(), "cosine") | dict.fromkeys(
                ("threshold", "n_reference", "n_heads", "n_common")))
    return pd.DataFrame(rows)


def _row(place: dict[str, Any], found: dict[str, Any], measure: str) -> dict[str, Any]:
    p = "cosine" if measure == "cosine" else "overlap"
    numbers = {
        "value": found[measure],
        **{f"{level}{end}": found[f"{measure}_{level}{end}"]
           for level in ("chance", "layer_chance") for end in ("", "_low", "_high")},
        "p": found[f"{p}_p"], "layer_p": found[f"{p}_layer_p"],
    }
    counts = {"n_reference": "n_real", "n_heads": "n_synthetic", "n_common": "n_common"}
    return {
        **place, "threshold": found["threshold"], "measure": measure,
        **{name: None if np.isnan(number) else float(number) for name, number in numbers.items()},
        **{name: int(found[column]) for name, column in counts.items()},
    }


def same_seed(overlap: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs beside the real run of their own seed; for a base model, which has none, beside the first."""
    of_base = overlap.condition == "base"
    own = overlap[of_base].groupby("base").reference_seed.transform("min").reindex(overlap.index)
    return overlap[overlap.reference_seed == own.where(of_base, overlap.seed)]


def compared(profile: Profile, overlap: pd.DataFrame) -> pd.DataFrame:
    """The rows of `overlap` that the claims are about: every other run, and the base models, beside a real run.

    Of the same seed (`same_seed`), by the kind of score that fits the task, at all thresholds.
    """
    known = fitting_kind(profile, same_seed(overlap))
    return known[known.condition != REFERENCE].reset_index(drop=True)


def conditions_table(profile: Profile, overlap: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """One row per task and condition except `real` and controls: heads and performance, each averaged over its runs.

    Args:
        overlap: the table `overlap`.
        performance: the table `performance`.

    Returns:
        `task`, `condition`, `n_seeds`, `n_bases`, a column for each measure of overlap and `n_heads` (retrieval heads
        by the kind of score that fits the task, at the profile's threshold) and for each of `OUTCOMES` (at the longest
        evaluation length; `f1` is the citation F1 for `summhay`), and `NAME_low`, `NAME_high` of the outcomes, averaged
        like them.
    """
    known = compared(profile, overlap)
    at_threshold = (known.threshold == profile.detect.threshold) | known.threshold.isna()
    known = known[at_threshold & ~known.condition.isin(_LEFT_OUT)]
    heads = known.pivot(index=RUN, columns="measure", values="value")
    heads["n_heads"] = known[known.measure == "recall"].set_index(RUN)["n_heads"].astype(float)
    performance, columns = performance[performance.eval_length == profile.eval_lengths[-1]], []
    for outcome in OUTCOMES:
        wanted = performance.task.map(main_metric) if outcome == "f1" else outcome
        one = performance[performance.metric == wanted].set_index(RUN)[["value", "low", "high"]]
        columns.append(one.set_axis([outcome, f"{outcome}_low", f"{outcome}_high"], axis=1))
    scores = pd.concat(columns, axis=1).reset_index()
    table = heads.reset_index().rename_axis(columns=None).merge(scores, on=RUN, validate="one_to_one")
    groups = table.groupby(["task", "condition"])
    means = groups[[name for name in table if name not in RUN]].mean()
    return means.assign(n_seeds=groups["seed"].nunique(), n_bases=groups["base"].nunique()).reset_index()
