"""Decide the claims by the rules of `book/preregistration.md`, from the tables of all other stages.

Nothing is computed by a model here: the derived tables and the verdicts follow from the rows, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from retrieval_heads.claims.base_share import base_share_rows
from retrieval_heads.claims.bases import alike_verdict, base_alike_rows
from retrieval_heads.claims.choice import choice_rows, choice_verdict
from retrieval_heads.claims.interaction import interaction_verdicts
from retrieval_heads.claims.necessity import judge_necessity
from retrieval_heads.claims.patching import judge_patching
from retrieval_heads.claims.prediction import correlation_rows, error_rows
from retrieval_heads.claims.prediction_verdicts import measures_verdict, prediction_verdict
from retrieval_heads.claims.run_predictors import run_predictors, run_recall
from retrieval_heads.claims.shortfall import judge_shortfall
from retrieval_heads.claims.spread import spread_rows, spread_verdict
from retrieval_heads.claims.strengths import strength_rows
from retrieval_heads.claims.subsets import subset_rows, subset_verdicts
from retrieval_heads.claims.verdict import Judged, as_rows
from retrieval_heads.commands.choice import Options
from retrieval_heads.keys import table_path
from retrieval_heads.manifest import Facts
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base, correlate, data, decide, knockout, lengths, patch
from retrieval_heads.stages.common import EVERYTHING
from retrieval_heads.store import Store
from retrieval_heads.tables import all_tables, read_table


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables of all stages, then the derived ones and the verdicts; the paths of the latter.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    if profile.gold_loss is not None:
        return decide.run(profile, options)
    for stage in (base, data, lengths, knockout, patch, correlate):
        stage.run(profile, options)
    return judge(profile)


def judge(profile: Profile) -> list[Path]:
    """Make the derived tables and the verdicts from the merged tables that are there; their paths.

    For a profile with `gold_loss`, by the rules of the stage `decide`.

    Raises:
        ResultError: a table is missing.
    """
    if profile.gold_loss is not None:
        return decide.judge(profile)
    store, made, verdicts = Store.open(profile), {}, []
    with store.merging():
        for judged in judgements(profile):
            made |= judged.tables
            verdicts += judged.verdicts
        made["verdicts"] = as_rows(verdicts)
        wanted = [name for name, table in all_tables().items() if table.stage == "claims"]
        for name in wanted:
            store.write_part(name, "all", made[name], Facts(device="cpu", seeds=(0,)))
        return [store.merge(name, ["all"]) for name in wanted]


def judgements(profile: Profile) -> Iterator[Judged]:
    """The claims and further questions one after another, each with its tables."""
    def table(name: str) -> pd.DataFrame:
        return read_table(name, table_path(profile.name, name))

    n, answers, scores = profile.bootstrap, table("answers"), table("head_scores")
    costs = judge_shortfall(answers, table("base"), table("base_answers"), n_resamples=n)
    yield costs
    yield Judged({}, tuple(interaction_verdicts(costs.tables["axis_effects"])))
    subsets = subset_rows(scores, profile.detect.thresholds, n_resamples=n)
    shares = base_share_rows(scores, n_resamples=n)
    strengths = strength_rows(scores, n_resamples=n)
    tables = {"subsets": subsets, "strengths": strengths, "base_share": shares}
    yield Judged(tables, tuple(subset_verdicts(subsets, profile.detect.threshold)))
    runs = run_predictors(
        scores, answers, table("training"), table("probe_loss"), table("examples"), threshold=profile.detect.threshold,
    )
    correlations = correlation_rows(runs, run_recall(scores, profile.detect.thresholds), n_resamples=n)
    errors = error_rows(runs, n_resamples=n)
    yield Judged(
        {"run_predictors": runs, "correlation_runs": correlations, "prediction_errors": errors},
        (prediction_verdict(correlations, errors),),
    )
    yield judge_necessity(table("knockout"), table("knockout_area"), table("text_loss"), n_resamples=n)
    yield judge_patching(table("patching"), n_resamples=n)
    choice, spread = choice_rows(runs, n_resamples=n), spread_rows(runs, n_resamples=n)
    alike = base_alike_rows(scores, n_resamples=n)
    yield Judged(
        {"choice": choice, "base_alike": alike, "spread": spread},
        (choice_verdict(choice), measures_verdict(errors), alike_verdict(alike), spread_verdict(spread)),
    )
