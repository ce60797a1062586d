"""Knock out and patch heads, and measure what it does to the loss of the gold answer, example by example.

A model that answers few questions right cannot lose many right answers. The loss of the gold answer, in nats per token,
also tells a small harm or help. Heads are knocked out (`zero`) and patched at the positions that predict the answer, on
the first test examples of the training length; the knock-out also on the same questions without their gold documents,
where heads that only fetch the answer have nothing to fetch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval_heads.heads.sweeps import knockout_sweep
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING, load_run, runs_of, without_gold_documents
from retrieval_heads.stages.head_sets import NONE, HeadSet, RunHeads, by_label, controls, run_heads
from retrieval_heads.stages.knockout import group_size, knockout_sets, sets_per_pass
from retrieval_heads.stages.patch import SOURCE, let_go, patched_examples, swept
from retrieval_heads.stages.provide import Made, make_tables

KNOCKOUT, PATCHING = "knockout_losses", "patching_losses"

CONTROLS = {"random": "random_layer", "random_group": "random_group", "bottom": "random_zero"}
"""What the controls of a knock-out (`head_sets.CONTROLS`) are called in the tables: of the same layers, of the same
key/value groups, and of the same layers with the lowest score, which is 0 for most heads."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables `knockout_losses` and `patching_losses`; their paths, none for a profile without `gold_loss`."""
    if profile.gold_loss is None:
        return []
    detect.run(profile, options)
    let_go()  # the adapters may be others than at the last call
    made = []
    for table, chosen, function in ((KNOCKOUT, knocked_out, knock_out_run), (PATCHING, patched, patch_run)):
        wanted, grid = chosen(profile, runs_of(profile, options)), chosen(profile, runs_of(profile))
        made += make_tables(profile, (table,), function, wanted, grid, description=table.replace("_", " "))
    return made


def knocked_out(profile: Profile, keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are knocked out of."""
    return [key for key in keys if profile.gold_loss and key.condition in profile.gold_loss.conditions]


def patched(profile: Profile, keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are patched into: the same without the real ones, which are the sources."""
    return [key for key in knocked_out(profile, keys) if key.condition != REFERENCE]


def knock_out_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Every set of heads out of one run, with the gold document and without it."""
    settings, (model, tokenizer) = profile.gold_loss, load_run(profile, key, device)
    sets = [NONE, *knockout_sets(run_heads(profile, key), settings.k, settings.draws, f"{key.name}|gold_loss",
                                 group_size(model))]
    examples = patched_examples(profile, key.task, settings.n)
    bare = without_gold_documents(profile, key.task, profile.train_length)
    losses, without = (
        _by_set(knockout_sweep(model, tokenizer, each, by_label(sets), sets_per_pass=sets_per_pass(device)))
        for each in (examples, bare)
    )
    return Made({KNOCKOUT: _rows(key, sets, losses, without)}, used=len(examples))


def patch_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Heads of the real run of the same seed and base model into one run: its strongest, random ones, and all."""
    settings = profile.gold_loss
    heads = run_heads(profile, key.to(REFERENCE)), run_heads(profile, key)
    sets = patching_sets(*heads, settings.k, settings.draws, key.name)
    found, answers = swept(profile, key, device, settings.n, sets)
    own = [{"set": SOURCE.label, "example": index, **answer.metrics} for index, answer in enumerate(answers)]
    rows = _rows(key, [*sets, SOURCE], _by_set([*found, *own]))
    return Made({PATCHING: rows}, used=len(answers))


def patching_sets(source: RunHeads, target: RunHeads, counts: Sequence[int], draws: int, where: str) -> list[HeadSet]:
    """No heads, all, the strongest ones of the source, and random ones of their layers outside both runs' heads."""
    sets, barred = [NONE, HeadSet("all", tuple(source.every))], {*source.retrieval, *target.retrieval}
    for k in counts:
        top = source.top(k)
        sets.append(HeadSet("retrieval", tuple(sorted(top))))
        sets += controls("random_layer", top, source, barred, draws, f"{where}|gold_loss|patch")
    return sets


def _by_set(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The losses of each set by example, from the rows of a sweep."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["set"], {})[row["example"]] = float(f"{row['nll']:.5g}")
    return found


def _rows(
    key: RunKey, sets: Iterable[HeadSet], losses: Mapping[str, Mapping[int, float]],
    without: Mapping[str, Mapping[int, float]] | None = None,
) -> list[dict[str, Any]]:
    """One row per set and example."""
    return [
        {**key.columns, "set": CONTROLS.get(one.name, one.name), "k": len(one.heads), "draw": one.draw,
         "example": index, "nll": loss,
         **({} if without is None else {"nll_without": without[one.label][index]})}
        for one in sets for index, loss in losses[one.label].items()
    ]
