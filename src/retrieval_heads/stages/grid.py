"""The whole grid of a study on GPUs: every run goes through all its stages in one piece.

A worker takes one run from its fine-tuning to its patches, so that no run waits for the slowest of another stage, and
what is written when a machine vanishes is whole for its runs. Runs are ordered by seed, so that an interrupted grid is
a complete one of fewer seeds; the real runs of a seed come first, as the others are patched from them. The same command
goes on later, also on another machine to which the parts were brought.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from retrieval_heads import paths
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.keys import Options, RunKey, lock_path
from retrieval_heads.locks import POLL, locked
from retrieval_heads.manifest import read_manifest
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import base, correlate, detect, finetune, gold_loss, knockout, patch
from retrieval_heads.stages.common import EVERYTHING, UNTUNED, adapter_path, runs_of, untuned_keys
from retrieval_heads.stages.provide import Compute, make_part, share_out
from retrieval_heads.store import Store, find_committed, load_table
from retrieval_heads.wording import plural
from retrieval_heads.workers import current_cluster

PILOT = "pilot"
"""The table of what runs took in a trial."""

LOOKS = 25
"""So many looks in a row without a process that is at the real run, and it is taken to have failed."""


@dataclass(frozen=True)
class Step:
    """One stage of one run: its name, the tables that it makes rows for, and the function that does."""

    name: str
    tables: tuple[str, ...]
    function: Compute
    after_real: bool = False


FINETUNE = Step("finetune", finetune.TABLES, finetune.train_and_test)
DETECT = Step("detect", detect.TABLES, detect.scores_of_run)
KNOCKOUT = Step("knockout", knockout.TABLES, knockout.knock_out_run)
PATCH = Step("patch", ("patching",), patch.patch_run, after_real=True)
KNOCKOUT_LOSSES = Step("gold_loss", (gold_loss.KNOCKOUT,), gold_loss.knock_out_run)
PATCHING_LOSSES = Step("gold_loss", (gold_loss.PATCHING,), gold_loss.patch_run, after_real=True)
LENGTHS = Step("lengths", ("lengths",), finetune.score_lengths)
BASE = Step("base", base.TABLES, base.score_control)


def run(profile: Profile, options: Options = EVERYTHING, seconds: float | None = None) -> list[Path]:
    """Make the tables of all runs; their paths. Nothing is begun after so many `seconds`, and then there are none."""
    ends = None if seconds is None else time.time() + seconds
    store, keys = Store(profile), [*untuned_keys(profile, options), *ordered(runs_of(profile, options))]
    todo = [key for key in keys if unfinished(store, key)]
    if todo:
        store.prepare(todo)
        for keys in waves(todo):
            share_out(partial(run_steps, store, ends), keys, profile, resolve_device(profile.device), "runs")
    return [] if _over(ends) else merge(profile)


def merge(profile: Profile) -> list[Path]:
    """Put together whatever parts are there, also those brought from other machines, and what follows from them.

    The paths of the tables; `ResultError` for parts of other settings, or where nothing is there.
    """
    store = Store(profile)
    parts: dict[str, list[RunKey]] = {}
    for key in [*untuned_keys(profile), *runs_of(profile)]:
        for step in steps(profile, key):
            for table in step.tables:
                parts.setdefault(table, []).append(key)
    with store.merging():
        if profile.gold_loss is not None:  # these runs come in parts, and what is there is told before all are
            parts = {table: wanted for table, wanted in parts.items() if len(store.todo(table, wanted)) < len(wanted)}
        made = [store.merge(table, wanted, partial=True) for table, wanted in parts.items()]
    return made if profile.gold_loss is not None else [*made, finetune.derive(profile), *correlate.derive(profile)]


def ordered(keys: Iterable[RunKey]) -> list[RunKey]:
    """Seed after seed, the real runs of each first; other sizes after all."""
    return sorted(keys, key=lambda key: (kind_of(key.condition).sized, key.seed, key.condition != REFERENCE))


def waves(keys: list[RunKey]) -> list[list[RunKey]]:
    """What is sent out at once: all, and for a cluster the real runs before the others.

    When a worker is lost, its real run may be queued behind one that waits for it, on the same worker.
    """
    if current_cluster() is None:
        return [keys]
    parts = ([key for key in keys if (key.condition == REFERENCE) is real] for real in (True, False))
    return [part for part in parts if part]


def steps(profile: Profile, key: RunKey) -> list[Step]:
    """What is done with a run. Controls and the sizes of the sweep are trained, tested and scored, and no more."""
    detection = DETECT if profile.gold_loss is None else replace(DETECT, tables=detect.tables(profile))
    if key.condition in UNTUNED:
        found = [BASE, detection]
    else:
        found = [FINETUNE, detection]
        if profile.gold_loss is not None:
            found += [KNOCKOUT_LOSSES] * bool(gold_loss.knocked_out(profile, [key]))
            found += [PATCHING_LOSSES] * bool(gold_loss.patched(profile, [key]))
        elif kind_of(key.condition).dissected:
            found += [KNOCKOUT] + ([PATCH] if key.condition != REFERENCE else [])
    return found + ([LENGTHS] if finetune.at_lengths(profile, [key]) else [])


def unfinished(store: Store, key: RunKey) -> list[Step]:
    """The steps of a run that are still to do.

    All of them where an adapter is needed that is not here: parts may have been brought from another machine without
    it, and one run's rows must not come from two adapters. The adapter of a real run is needed while there are runs to
    be patched from it.
    """
    every = steps(store.profile, key)
    left = [step for step in every if any(store.todo(table, [key]) for table in step.tables)]
    if key.condition in UNTUNED or adapter_path(store.profile, key).is_dir():
        return left
    return every if left or (key.condition == REFERENCE and _to_be_patched(store, key)) else []


def _to_be_patched(store: Store, real: RunKey) -> list[RunKey]:
    """The runs of a real run's task, seed and base model that have not been patched from it."""
    others = [real.to(name) for name in store.profile.conditions]
    if store.profile.gold_loss is not None:
        return store.todo(gold_loss.PATCHING, gold_loss.patched(store.profile, others))
    return store.todo("patching", patch.targets(others))


def run_steps(store: Store, ends: float | None, key: RunKey, device: str, *, wait: bool) -> bool:
    """Take one run through what is left of its steps; stop where time is over.

    False where another process is at the run, with `wait` until time was over.
    """
    seconds = 0 if not wait else None if ends is None else max(0, ends - time.time())
    with locked(lock_path(key.profile, key), seconds, what=str(key)) as held:
        if held:
            _run_steps(store, ends, key, device)
        return held


def _run_steps(store: Store, ends: float | None, key: RunKey, device: str) -> None:
    todo = unfinished(store, key)
    for table in (table for step in todo for table in step.tables):
        store.forget(table, key)  # rows of an adapter that is gone, which another run must not take for those of this
    for step in todo:
        if step.after_real:
            _await_real(store, ends, key.to(REFERENCE))
        if _over(ends):
            return
        make_part(store, step.tables, step.function, key, device)
        if device.startswith("cuda"):
            torch.cuda.empty_cache()  # what one step keeps would be missing to the other workers of this GPU


def _await_real(store: Store, ends: float | None, real: RunKey) -> None:
    """Wait until a real run is trained and scored, or time is over; `ResultError` where it has failed."""
    looks = 0
    def ready() -> bool:
        """Whether the real run is trained and scored, and its adapter here."""
        scored = all(store.done(table, real) for table in DETECT.tables)
        return scored and adapter_path(store.profile, real).is_dir()

    while not ready() and not _over(ends):
        # real runs are begun first; but one may be between its end and the next look at what it wrote
        with locked(lock_path(real.profile, real), seconds=0) as free:
            looks = looks + 1 if free else 0
        if looks > LOOKS:
            raise ResultError("the real run that this one is patched from is not finished", where=str(real),
                              remedy="Fix what stopped it, and give the same command again.")
        time.sleep(POLL)


def _over(ends: float | None) -> bool:
    return ends is not None and time.time() > ends


def plan(profile: Profile, options: Options = EVERYTHING) -> list[str]:
    """Lines that say how many runs and steps there are, how many are left here, and what was measured of their cost."""
    runs, controls, store = runs_of(profile, options), untuned_keys(profile, options), Store(profile)
    left = {key: unfinished(store, key) for key in [*controls, *runs]}
    trained = [key for key in runs if FINETUNE in left[key]]
    counts = {name: len({getattr(key, name) for key in runs}) for name in ("task", "condition", "seed", "base")}
    sizes = " x ".join(plural(n, name) for name, n in counts.items())
    return [
        f"{len(runs)} runs: {sizes}; {len(controls)} measurements of untrained models",
        f"left here: {len(trained)} to be trained, {sum(map(len, left.values()))} steps in all (steps are training "
        "with test, detection, knock-out, patching, other lengths)",
        *shipped(profile),
        *measured_costs(profile, len(trained)),
    ]


def shipped(profile: Profile) -> list[str]:
    """That results of earlier runs come with the repository, and how the grid goes on from them; nothing without."""
    archive = paths.results_folder(profile.name) / "parts.tar.xz"
    made = read_manifest(archive.with_name("performance.json"))
    if made is None or not archive.is_file():
        return []
    return [f"results of {made['parts']} trained runs come with the repository: to add to them, unpack "
            f"{paths.shown(archive)} first (CONTRIBUTING.md says how)"]


def measured_costs(profile: Profile, n_runs: int) -> list[str]:
    """What training and scoring took in the pilot of the profile, and the benchmark's floor; where known."""
    if find_committed(profile.name, PILOT) is None:
        return ["no cost was measured for this profile: `python -m retrieval_heads costs` tries it"]
    rows = load_table(profile.name, PILOT)
    rows = rows[(rows.accumulation == profile.lora.accumulation) & (rows.lr == profile.lora.lr)
                & (rows.task == profile.tasks[0])]
    if rows.empty:
        return ["the pilot did not try these settings of the fine-tuning"]
    row, sequences = rows.iloc[0], profile.n_train * profile.lora.epochs
    scoring = row.score_seconds * profile.n_test / row.n
    each, made = row.train_seconds + scoring, read_manifest(paths.results_folder(profile.name) / f"{PILOT}.json")
    device = made["device"] if made else "device that is not recorded"
    lines = [
        f"training: {row.train_seconds:.0f} s per run in the pilot, alone on one {device} "
        f"({1000 * row.train_seconds / sequences:.0f} ms per sequence of {profile.train_length:,} tokens)",
        f"scoring: {scoring:.0f} s per run for {profile.n_test} test examples ({row.score_seconds:.0f} s for {row.n})",
        f"together {n_runs} x {each:.0f} s = {n_runs * each / 3600:.1f} hours, without detection, knock-out and "
        "patching, which the pilot did not time",
    ]
    path = paths.results_folder("benchmarks") / "pretrained.csv"
    if not path.is_file():
        return [*lines, "floor: not measured yet (`python benchmarks/pretrained.py --help`)"]
    floors = pd.read_csv(path)
    if floors.empty:
        raise StudyError("the table has no rows", where=paths.shown(path), remedy="Make it again.")
    return [*lines, "benchmark (seconds, and the least that each can take):",
            *floors.to_string(index=False).splitlines()]
