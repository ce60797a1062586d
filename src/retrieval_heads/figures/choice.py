"""What a figure of a large study shows, so that it can be read: some conditions, and tables by condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.figures.style import BASE_CONDITIONS, in_order

MANY_RUNS = 40
"""With more runs than this, a table has one row per condition and not one row per run."""

MOST_LINES = 8
"""With more conditions than this, a figure with a line for each shows the chosen ones only."""


def few(conditions: Iterable[str], chosen: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """The conditions in order where there are at most so many, else those of them that are among the chosen ones."""
    order = in_order(conditions)
    return order if len(order) <= most else [name for name in order if name in chosen]


def group(condition: str) -> int:
    """Which group a condition is in: 0 untrained, 1 real, 2 synthetic, 3 mixtures, 4 controls, 5 sizes."""
    known = CONDITIONS.get(condition)
    if condition in BASE_CONDITIONS or known is None:
        return 0 if condition in BASE_CONDITIONS else 5
    if known.sized:
        return 5
    if known.control:
        return 4
    return 3 if len(known.members) > 1 else 2 if known.synthetic else 1


def breaks(order: Sequence[str]) -> list[float]:
    """Places between two rows where another group begins."""
    return [place - 0.5 for place in range(1, len(order)) if group(order[place]) != group(order[place - 1])]


def has_sizes(conditions: Iterable[str]) -> bool:
    """Whether some of the conditions differ from another in the number of examples only."""
    return any(name in CONDITIONS and CONDITIONS[name].sized for name in conditions)
