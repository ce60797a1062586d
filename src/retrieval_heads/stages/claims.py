"""Decide the claims by the rules of a preregistration, from the tables of all other stages.

Those of `book/preregistration.md`, and for a profile that measures losses of the gold answer (`gold_loss`) those of
`book/preregistration_pretrained.md`. Nothing is computed by a model here: the derived tables and the verdicts follow
from the rows, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import pandas as pd

from retrieval_heads.claims import pretrained, questions
from retrieval_heads.claims.arrays import RAISED
from retrieval_heads.claims.axes import interaction_verdicts
from retrieval_heads.claims.choice import choice_rows, choice_verdict
from retrieval_heads.claims.necessity import control_rows, judge_necessity
from retrieval_heads.claims.patching import judge_patching
from retrieval_heads.claims.prediction import correlation_rows, error_rows, prediction_verdict
from retrieval_heads.claims.run_predictors import run_predictors, run_recall
from retrieval_heads.claims.shortfall import judge_shortfall
from retrieval_heads.claims.strengths import base_share_rows, strength_rows
from retrieval_heads.claims.subsets import subset_rows, subset_verdicts
from retrieval_heads.claims.verdict import Judged, Verdict, as_rows, from_rows
from retrieval_heads.keys import Options
from retrieval_heads.settings import Profile
from retrieval_heads.stages.common import EVERYTHING
from retrieval_heads.stages.provide import comes_with_repository, stage_function, write_derived
from retrieval_heads.store import Store, find_committed, has_table, load_table
from retrieval_heads.tables import all_tables


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables of all stages, then the derived ones and the verdicts; the paths of the latter."""
    if profile.gold_loss is not None:
        return run_decide(profile, options)
    for stage in ("base", "data", "lengths", "knockout", "patch", "correlate"):
        stage_function(stage)(profile, options)
    return judge(profile)


def run_decide(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """The same by the rules for the pretrained model; nothing for a profile without `gold_loss`."""
    if profile.gold_loss is None:
        return []
    for stage in ("base", "data", "finetune", "gold_loss"):
        stage_function(stage)(profile, options)
    return judge(profile)


def judge(profile: Profile) -> list[Path]:
    """Make the derived tables and the verdicts from the tables that are there; their paths.

    With `gold_loss`, a table that is not there leaves its claims undecided: these runs come in parts.

    Raises:
        ResultError: a table is missing, does not follow the data dictionary, or contradicts another.
    """
    store = Store(profile)
    with store.merging():
        if profile.gold_loss is not None:
            there = [name for name in pretrained.RAW if has_table(profile.name, name)]
            made, verdicts = pretrained.judge({name: load_table(profile.name, name) for name in there})
            return write_derived(store, {**made, "verdicts": as_rows(verdicts)})
        inputs, made, verdicts = Inputs(profile), {}, []
        for one in JUDGES.values():
            judged = one(inputs)
            made |= judged.tables
            verdicts += judged.verdicts
        made["verdicts"] = as_rows(verdicts)
        wanted = [name for name, table in all_tables().items() if table.stage == "claims"]
        return write_derived(store, {name: made[name] for name in wanted})


def claim_verdicts(profile: Profile, claim: str) -> list[Verdict]:
    """The verdicts on one claim, of each task and over all: the only ones that a chapter can show.

    They are read where the tables come with the repository, and otherwise computed from those that are there;
    `ResultError` where one is missing.
    """
    if comes_with_repository(profile, "claims"):
        rows = load_table(profile.name, "verdicts")
        return from_rows(rows[rows["claim"] == claim])
    return [one for one in JUDGES[claim](Inputs(profile)).verdicts if one.claim == claim]


def judged_tables(profile: Profile, claim: str) -> dict[str, pd.DataFrame]:
    """The derived tables of one claim, a key of `TABLES`, by name; read or computed as in `claim_verdicts`."""
    if comes_with_repository(profile, "claims"):
        return {name: load_table(profile.name, name) for name in TABLES[claim]}
    return dict(JUDGES[claim](Inputs(profile)).tables)


class Inputs:
    """The tables of a profile that are judged, each read once."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.n = profile, profile.bootstrap
        self.threshold = profile.detect.threshold

    @cache  # noqa: B019 - lives as long as one judgement
    def table(self, name: str) -> pd.DataFrame:
        """The live table, or the one that comes with the repository."""
        return load_table(self.profile.name, name)

    @cached_property
    def head_scores(self) -> pd.DataFrame:
        """Of the runs and base models; with the raised theta also from the profile of the controls."""
        scores = self.table("head_scores")
        if (scores["condition"] == RAISED).any() or not self._has_controls("head_scores"):
            return scores
        other = load_table(str(self.profile.controls), "head_scores")
        fitting = other[(other["condition"] == RAISED) & other["task"].isin(scores["task"])
                        & other["base"].isin(scores["base"])]
        return pd.concat([scores, fitting], ignore_index=True)

    def controlled(self, name: str) -> pd.DataFrame:
        """A table of the knock-out with all controls: from the profile of the controls, where there is one."""
        return load_table(str(self.profile.controls), name) if self._has_controls(name) else self.table(name)

    def _has_controls(self, name: str) -> bool:
        return self.profile.controls is not None and find_committed(self.profile.controls, name) is not None

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The table `run_predictors`."""
        return run_predictors(
            self.head_scores, *map(self.table, ("answers", "training", "probe_loss", "examples")),
            threshold=self.threshold,
        )

    @cached_property
    def errors(self) -> pd.DataFrame:
        """The table `prediction_errors`."""
        return error_rows(self.runs, n_resamples=self.n)


def _shortfall(inputs: Inputs) -> Judged:
    costs = judge_shortfall(*map(inputs.table, ("answers", "base_answers")), n_resamples=inputs.n)
    return Judged(costs.tables, (*costs.verdicts, *interaction_verdicts(costs.tables["axis_effects"])))


def _subsets(inputs: Inputs) -> Judged:
    subsets = subset_rows(inputs.head_scores, inputs.profile.detect.thresholds, n_resamples=inputs.n)
    tables = {
        "subsets": subsets, "base_share": base_share_rows(inputs.head_scores, n_resamples=inputs.n),
        "strengths": strength_rows(inputs.head_scores, n_resamples=inputs.n),
    }
    return Judged(tables, tuple(subset_verdicts(subsets, inputs.threshold)))


def _prediction(inputs: Inputs) -> Judged:
    recall = run_recall(inputs.head_scores, inputs.profile.detect.thresholds)
    correlations = correlation_rows(inputs.runs, recall, threshold=inputs.threshold, n_resamples=inputs.n)
    tables = {"run_predictors": inputs.runs, "correlation_runs": correlations, "prediction_errors": inputs.errors}
    return Judged(tables, (prediction_verdict(correlations, inputs.errors, inputs.threshold),))


def _necessity(inputs: Inputs) -> Judged:
    judged = judge_necessity(*map(inputs.table, ("knockout", "knockout_area", "text_loss")), n_resamples=inputs.n)
    controls = control_rows(inputs.controlled("knockout"), inputs.controlled("text_loss"))
    return Judged(judged.tables | {"controls": controls}, judged.verdicts)


def _patching(inputs: Inputs) -> Judged:
    return judge_patching(inputs.table("patching"), n_resamples=inputs.n)


def _questions(inputs: Inputs) -> Judged:
    choice = choice_rows(inputs.runs, n_resamples=inputs.n)
    spread = questions.spread_rows(inputs.runs, n_resamples=inputs.n)
    alike = questions.base_alike_rows(inputs.head_scores, n_resamples=inputs.n)
    return Judged(
        {"choice": choice, "base_alike": alike, "spread": spread},
        (choice_verdict(choice), questions.measures_verdict(inputs.errors), questions.alike_verdict(alike),
         questions.spread_verdict(spread)),
    )


TABLES = {"C2": ("subsets", "base_share"), "C4": ("necessity", "specificity", "controls")}
"""Tables that chapters show, by claim."""

JUDGES: dict[str, Callable[[Inputs], Judged]] = {
    "C1": _shortfall, "C2": _subsets, "C3": _prediction, "C4": _necessity, "C5": _patching, "questions": _questions,
}
"""Each claim with its tables and verdicts, of the tasks and of all; `C1` has those on question Q2 too."""
