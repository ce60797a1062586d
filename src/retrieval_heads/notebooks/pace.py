"""How long a study has still to go: by what each chapter usually takes, and how fast this machine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrieval_heads.notebooks.status import duration

USUAL = {
    "00_base_model": 45.0, "01_data_synthesis": 20.0, "02_lora_finetuning": 170.0, "03_head_detection": 60.0,
    "04_knockout": 40.0, "05_patching": 60.0, "06_correlation": 20.0, "07_verdicts": 20.0, "08_costs": 20.0,
    "09_bring_your_own": 130.0, "10_pretrained": 20.0,
}
"""Seconds of each chapter with the profile `quick` on a slow machine of two cores; their ratios are what counts."""

BUILD = 25.0
"""The same of building the book."""

OTHER = 30.0
"""The same of a chapter that is not listed."""


class Pace:
    """The expected seconds of the chapters that are left.

    Args:
        chapters: in the order in which they are run.
        earlier: seconds that some took in an earlier run with the same profile; usual ones otherwise.
    """

    def __init__(self, chapters: Sequence[str], earlier: Mapping[str, float] | None = None) -> None:
        self._left = {name: (earlier or {}).get(name) or USUAL.get(name, OTHER) for name in chapters}
        self._spent = self._expected = 0.0

    def done(self, chapter: str, seconds: float) -> None:
        """Note that a chapter is done."""
        self._spent += seconds
        self._expected += self._left.pop(chapter)

    def left(self, running: str | None = None, seconds: float = 0.0) -> float:
        """Seconds to go, with `running` under way for so many; the book is built at the end."""
        speed = self._spent / self._expected if self._expected else 1.0
        waits = {name: speed * usual for name, usual in self._left.items()}
        if running in waits:
            waits[running] = max(0.0, waits[running] - seconds)
        return sum(waits.values()) + speed * BUILD

    def text(self, running: str | None = None, seconds: float = 0.0) -> str:
        """The same for a line of progress."""
        return f"about {duration(self.left(running, seconds))} left"
