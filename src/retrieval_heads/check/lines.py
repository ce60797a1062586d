"""Which lines of a file something is said of: how many, and the first of them."""

from __future__ import annotations

from dataclasses import dataclass, field

KEPT = 5
"""Lines that are named; the others are counted."""


@dataclass
class Lines:
    """How many lines, and the numbers of the first `KEPT`."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(line)

    def text(self) -> str:
        """`line 3`, or `lines 3, 7, 9, 12, 20, ...`; empty without one."""
        if not self.count:
            return ""
        more = ", ..." if self.count > len(self.first) else ""
        return f"line{'s' * (self.count > 1)} {', '.join(map(str, self.first))}{more}"
