"""What became of a plan of written conditions, for the record and for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

RECORD = "written.json"
TOLD = 10
"""Refused texts that are told one by one."""


@dataclass
class Outcome:
    """What was made.

    Attributes:
        files: number of examples by file.
        dropped: by id why an example was left out.
        refused: by text what is wrong with it.
        distractors_dropped: number of documents of the context that were left out, by reason.
        templates: number of statements of concept `low` by the type of their question; none where no condition has it.
        quoting: how many of them quote the question.
        ids: of the examples that were made.
        not_searched: how many examples accept an answer that other documents may hold, as it is no answer's text.
    """

    files: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    distractors_dropped: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    quoting: int = 0
    ids: list[str] = field(default_factory=list)
    not_searched: dict[str, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The outcome for a reader, line by line."""
        for name, n in self.files.items():
            yield f"{name}: {n} examples"
        if self.templates:
            yield (f"low needles: {self.templates.total()} statements, {self.quoting} of which quote their question, "
                   "as no template fits it")
        for reason, n in Counter(self.dropped.values()).most_common():
            yield f"left out {n} because {reason}"
        for place, told in islice(self.refused.items(), TOLD):
            yield f"refused {place}: {told}"
        if len(self.refused) > TOLD:
            yield f"refused {len(self.refused) - TOLD} more; all are in {RECORD}"
        for reason, n in self.distractors_dropped.most_common():
            yield f"left out {n} documents of the context because {reason}"
        for answer, n in self.not_searched.items():
            yield f"not looked for elsewhere, as it is not an answer's text: {answer!r}, accepted by {n} examples"
