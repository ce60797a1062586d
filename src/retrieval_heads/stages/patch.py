"""Patch the head outputs of the run on real data into the runs on other data, at the positions that predict the answer.

Source is the real run of the same task, seed and base model, target each other run; both read the same held-out real
examples of the training length. With R the retrieval heads of the source and S those of the target, the sets are the
intersection (R and S), the complement (R without S), all heads, and random controls outside R and S that are matched by
layer to the intersection and to the complement. As the intersection is mostly the larger, its strongest heads are also
patched alone, as many as the complement has (`intersection_equal`). Beside them stand the target as it is (`none`) and
the source itself (`source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_heads.data.example import Example
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING, adapter_path, dissected, held_out, load_run, runs_of
from retrieval_heads.stages.head_sets import NONE, HeadSet, RunHeads, by_label, controls, run_heads
from retrieval_heads.stages.provide import Made, make_tables
from retrieval_heads.stages.sweeps import Resamples, Scores, as_cells, loss, mean_draws, per_example
from retrieval_heads.stats.resample import UNKNOWN, Interval

if TYPE_CHECKING:
    from torch import nn

    from retrieval_heads.heads.sweeps import SourceAnswer

SOURCE = HeadSet("source", ())

RANDOM = {"random": "intersection", "random_complement": "complement"}
"""The random controls and the sets they are matched to."""

CHANGE, CLOSED, OVER_RANDOM = (
    (name, f"{name}_low", f"{name}_high") for name in ("change", "closed", "over_random")
)


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `patching`; its path."""
    detect.run(profile, options)
    let_go()  # the adapters may be others than at the last call
    wanted, grid = targets(runs_of(profile, options)), targets(runs_of(profile))
    return make_tables(profile, ("patching",), patch_run, wanted, grid, description="patching")


def targets(keys: list[RunKey]) -> list[RunKey]:
    """The runs that are patched: all that are dissected but those on real data."""
    return [key for key in dissected(keys) if key.condition != REFERENCE]


def patch_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Every set of heads patched into one run."""
    heads = run_heads(profile, key.to(REFERENCE)), run_heads(profile, key)
    sets = [NONE, *patching_sets(*heads, profile.patch.sets, profile.patch.draws, key.name)]
    found, answers = swept(profile, key, device, profile.patch.n, sets)
    rows = patching_rows(key, patched_scores(found, answers, sets), Resamples(len(answers), profile.bootstrap))
    return Made({"patching": rows}, used=len(answers))


def swept(
    profile: Profile, key: RunKey, device: str, n: int, sets: Iterable[HeadSet],
) -> tuple[list[dict[str, Any]], list[SourceAnswer]]:
    """The rows of the sweep over sets that are patched into a run, on `n` examples, and the answers of its real run."""
    from retrieval_heads.heads.sweeps import patch_sweep
    from retrieval_heads.models.load import sibling_model

    source, tokenizer, answers = _source_run(profile, key.to(REFERENCE), device, n)
    target = sibling_model(source, adapter_path(profile, key))
    examples = patched_examples(profile, key.task, n)
    return patch_sweep(target, source, tokenizer, examples, by_label(sets), answers=answers), answers


def patched_scores(
    rows: Iterable[Mapping[str, Any]], answers: Iterable[SourceAnswer], sets: Iterable[HeadSet],
) -> dict[HeadSet, Scores]:
    """The scores of each set from the rows of a sweep, and of the source from its answers."""
    own = [{"set": SOURCE.label, "mode": "patch", **answer.metrics} for answer in answers]
    return per_example(rows, sets, "patch") | per_example(own, [SOURCE], "patch")


def patched_examples(profile: Profile, task: str, n: int) -> tuple[Example, ...]:
    """The first `n` held-out real examples of the training length, on which heads are patched."""
    return held_out(profile, task, "test", profile.train_length)[:n]


@lru_cache(maxsize=1)
def _source_run(profile: Profile, real: RunKey, device: str, n: int) -> tuple[nn.Module, Any, list[SourceAnswer]]:
    """A real run, its tokenizer and its answers, kept while the runs that are patched from it follow one another."""
    from retrieval_heads.heads.sweeps import source_answers

    source, tokenizer = load_run(profile, real, device)
    return source, tokenizer, source_answers(source, tokenizer, patched_examples(profile, real.task, n))


def let_go() -> None:
    """Forget the real run that is kept, and free its memory."""
    _source_run.cache_clear()


def patching_sets(source: RunHeads, target: RunHeads, wanted: tuple[str, ...], draws: int, where: str) -> list[HeadSet]:
    """The sets that a profile asks for; one that is empty stays in, and changes nothing.

    There is no control where too few heads are neither in R nor in S.
    """
    r, s = set(source.retrieval), set(target.retrieval)
    known = {"intersection": sorted(r & s), "complement": sorted(r - s), "all": source.every}
    sets = [HeadSet(name, tuple(known[name])) for name in known if name in wanted]
    if {"intersection", "complement"} <= set(wanted) and len(known["complement"]) < len(known["intersection"]):
        strongest = sorted(known["intersection"], key=lambda head: -source.ranks[head])[: len(known["complement"])]
        sets.append(HeadSet("intersection_equal", tuple(sorted(strongest))))
    for name, matched in RANDOM.items():
        if "random" in wanted:
            sets += controls(name, known[matched], source, r | s, draws, f"{where}|patch")
    return sets


def patching_rows(key: RunKey, scores: dict[HeadSet, Scores], resamples: Resamples) -> list[dict[str, Any]]:
    """One row per set and metric, and one for the mean of the draws of each control (draw 0)."""
    random = mean_draws(scores)
    matching = {RANDOM[one.name]: found for one, found in random.items()}
    rows = []
    for one, found in (scores | random).items():
        for metric, values in found.items():
            before, real = scores[NONE][metric], scores[SOURCE][metric]
            gained, share, over, reason = -loss(metric, before, values), UNKNOWN, UNKNOWN, None
            if one not in (NONE, SOURCE):
                share, reason = _closed(gained, -loss(metric, before, real), resamples)
            if one.name in matching:  # what a set gains more than the random sets that are matched to it
                over = resamples.interval(-loss(metric, matching[one.name][metric], values))
            rows.append({
                **key.columns, "set": one.name, "draw": one.draw, "metric": metric, "n_heads": len(one.heads),
                **as_cells(resamples.interval(values)), "n": resamples.n, "moved": one.moved,
                **as_cells(resamples.interval(gained), CHANGE),
                **as_cells(share, CLOSED), "reason": reason, **as_cells(over, OVER_RANDOM),
            })
    return rows


def _closed(gained: np.ndarray, gap: np.ndarray, resamples: Resamples) -> tuple[Interval, str | None]:
    """The gain as a share of the gap `[1, n]` to the real run; `UNKNOWN` and why where there is no clear gap."""
    distance = resamples.interval(gap)
    if not distance.low > 0:
        return UNKNOWN, "no share: the real run is not better than this one beyond the interval of the gap"
    gains, gaps = resamples.means(gained), resamples.means(gap)
    # a sample in which the two runs do not differ says nothing about the share of their difference
    useful = gaps > 0
    return resamples.between(float(gained.mean()) / distance.estimate, gains[useful] / gaps[useful]), None
