"""Patch the head outputs of the run on real data into the runs on other data, at the positions that predict the answer.

Source is the real run of the same task, seed and base model, target each other run; both read the same held-out real
examples of the training length. With R the retrieval heads of the source and S those of the target, the sets are the
intersection (R and S), the complement (R without S), all heads, and random controls outside R and S that are matched by
layer to the intersection and to the complement. As the intersection is mostly the larger, its strongest heads are also
patched alone, as many as the complement has (`intersection_equal`). Beside them stand the target as it is (`none`) and
the source itself (`source`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from retrieval_heads.data.example import Example
from retrieval_heads.heads.sweeps import SourceAnswer, patch_sweep, source_answers
from retrieval_heads.keys import Options, RunKey, study_grid
from retrieval_heads.models.load import sibling_model
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    Made,
    adapter_path,
    dissected,
    held_out,
    load_run,
    make_tables,
)
from retrieval_heads.stages.head_sets import HeadSet, RunHeads, random_controls, run_heads
from retrieval_heads.stages.sweeps import Resamples, Scores, as_cells, loss, per_example, together
from retrieval_heads.stats.bootstrap import Interval

BASELINE, SOURCE = HeadSet("none", ()), HeadSet("source", ())

RANDOM = {"random": "intersection", "random_complement": "complement"}
"""The random controls and the sets they are matched to."""

CHANGE, CLOSED, OVER_RANDOM = (
    (name, f"{name}_low", f"{name}_high") for name in ("change", "closed", "over_random")
)


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `patching`; its path.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    detect.run(profile, options)
    let_go()  # the adapters may be others than at the last call
    wanted = targets(study_grid(profile, options.task, options.seed, options.base))
    return make_tables(
        profile, ("patching",), wanted, patch_run, grid=targets(study_grid(profile)), description="patching",
    )


def targets(keys: list[RunKey]) -> list[RunKey]:
    """The runs that are patched: all that are dissected but those on real data."""
    return [key for key in dissected(keys) if key.condition != REFERENCE]


def patch_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Every set of heads patched into one run."""
    real = key.to(REFERENCE)
    heads = run_heads(profile, real), run_heads(profile, key)
    sets = [BASELINE, *patching_sets(*heads, profile.patch.sets, profile.patch.draws, key.name)]
    source, tokenizer, answers = source_run(profile, real, device, profile.patch.n)
    target = sibling_model(source, adapter_path(profile, key))
    examples = patched_examples(profile, key.task, profile.patch.n)
    found = patch_sweep(
        target, source, tokenizer, examples, {one.label: one.heads for one in sets}, answers=answers,
    )
    scores = per_example(found, sets, "patch")
    own = [{"set": SOURCE.label, "mode": "patch", **answer.metrics} for answer in answers]
    scores |= per_example(own, [SOURCE], "patch")
    rows = patching_rows(key, scores, Resamples(len(examples), profile.bootstrap))
    return Made({"patching": rows}, seeds=(HELD_OUT_SEED,), used=len(examples))


def patched_examples(profile: Profile, task: str, n: int) -> tuple[Example, ...]:
    """The first `n` held-out real examples of the training length, on which heads are patched."""
    return held_out(profile, task, "test", profile.train_length)[:n]


@lru_cache(maxsize=1)
def source_run(
    profile: Profile, real: RunKey, device: str, n: int,
) -> tuple[nn.Module, Any, list[SourceAnswer]]:
    """A real run, its tokenizer and its answers, kept while the runs that are patched from it follow one another."""
    source, tokenizer = load_run(profile, real, device)
    return source, tokenizer, source_answers(source, tokenizer, patched_examples(profile, real.task, n))


def let_go() -> None:
    """Forget the real run that is kept, and free its memory."""
    source_run.cache_clear()


def patching_sets(
    source: RunHeads, target: RunHeads, wanted: tuple[str, ...], draws: int, where: str,
) -> list[HeadSet]:
    """The sets that a profile asks for; one that is empty stays in, and changes nothing.

    There is no control where too few heads are neither in R nor in S.
    """
    r, s, shape = set(source.retrieval), set(target.retrieval), source.scores.shape
    every = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    known = {"intersection": sorted(r & s), "complement": sorted(r - s), "all": every}
    sets = [HeadSet(name, tuple(known[name])) for name in known if name in wanted]
    if {"intersection", "complement"} <= set(wanted) and len(known["complement"]) < len(known["intersection"]):
        strongest = sorted(known["intersection"], key=lambda head: -source.ranks[head])[: len(known["complement"])]
        sets.append(HeadSet("intersection_equal", tuple(sorted(strongest))))
    for name, matched in RANDOM.items():
        if "random" in wanted:
            sets += random_controls(name, known[matched], shape, r | s, draws, f"{where}|patch")
    return sets


def patching_rows(key: RunKey, scores: dict[HeadSet, Scores], resamples: Resamples) -> list[dict[str, Any]]:
    """One row a set and metric, and one for the mean of the draws of each control (draw 0)."""
    everything, controls = dict(scores), {}
    for name, matched in RANDOM.items():
        drawn = [one for one in scores if one.name == name]
        if drawn:
            mean = replace(drawn[0], draw=0, moved=float(np.mean([one.moved for one in drawn])))
            controls[matched] = everything[mean] = together(scores[one] for one in drawn)
    rows = []
    for one, found in everything.items():
        for metric, values in found.items():
            before, real = scores[BASELINE][metric], scores[SOURCE][metric]
            gained = -loss(metric, before, values)
            share, reason = (None, "") if one in (BASELINE, SOURCE) else _closed(
                gained, -loss(metric, before, real), resamples,
            )
            rows.append({
                **key.columns, "set": one.name, "draw": one.draw, "metric": metric, "n_heads": len(one.heads),
                **as_cells(resamples.interval(values)), "n": resamples.n, "moved": one.moved,
                **as_cells(resamples.interval(gained), CHANGE),
                **(dict.fromkeys(CLOSED) if share is None else as_cells(share, CLOSED)), "reason": reason or None,
                **_over_random(metric, values, controls.get(one.name), resamples),
            })
    return rows


def _over_random(
    metric: str, values: np.ndarray, control: Scores | None, resamples: Resamples,
) -> dict[str, float | None]:
    """What a set gains more than the random sets that are matched to it."""
    if control is None:
        return dict.fromkeys(OVER_RANDOM)
    return as_cells(resamples.interval(-loss(metric, control[metric], values)), OVER_RANDOM)


def _closed(gained: np.ndarray, gap: np.ndarray, resamples: Resamples) -> tuple[Interval | None, str]:
    """The gain as a share of the gap `[1, n]` to the real run; None and the reason where there is no clear gap."""
    distance = resamples.interval(gap)
    if not distance.low > 0:
        return None, "no share: the real run is not better than this one beyond the interval of the gap"
    gains, gaps = resamples.means(gained), resamples.means(gap)
    # a sample in which the two runs do not differ says nothing about the share of their difference
    useful = gaps > 0
    return resamples.between(float(gained.mean()) / distance.estimate, gains[useful] / gaps[useful]), ""
