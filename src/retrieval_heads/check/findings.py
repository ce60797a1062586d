"""What was found in one file of examples, and what of it calls for a warning."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from retrieval_heads.check.lines import Lines
from retrieval_heads.check.sameness import LEAKS, REPEATS, Shared
from retrieval_heads.check.shortcuts import Shortcuts
from retrieval_heads.errors import StudyError

ODD = {
    "without_needles": "have no needle: heads cannot be scored on them",
    "answer_in_no_needle": "have an answer that none of their needles holds: heads cannot copy it whole",
    "answer_shares_no_token": "have no token of the answer in their needles: every copy score is 0",
    "prompt_ends_in_space": "have a prompt that ends in white space, before the joint's own",
    "answer_in_space": "have white space around the answer",
}
"""What can be odd about an example, by its name in `Findings.odd`."""


@dataclass
class Findings:
    """Counts over one file.

    Attributes:
        file: its path, as given.
        limits: by name, the number of tokens that an example should not exceed.
        usable: records that are examples whose needles and answer have tokens.
        broken: the other records, by reason.
        first_broken: the error of the first of them.
        tasks: usable examples by task.
        tokens: of each example, prompt and answer and end.
        answer_tokens: of each answer.
        needles: number of needles of each example.
        exceeded: examples above each limit.
        odd: examples by what of `ODD` is odd about them. `answer_in_no_needle` counts those with needles, not of the
            task `summhay`; `answer_shares_no_token` those of them without any token of the answer in the needles.
        shortcuts: ways to solve the examples without reading.
        unreadable: why the file could not be read at all; everything else is empty then.
        repeats: examples that repeat an earlier one of the file.
        leaks: by other file, examples that stand there too.
    """

    file: str
    limits: Mapping[str, int]
    usable: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    first_broken: StudyError | None = None
    tasks: Counter[str] = field(default_factory=Counter)
    tokens: array = field(default_factory=lambda: array("q"))
    answer_tokens: array = field(default_factory=lambda: array("q"))
    needles: array = field(default_factory=lambda: array("q"))
    exceeded: dict[str, Lines] = field(default_factory=dict)
    odd: dict[str, Lines] = field(default_factory=lambda: {name: Lines() for name in ODD})
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    unreadable: StudyError | None = None
    repeats: dict[str, Shared] = field(default_factory=lambda: {way: Shared() for way in REPEATS})
    leaks: dict[str, dict[str, Shared]] = field(default_factory=dict)

    @property
    def records(self) -> int:
        return self.usable + self.broken.total()

    @property
    def needles_lost(self) -> int:
        """Records that are broken because a needle was not found in the prompt, or has no token."""
        return sum(count for reason, count in self.broken.items() if "needle" in reason)

    def leaks_from(self, file: str) -> dict[str, Shared]:
        return self.leaks.setdefault(file, {way: Shared() for way in LEAKS})

    def warnings(self) -> list[str]:
        """What does not keep the file from being used, but from being trusted; one sentence each."""
        counted = (
            *((self.odd[name], what) for name, what in ODD.items()),
            *((self.exceeded.get(name, Lines()), f"are longer than {limit} tokens ({name})")
              for name, limit in self.limits.items()),
        )
        found = [f"{one.count} of {self.usable} examples {what} ({one.text()})" for one, what in counted if one.count]
        found += [f"{one.count} of {self.usable} examples repeat the {way} of an earlier one{one.lines('that of line')}"
                  for way, one in self.repeats.items() if one.count]
        found += [
            f"{one.count} of {self.usable} examples have the {way} of one in {file}{one.lines('line')}"
            for file, leaks in self.leaks.items() for way, one in leaks.items() if one.count
        ]
        return self.shortcuts.warnings() + found

    def as_json(self) -> dict[str, Any]:
        """The findings as JSON values; spreads are `min`, `median`, `max`, or None without an example."""
        error = self.first_broken or self.unreadable
        return {
            "file": self.file, "records": self.records, "usable": self.usable, "broken": dict(self.broken),
            "needles_lost": self.needles_lost, "first_broken": None if error is None else str(error),
            "tasks": dict(self.tasks), "tokens": spread(self.tokens), "answer_tokens": spread(self.answer_tokens),
            "needles": spread(self.needles),
            "longer_than": {name: {"tokens": limit, "examples": self.exceeded.get(name, Lines()).count}
                            for name, limit in self.limits.items()},
            **{name: one.count for name, one in self.odd.items()},
            "first_lines": {name: one.first for name, one in self._lines().items() if one.count},
            **self.shortcuts.as_json(), "repeats": _counts(self.repeats),
            "leaks": {file: _counts(leaks) for file, leaks in self.leaks.items()}, "warnings": self.warnings(),
        }

    def _lines(self) -> dict[str, Lines]:
        cuts = self.shortcuts
        return {**self.odd, "answer_outside_needles": cuts.outside, "answer_in_question": cuts.in_question,
                "question_quotes_needle": cuts.quoting}


def spread(values: array) -> dict[str, float] | None:
    """Least, median and greatest of some numbers; None when there are none."""
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def _counts(shared: Mapping[str, Shared]) -> dict[str, Any]:
    return {way: {"examples": one.count, "first_lines": list(one.first or [])} for way, one in shared.items()}
