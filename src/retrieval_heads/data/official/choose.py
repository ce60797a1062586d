"""The split of a task's records by what can be made of them at the wanted lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.split import Split, split
from retrieval_heads.data.official.usable import UnusableRecordError

Room = Callable[[Source, frozenset[str]], None]
"""Raises `UnusableRecordError` for a record that has no example at the wanted lengths, given keys of texts that are
kept out of its haystack; see `check_room`."""


def choose(
    sources: Sequence[Source], room: Room, *, train: int, probe: int, test: int, seed: int,
    dropped: Counter[str] | None = None,
) -> Split:
    """Split records so that each has enough other documents even without the gold documents of the other side.

    Which those are follows from the split. So a record whose haystack they leave too small is given up, and the records
    are split again without it.

    Args and errors: as `split`; `dropped` counts by reason.
    """
    known: dict[str, UnusableRecordError | None] = {}

    def check(source: Source) -> None:
        if source.id not in known:
            known[source.id] = _problem(room, source, frozenset())
        if known[source.id] is not None:
            raise known[source.id]

    while True:
        refused: Counter[str] = Counter()
        parts = split(sources, train=train, probe=probe, test=test, seed=seed, check=check, dropped=refused)
        crowded = {
            source.id: problem for training, members in (
                (True, [*parts.train, *parts.limited]), (False, [*parts.probe, *parts.test]),
            ) for source in members if (problem := _problem(room, source, parts.kept_away(training))) is not None
        }
        if not crowded:
            if dropped is not None:
                dropped.update(refused)
            return parts
        known.update(crowded)


def _problem(room: Room, source: Source, apart: frozenset[str]) -> UnusableRecordError | None:
    try:
        room(source, apart)
    except UnusableRecordError as error:
        return error
    return None
