"""The tables of a stage: whether they are at hand, and how they are made, a part at a time.

Two commands on one study share its work: each takes the parts that nobody is at, then waits for those of the other one
and reads them, so both end with the same tables. When one of them ends before its time, the other one makes its parts.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.keys import RunKey, lock_path, table_path
from retrieval_heads.locks import locked
from retrieval_heads.manifest import Facts, device_name
from retrieval_heads.parallel import resolve_device, run_all
from retrieval_heads.settings import Profile
from retrieval_heads.store import Store, find_committed, has_table
from retrieval_heads.tables import all_tables
from retrieval_heads.workers import begin_imports, current_cluster

AS_IS = "RETRIEVAL_HEADS_AS_IS"
"""While this variable is set no stage is run, as when the report's pages are made from an unfinished grid."""

WITH_LOSSES = {"head_hits"}
"""Tables that a stage makes only where the profile measures losses of the gold answer."""

SHARED_ROOMS = {"data": "base.run_data", "lengths": "finetune.run_lengths", "decide": "claims.run_decide"}
"""Stages that are not `run` of a module of their name."""


def stage_function(name: str) -> Callable[..., list[Path]]:
    """The function that makes the tables of a stage: `function(profile, options)` returns their paths."""
    module, _, function = SHARED_ROOMS.get(name, f"{name}.run").partition(".")
    return getattr(importlib.import_module(f"retrieval_heads.stages.{module}"), function)


def provide(profile: Profile, stage: str) -> None:
    """Have the tables of a stage made, unless they come with the repository, as the report's do.

    Raises:
        ResultError, ModelError: the stage cannot be run.
    """
    if not (os.environ.get(AS_IS) or comes_with_repository(profile, stage)):
        stage_function(stage)(profile)


def comes_with_repository(profile: Profile, stage: str) -> bool:
    """Whether all tables of a stage are committed and none was begun on this machine."""
    tables = _tables(profile, stage)
    begun = any(
        table_path(profile.name, name).is_file() or (paths.runs_folder(profile.name) / "parts" / name).is_dir()
        for name in tables
    )
    return bool(tables) and not begun and all(find_committed(profile.name, name) for name in tables)


def at_hand(profile: Profile, stage: str) -> bool:
    """Whether all tables of a stage can be read as they are, without computing anything."""
    return all(has_table(profile.name, name) for name in _tables(profile, stage))


def _tables(profile: Profile, stage: str) -> list[str]:
    left_out = WITH_LOSSES if profile.gold_loss is None else set()
    return [name for name, table in all_tables().items() if table.stage == stage and name not in left_out]


@dataclass(frozen=True)
class Made:
    """One computed part: the rows of each table, every seed that was used (by default that of the held-out examples),
    the number of examples that the rows are computed from, and of those left out, by reason."""

    rows: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]]
    seeds: tuple[int, ...] = (0,)
    used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


Compute = Callable[[Profile, RunKey, str], Made]
"""Computes one part on a device; importable by name, so that worker processes can call it."""


def make_tables(
    profile: Profile, tables: Sequence[str], function: Compute, parts: Sequence[RunKey], grid: Sequence[RunKey], *,
    ready: Callable[[RunKey], bool] | None = None, description: str = "runs",
) -> list[Path]:
    """Compute the parts that are not there yet, and merge the tables; their paths.

    Args:
        parts: what is wanted now.
        grid: everything that belongs to the tables: what else is there of it is merged too.
        ready: whether a part has what it leaves beside its rows; one that has not is computed again. Importable too.
        description: what stands beside the progress bar.

    Raises:
        ResultError: parts failed, or were made with other settings.
        StudyError: a base model that parts are to be made from is not there, or does not fit the others.
    """
    store = Store(profile)
    missing = {part for table in tables for part in store.todo(table, parts)}
    todo = [part for part in parts if part in missing or (ready is not None and not ready(part))]
    if todo:
        if profile.workers > 1 and len(todo) > 1 and current_cluster() is None:
            begin_imports(profile.device, profile.threads)  # beside this process's own, which come next
        store.prepare(todo)
        make = partial(make_part_once, store, tuple(tables), function, ready)
        share_out(make, todo, profile, resolve_device(profile.device), description)
    with store.merging():
        return [store.merge(table, grid, partial=len(grid) > len(parts)) for table in tables]


def share_out(
    make: Callable[..., bool], parts: Sequence[RunKey], profile: Profile, device: str, description: str,
) -> None:
    """Have parts made; where other commands are at some of them, leave these for last and then wait for them.

    `make(part, device, wait=...)` says whether the part is there now, and not with another process.
    """
    for wait in (False, True):
        if parts:
            made = run_all(partial(make, wait=wait), parts, profile.workers, device, threads=profile.threads,
                           description=description)
            parts = [part for part, there in zip(parts, made, strict=True) if not there]


def make_part_once(
    store: Store, tables: tuple[str, ...], function: Compute, ready: Callable[[RunKey], bool] | None, part: RunKey,
    device: str, *, wait: bool,
) -> bool:
    """Compute one part, unless another process has made it in the meantime, or is at it: then False."""
    with locked(lock_path(store.profile.name, part), None if wait else 0, what=str(part)) as held:
        if held and (any(store.todo(table, [part]) for table in tables) or (ready is not None and not ready(part))):
            make_part(store, tables, function, part, device)
        return held


def make_part(store: Store, tables: tuple[str, ...], function: Compute, part: RunKey, device: str) -> None:
    """Compute one part and write its rows of each table."""
    start = time.perf_counter()
    made = function(store.profile, part, device)
    facts = Facts(time.perf_counter() - start, device_name(device), made.seeds, made.used, made.dropped)
    for table in tables:
        store.write_part(table, part, made.rows[table], facts)


def write_derived(store: Store, tables: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Write tables that follow from those of all runs, within `store.merging()`; their paths."""
    for name, rows in tables.items():
        store.write_part(name, "all", rows, Facts(device="cpu", seeds=(0,)))
    return [store.merge(name, ["all"]) for name in tables]
