"""Where gold documents stand in a haystack: depth 0 is before all other documents, depth 1 behind them.

Depth is measured in tokens: the share of the other documents' tokens that come before the gold one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

from retrieval_heads.errors import ConfigError

DEPTHS = tuple(step / 10 for step in range(11))
"""The depths that are used unless others are asked for."""


def check_depths(depths: Sequence[float]) -> tuple[float, ...]:
    """The depths as floats; `ConfigError` unless there is one and each lies in [0, 1]."""
    if not depths or not all(isinstance(depth, int | float) and 0 <= depth <= 1 for depth in depths):
        raise ConfigError(
            "depths are fractions of the haystack", where="depths", value=list(depths),
            remedy="Give one or more numbers from 0 (first) to 1 (last).",
        )
    return tuple(float(depth) for depth in depths)


def spread(depths: Sequence[float], counts: Sequence[int], seed: int | str = 0) -> list[tuple[float, ...]]:
    """Depths for examples in turn: `counts[i]` of them for the gold documents of example `i`.

    The list of depths is dealt again and again, each time in another seeded order, so that over many examples each
    depth is used equally often (to within one) and in changing company.

    Raises:
        ConfigError: see `check_depths`.
    """
    dealt = _deal(check_depths(depths), random.Random(f"depths:{seed}"))
    return [tuple(islice(dealt, count)) for count in counts]


def _deal(depths: tuple[float, ...], rng: random.Random) -> Iterator[float]:
    while True:
        yield from rng.sample(depths, len(depths))


def arrange(tokens: Sequence[int], depths: Sequence[float]) -> tuple[list[int], list[float]]:
    """How many of the other documents come before each gold one so that it is nearest to its depth.

    Args:
        tokens: of the other documents, in their order.
        depths: asked for each gold document.

    Returns:
        The number of documents before each gold one, and the depth reached; 0 where there is no other document.
    """
    before = [0, *accumulate(tokens)]
    total = before[-1]
    slots = [min(range(len(before)), key=lambda slot: abs(before[slot] - depth * total)) for depth in depths]
    return slots, [before[slot] / total if total else 0.0 for slot in slots]
