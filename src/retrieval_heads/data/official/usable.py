"""Records that are sound but cannot become an example: raised by default, or left out and counted by reason."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

from retrieval_heads.errors import ConfigError, DataError

OnUnusable = Literal["raise", "drop"]
T = TypeVar("T")
R = TypeVar("R")


class UnusableRecordError(DataError):
    """A record in the right format from which no example can be made; `reason` is the same for all of its kind."""

    def __init__(self, reason: str, *, where: object = None, value: object = None, remedy: str = "") -> None:
        remedy = remedy or "Give on_unusable='drop' to leave such records out; they are counted by reason."
        super().__init__(reason, where=where, value=value, remedy=remedy)
        self.reason = reason


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError("unknown choice", where=name, value=value, remedy=f"Give one of {', '.join(choices)}.")


def built(
    items: Iterable[T], build: Callable[[T], R], on_unusable: OnUnusable, dropped: Counter[str] | None,
) -> Iterator[R]:
    """Make an example, or whatever `build` makes, of each item, one at a time.

    Args:
        items: records, or whatever `build` takes.
        build: makes the example, or raises `UnusableRecordError`.
        on_unusable: `raise` lets that error out; `drop` leaves the item out.
        dropped: counts what was left out by reason; without it a warning tells the counts.

    Raises:
        UnusableRecordError: see `on_unusable`.
        DataError: nothing is left.
    """
    count = 0
    reasons: Counter[str] = Counter()
    for item in items:
        try:
            example = build(item)
        except UnusableRecordError as error:
            if on_unusable == "raise":
                raise
            reasons[error.reason] += 1
            last = error
            continue
        count += 1
        yield example
    if reasons and not count:
        raise DataError(
            f"no record is usable: {told(reasons)}", where=last.where, value=last.value,
            remedy="Mend the file or the arguments.",
        )
    if dropped is not None:
        dropped.update(reasons)
    elif reasons:
        total = reasons.total()
        warnings.warn(f"left out {total} of {total + count} records: {told(reasons)}", stacklevel=3)


def told(reasons: Counter[str]) -> str:
    """Counts by reason in words."""
    return "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
