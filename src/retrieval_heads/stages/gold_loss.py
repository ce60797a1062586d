"""Knock out and patch heads, and measure what it does to the loss of the gold answer, example by example.

A model that answers few questions right cannot lose many right answers. The loss of the gold answer, in nats a token,
also tells a small harm or help. Heads are knocked out (`zero`) and patched at the positions that predict the answer, on
the first test examples of the training length; the knock-out also on the same questions without their gold documents,
where heads that only fetch the answer have nothing to fetch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep
from retrieval_heads.keys import Options, RunKey, study_grid
from retrieval_heads.models.layout import Head, head_layout
from retrieval_heads.models.load import sibling_model
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    Made,
    adapter_path,
    load_run,
    make_tables,
    without_gold_documents,
)
from retrieval_heads.stages.head_sets import HeadSet, RunHeads, controls, random_controls, run_heads
from retrieval_heads.stages.knockout import sets_per_pass
from retrieval_heads.stages.patch import let_go, patched_examples, source_run

KNOCKOUT, PATCHING = "knockout_losses", "patching_losses"

CONTROLS = {"random_layer": "random", "random_group": "random_group", "random_zero": "bottom"}
"""The controls of a knock-out, and what `head_sets.controls` calls them: of the same layers, of the same key/value
groups, and of the same layers with the lowest score, which is 0 for most heads."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables `knockout_losses` and `patching_losses`; their paths, none for a profile without `gold_loss`.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    if profile.gold_loss is None:
        return []
    detect.run(profile, options)
    let_go()  # the adapters may be others than at the last call
    wanted, grid = study_grid(profile, options.task, options.seed, options.base), study_grid(profile)
    made = []
    for table, chosen, function in ((KNOCKOUT, knocked_out, knock_out_run), (PATCHING, patched, patch_run)):
        made += make_tables(profile, (table,), chosen(profile, wanted), function, grid=chosen(profile, grid),
                            description=table.replace("_", " "))
    return made


def knocked_out(profile: Profile, keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are knocked out of."""
    return [key for key in keys if profile.gold_loss and key.condition in profile.gold_loss.conditions]


def patched(profile: Profile, keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are patched into: the same without the real ones, which are the sources."""
    return [key for key in knocked_out(profile, keys) if key.condition != REFERENCE]


def knock_out_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Every set of heads out of one run, with the gold document and without it."""
    heads, examples = run_heads(profile, key), patched_examples(profile, key.task, profile.gold_loss.n)
    model, tokenizer = load_run(profile, key, device)
    layout = head_layout(model)
    sets = [HeadSet("none", ())]
    for k in profile.gold_loss.k:
        top = heads.top(k)
        sets.append(HeadSet("retrieval", tuple(sorted(top))))
        for name, kind in CONTROLS.items():
            found = controls(kind, top, heads, layout.n_heads // layout.n_kv_heads, profile.gold_loss.draws,
                             f"{key.name}|gold_loss")
            sets += [HeadSet(name, one.heads, one.draw) for one in found]
    bare = without_gold_documents(profile, key.task, profile.train_length)
    losses, without = (
        _by_set(knockout_sweep(model, tokenizer, each, _named(sets), sets_per_pass=sets_per_pass(device)))
        for each in (examples, bare)
    )
    return Made({KNOCKOUT: _rows(key, sets, losses, without)}, seeds=(HELD_OUT_SEED,), used=len(examples))


def patch_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Heads of the real run of the same seed and base model into one run: its strongest, random ones, and all."""
    real = key.to(REFERENCE)
    source_heads, own = run_heads(profile, real), run_heads(profile, key)
    source, tokenizer, answers = source_run(profile, real, device, profile.gold_loss.n)
    target = sibling_model(source, adapter_path(profile, key))
    sets = patching_sets(source_heads, own, profile.gold_loss.k, profile.gold_loss.draws, key.name)
    examples = patched_examples(profile, key.task, profile.gold_loss.n)
    losses = _by_set(patch_sweep(target, source, tokenizer, examples, _named(sets), answers=answers))
    rows = _rows(key, sets, losses)
    itself = HeadSet("source", ())
    rows += _rows(key, [itself], _by_set(
        {"set": itself.label, "example": index, **answer.metrics} for index, answer in enumerate(answers)))
    return Made({PATCHING: rows}, seeds=(HELD_OUT_SEED,), used=len(answers))


def patching_sets(source: RunHeads, target: RunHeads, counts: Sequence[int], draws: int, where: str) -> list[HeadSet]:
    """No heads, all, the strongest ones of the source, and random ones of their layers outside both runs' heads."""
    shape = source.scores.shape
    every: tuple[Head, ...] = tuple((layer, head) for layer in range(shape[0]) for head in range(shape[1]))
    sets = [HeadSet("none", ()), HeadSet("all", every)]
    for k in counts:
        top = source.top(k)
        sets.append(HeadSet("retrieval", tuple(sorted(top))))
        sets += random_controls("random_layer", top, shape, {*source.retrieval, *target.retrieval}, draws,
                                f"{where}|gold_loss|patch")
    return sets


def _named(sets: Iterable[HeadSet]) -> dict[str, tuple[Head, ...]]:
    return {one.label: one.heads for one in sets}


def _by_set(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The losses of each set by example, from the rows of a sweep."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["set"], {})[row["example"]] = row["nll"]
    return {label: {index: float(f"{loss:.5g}") for index, loss in losses.items()} for label, losses in found.items()}


def _rows(
    key: RunKey, sets: Iterable[HeadSet], losses: Mapping[str, Mapping[int, float]],
    without: Mapping[str, Mapping[int, float]] | None = None,
) -> list[dict[str, Any]]:
    """One row per set and example."""
    return [
        {**key.columns, "set": one.name, "k": len(one.heads), "draw": one.draw, "example": index, "nll": loss,
         **({} if without is None else {"nll_without": without[one.label][index]})}
        for one in sets for index, loss in losses[one.label].items()
    ]
