"""The split of a task's records by what can be made of them at the wanted lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.split import Split, split
from retrieval_heads.data.official.usable import UnusableRecordError

Room = Callable[[Source, bool, frozenset[str]], None]
"""Raises `UnusableRecordError` for a record that has no example at the wanted lengths, those of training (True) or of
held-out examples, given keys of texts that are kept out of its haystack; see `check_room`."""


def choose(
    sources: Sequence[Source], room: Room, *, train: int, probe: int, test: int, seed: int, dev: int = 0,
    pinned: Sequence[str] = (), dropped: Counter[str] | None = None,
) -> Split:
    """Split records so that each has enough other documents even without the gold documents of the other side.

    Which those are follows from the split. So a record whose haystack they leave too small is given up, and the records
    are split again without it.

    Args and errors: as `split`; `dropped` counts by reason.
    """
    known: dict[tuple[str, bool], UnusableRecordError | None] = {}

    def check(source: Source, training: bool) -> None:
        key = (source.id, training)
        if key not in known:
            known[key] = _problem(room, source, training, frozenset())
        if known[key] is not None:
            raise known[key]

    while True:
        refused: Counter[str] = Counter()
        parts = split(sources, train=train, probe=probe, test=test, seed=seed, dev=dev, pinned=pinned, check=check,
                      dropped=refused)
        crowded = {
            (source.id, training): problem for training, members in (
                (True, [*parts.train, *parts.limited]), (False, parts.held_out),
            ) for source in members
            if (problem := _problem(room, source, training, parts.kept_away(training))) is not None
        }
        if not crowded:
            if dropped is not None:
                dropped.update(refused)
            return parts
        known.update(crowded)


def _problem(room: Room, source: Source, training: bool, apart: frozenset[str]) -> UnusableRecordError | None:
    try:
        room(source, training, apart)
    except UnusableRecordError as error:
        return error
    return None
