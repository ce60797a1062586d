"""Ways to solve the examples of a file without reading what they are meant to have read.

Needles at one place (`places`), an answer that stands elsewhere too, a haystack that repeats itself so that the needle
is what is different, and a question that quotes the needle so that the same words are all that has to be found.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from retrieval_heads.check.lines import Lines
from retrieval_heads.check.places import Places, haystack_end
from retrieval_heads.data.example import Example, task_of

OFTEN = 0.25
"""Share of the examples whose answer stands outside their needles, too, from which on it is a warning."""

REPEATED = 0.5
"""Share of a haystack's sentences that are repeats, from which on the needle is found by being different."""

QUOTED_WORDS, QUOTED_SHARE = 4, 0.6
"""A question quotes a needle by so many of its words in a row, and by so large a share of them."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass
class Shortcuts:
    """Counts over the examples of a file that have needles.

    Attributes:
        n: number of examples.
        places: where their needles stand.
        outside: examples whose answer stands in the text before the question outside the needles, too.
        in_question: examples whose question holds the answer.
        quoting: examples whose question quotes a needle.
        repeats: of each example, the share of sentences outside the needles that stand there for the second time.
    """

    n: int = 0
    places: Places = field(default_factory=Places)
    outside: Lines = field(default_factory=Lines)
    in_question: Lines = field(default_factory=Lines)
    quoting: Lines = field(default_factory=Lines)
    repeats: array = field(default_factory=lambda: array("f"))

    def add(self, example: Example) -> None:
        """Count one more example; one without needles is passed over."""
        if not example.needles:
            return
        self.n += 1
        line, end = example.meta.get("line", self.n), haystack_end(example)
        self.places.add(example)
        rest, question = "\n".join(_around(example, end)), example.prompt[end:]
        if not task_of(example.task).cites:  # numbers of documents, which no needle holds
            answer = re.compile(rf"(?<!\w){re.escape(example.answer)}(?!\w)", re.IGNORECASE)
            for text, found in ((rest, self.outside), (question, self.in_question)):
                if answer.search(text):
                    found.add(line)
        if any(quotes(question, needle) for needle in example.needle_texts()):
            self.quoting.add(line)
        sentences = [one.strip() for one in _SENTENCE_END.split(rest)]
        sentences = [one for one in sentences if len(_WORD.findall(one)) > 2]
        self.repeats.append(1 - len(set(sentences)) / len(sentences) if sentences else 0.0)

    def warnings(self) -> list[str]:
        """What makes the task solvable without reading; one sentence each."""
        found = []
        if place := self.places.one_place():
            found.append(f"{place}: whoever reads that place alone solves them, whatever is asked")
        if self.outside.count >= max(1, OFTEN * self.n):
            found.append(f"{self._of(self.outside)} have the answer outside their needles, too: a head that copies it "
                         f"from there scores 0, and the needle need not be read ({self.outside.text()})")
        if self.in_question.count:
            found.append(f"{self._of(self.in_question)} have the answer in the question: nothing else need be read "
                         f"({self.in_question.text()})")
        if self.repeats and median(self.repeats) >= REPEATED:
            found.append(f"haystacks repeat themselves: {median(self.repeats):.0%} of the sentences of one (median) "
                         "stood in it before, so a needle is found by being different")
        if self.quoting.count > self.n / 2:
            found.append(f"{self._of(self.quoting)} have a question that quotes a needle, {QUOTED_WORDS} words or more "
                         f"in a row: it is found by the same words ({self.quoting.text()})")
        return found

    def _of(self, lines: Lines) -> str:
        return f"{lines.count} of {self.n} examples"

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "needle_places": self.places.as_json(), "answer_outside_needles": self.outside.count,
            "answer_in_question": self.in_question.count, "question_quotes_needle": self.quoting.count,
            "haystack_repeats": round(median(self.repeats), 4) if self.repeats else None,
        }


def quotes(question: str, needle: str) -> bool:
    """Whether a needle holds so many of the question's words in a row that the two can be matched word by word."""
    words = _WORD.findall(question.casefold())
    for label in ("question", "answer"):  # of the layout: `Question: ...\\nAnswer:`
        words = [one for place, one in enumerate(words) if one != label or place not in (0, len(words) - 1)]
    size = max(QUOTED_WORDS, -int(-QUOTED_SHARE * len(words) // 1))
    held = f" {' '.join(_WORD.findall(needle.casefold()))} "
    return any(f" {' '.join(words[start : start + size])} " in held for start in range(len(words) - size + 1))


def _around(example: Example, end: int) -> Iterator[str]:
    """The pieces of the text before the question that lie between the needles."""
    start = 0
    for first, last in example.needles:
        yield example.prompt[start:min(first, end)]
        start = last
    yield example.prompt[start:end]
