"""Claims C1 to C5 on the pretrained model, by the rules of `book/preregistration_pretrained.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from retrieval_heads.claims.pretrained import interventions, prediction, shortfall, subsets
from retrieval_heads.claims.pretrained.loading import TASKS, probed
from retrieval_heads.claims.pretrained.sampled import RESAMPLES
from retrieval_heads.claims.verdict import ALL, IN_PART, SUPPORTED, UNDECIDED, Verdict, decide, in_each

RAW = ("answers", "base_answers", "head_scores", "head_hits", "probe_loss", "knockout_losses", "patching_losses")
"""The tables that the verdicts follow from."""

DERIVED = ("contrasts", "strength_agreement", "set_points", "set_correlation", "loss_effects")

OVER_TASKS = (
    "The verdict of mdqa; where musique is decided too, equal verdicts stay, supported beside in part is in part, and "
    "not supported beside either is not decided."
)


def judge(
    tables: Mapping[str, pd.DataFrame], *, n_resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, pd.DataFrame], list[Verdict]]:
    """Decide every claim that the tables speak of.

    Of the tables `RAW`, an empty one, or one that is not there, leaves its claims undecided. What is made are the
    tables `DERIVED`, and of each claim the verdicts of the tasks and the one of all.
    """
    made: dict[str, list[pd.DataFrame]] = {name: [] for name in DERIVED}
    verdicts: list[Verdict] = []
    given = {name: tables[name] if name in tables else pd.DataFrame() for name in RAW}
    settings = {"n_resamples": n_resamples, "seed": seed}
    for task in TASKS:
        if not any(len(one) and (one["task"] == task).any() for one in given.values()):
            continue
        found = _of_task(given, task, settings)
        for name, rows, verdict in found:
            made[name].append(rows)
            verdicts += [verdict] if verdict else []
    claims = sorted({one.claim for one in verdicts})
    verdicts += [over_tasks([one for one in verdicts if one.claim == claim]) for claim in claims]
    return {name: _joined(rows) for name, rows in made.items()}, verdicts


def _joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    kept = [one for one in parts if len(one)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def _of_task(
    given: Mapping[str, pd.DataFrame], task: str, settings: Mapping[str, int]
) -> Iterable[tuple[str, pd.DataFrame, Verdict | None]]:
    """Name and rows of each derived table, with the verdict that follows from it (C3: from two)."""
    rows = shortfall.contrasts(given["answers"], given["base_answers"], task, **settings) if len(
        given["answers"]) else pd.DataFrame()
    yield "contrasts", rows, shortfall.verdict(rows, task)
    probes = probed(given["head_hits"], given["head_scores"], task) if len(given["head_scores"]) else None
    rows = pd.DataFrame() if probes is None else subsets.agreement_rows(probes, task, **settings)
    yield "strength_agreement", rows, subsets.verdict(rows, task)
    known = probes is not None and len(given["answers"]) and len(given["probe_loss"])
    points = prediction.set_points(probes, given["answers"], given["probe_loss"], task) if known else pd.DataFrame()
    yield "set_points", points, None
    rows = prediction.correlation_rows(points, task, **settings)
    yield "set_correlation", rows, prediction.verdict(points, rows, task)
    for intervention, function, verdict in (
        ("knockout", interventions.necessity_rows, interventions.necessity_verdict),
        ("patching", interventions.patching_rows, interventions.patching_verdict),
    ):
        table = given[f"{intervention}_losses"]
        rows = function(table, task, **settings) if len(table) else pd.DataFrame()
        yield "loss_effects", rows.assign(intervention=intervention), verdict(rows, task)


def over_tasks(of_tasks: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim from those of its tasks, the first of which decides."""
    by_task = {one.task: one for one in of_tasks}
    first = by_task.get(TASKS[0], of_tasks[0])
    decided = {one.verdict for one in of_tasks if one.decided}
    outcome = UNDECIDED
    if first.decided and first.task == TASKS[0]:
        outcome = first.verdict if len(decided) == 1 else decide(in_part=decided == {SUPPORTED, IN_PART})
    return replace(first, task=ALL, verdict=outcome, n=sum(one.decided for one in of_tasks), n_of="tasks",
                   rule=OVER_TASKS, detail=in_each(of_tasks))
