"""Parts of tables, each computed by one process, also where several commands work on one study at a time.

Two commands on the same study share its work: each takes the parts that nobody is at, then waits for those of the other
one. What is made by then is read and not made again, so both end with the same tables. When one of them ends before its
time, the other one makes what it was at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from retrieval_heads.keys import lock_path
from retrieval_heads.locks import locked
from retrieval_heads.manifest import Facts, device_name
from retrieval_heads.parallel import run_all
from retrieval_heads.settings import Profile
from retrieval_heads.store import Part, Store


@dataclass(frozen=True)
class Made:
    """One computed part.

    Attributes:
        rows: the rows of each table.
        seeds: every seed that was used; by default that of the held-out examples.
        used: number of examples that the rows are computed from.
        dropped: number of examples left out, by reason.
    """

    rows: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]]
    seeds: tuple[int, ...] = (0,)
    used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


def share_out(
    make: Callable[..., bool], parts: Sequence[Part], profile: Profile, device: str, description: str,
) -> None:
    """Have parts made, and where other commands are at some of them, leave these for last and then wait for them.

    Args:
        make: called with a part, a device and `wait`; whether the part is there now, and not with another process.
    """
    for wait in (False, True):
        if parts:
            made = run_all(partial(make, wait=wait), parts, profile.workers, device, threads=profile.threads,
                           description=description)
            parts = [part for part, there in zip(parts, made, strict=True) if not there]


def make_part_once(
    store: Store, tables: tuple[str, ...], function: Callable[[Profile, Any, str], Made],
    ready: Callable[[Any], bool] | None, part: Part, device: str, *, wait: bool,
) -> bool:
    """Compute one part, unless another process is at it, or has made it in the meantime; False where it still is."""
    with locked(lock_path(store.profile.name, part), None if wait else 0, what=str(part)) as held:
        if held and (any(store.todo(table, [part]) for table in tables) or (ready is not None and not ready(part))):
            make_part(store, tables, function, part, device)
        return held


def make_part(
    store: Store, tables: tuple[str, ...], function: Callable[[Profile, Any, str], Made], part: Part, device: str,
) -> None:
    """Compute one part and write its rows of each table."""
    start = time.perf_counter()
    made = function(store.profile, part, device)
    facts = Facts(time.perf_counter() - start, device_name(device), made.seeds, made.used, made.dropped)
    for table in tables:
        store.write_part(table, part, made.rows[table], facts)
