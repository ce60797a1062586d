"""Overlap of every run's heads with those of the real run of its seed, and beside it the run's performance.

A condition trained under three seeds is one piece of evidence, so heads and performance are averaged over the seeds,
and over base models. The real condition is left out, as beside itself its recall is 1, and so are the base models,
which were not extended, and the controls, which lack what the claims are about. The claims are decided in `claims`,
beside real runs of other seeds.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.keys import RUN, Options
from retrieval_heads.manifest import Facts
from retrieval_heads.metrics import main_metric
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING, RAISED, UNTUNED
from retrieval_heads.stages.head_sets import score_kind, score_mode
from retrieval_heads.stages.overlap import MEASURES, overlap_rows, same_seed
from retrieval_heads.store import Store, load_table
from retrieval_heads.tables import conform

PREDICTORS = (*MEASURES, "n_heads")
OUTCOMES = ("exact_match", "f1")

_LEFT_OUT = (*UNTUNED, *(name for name, condition in CONDITIONS.items() if not condition.dissected))

def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `overlap` of all runs that are there; its path.

    It is made again at each call, as it takes seconds and depends on all runs.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    detect.run(profile, options)
    return derive(profile)


def derive(profile: Profile) -> list[Path]:
    """Make the table `overlap` from the table `head_scores` that is there."""
    store = Store.open(profile)
    with store.merging():
        scores = load_table(profile.name, "head_scores")
        kind = scores.task.map({task: score_kind(profile, task) for task in profile.tasks})
        fitting = scores[(scores.kind == kind) & (scores.score_mode == score_mode(profile))
                         & (scores.condition != RAISED)]
        rows = conform("overlap", overlap_rows(fitting, profile.detect.thresholds))
        store.write_part("overlap", "all", rows, Facts(device="cpu", seeds=(0,)))
        return [store.merge("overlap", ["all"])]


def conditions_table(profile: Profile, overlap: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """One row a task and condition but `real` and controls: heads and performance, each averaged over its runs.

    Args:
        overlap: the table `overlap`.
        performance: the table `performance`.

    Returns:
        `task`, `condition`, `n_seeds`, `n_bases`, a column for each of `PREDICTORS` (retrieval heads by the kind of
        score that fits the task, at the profile's threshold) and of `OUTCOMES` (at the longest evaluation length; `f1`
        is the citation F1 for `summhay`), and `NAME_low`, `NAME_high` of the outcomes, averaged like them.
    """
    heads = _heads_of_runs(profile, overlap)
    scores = _scores_of_runs(profile, performance)
    table = heads.merge(scores, on=RUN, validate="one_to_one")
    groups = table.groupby(["task", "condition"])
    means = groups[[name for name in table if name not in RUN]].mean()
    return means.assign(n_seeds=groups["seed"].nunique(), n_bases=groups["base"].nunique()).reset_index()


def compared(profile: Profile, overlap: pd.DataFrame) -> pd.DataFrame:
    """The rows of `overlap` that the claims are about: every other run, and the base models, beside a real run.

    Of the same seed (`same_seed`), by the kind of score that fits the task, at all thresholds.
    """
    known = same_seed(overlap)
    kind = known.task.map({task: score_kind(profile, task) for task in known.task.unique()})
    chosen = (known.kind == kind) & (known.score_mode == score_mode(profile)) & (known.condition != REFERENCE)
    return known[chosen].reset_index(drop=True)


def _heads_of_runs(profile: Profile, overlap: pd.DataFrame) -> pd.DataFrame:
    known = compared(profile, overlap)
    at_threshold = (known.threshold == profile.detect.threshold) | known.threshold.isna()
    known = known[at_threshold & ~known.condition.isin(_LEFT_OUT)]
    wide = known.pivot(index=RUN, columns="measure", values="value")
    counts = known[known.measure == "recall"].set_index(RUN)["n_heads"].astype(float)
    return wide.assign(n_heads=counts).reset_index().rename_axis(columns=None)


def _scores_of_runs(profile: Profile, performance: pd.DataFrame) -> pd.DataFrame:
    known = performance[performance.eval_length == profile.eval_lengths[-1]]
    columns = []
    for outcome in OUTCOMES:
        wanted = known.task.map(main_metric) if outcome == "f1" else outcome
        one = known[known.metric == wanted].set_index(RUN)[["value", "low", "high"]]
        columns.append(one.set_axis([outcome, f"{outcome}_low", f"{outcome}_high"], axis=1))
    return pd.concat(columns, axis=1).reset_index()
