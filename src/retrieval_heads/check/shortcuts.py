"""Ways to solve the examples of a file without reading what they are meant to have read.

Needles at one place (who reads that place alone solves the set, whatever is asked), an answer that stands elsewhere
too, a haystack that repeats itself so that the needle is what is different, and a question that quotes the needle so
that the same words are all that has to be found.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.prompt_format import QUESTION

OFTEN = 0.25
"""Share of the examples whose answer stands outside their needles, too, from which on it is a warning."""

REPEATED = 0.5
"""Share of a haystack's sentences that are repeats, from which on the needle is found by being different."""

QUOTED_WORDS, QUOTED_SHARE = 4, 0.6
"""A question quotes a needle by so many of its words in a row, and by so large a share of them."""

LEAST = 8
"""Needles below which nothing is said of their places: chance alone puts so few together."""

UNLIKELY = 1e-3
"""Probability of as many needles at one of the places by chance, below which it is no chance."""

NARROW = 0.25
"""Nine in ten needles within so small a part of the prompt stand at one place."""

PARTS = ("first third", "middle third", "last third")
"""Of the documents, or of the text before the question, where the first needle is."""

FEW_DOCUMENTS = 4
"""With no more documents than these, each is a place of its own."""

KEPT = 5
"""Lines that are named; the others are counted."""

_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADING = re.compile(
    r"^\W{0,3}(?:(?:document|doc|passage|paragraph|source|text|context)\W{0,3}\d+|\[\d+\])",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass
class Lines:
    """Of how many lines something is said, and the numbers of the first `KEPT`."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(line)

    def text(self) -> str:
        """`line 3`, or `lines 3, 7, 9, 12, 20, ...`."""
        more = ", ..." if self.count > len(self.first) else ""
        return f"line{'s' * (self.count > 1)} {', '.join(map(str, self.first))}{more}"


def haystack_end(example: Example) -> int:
    """Index of the character at which the text before the question ends; the prompt's without a question."""
    question = example.prompt.rfind(QUESTION)
    return question if question > 0 else len(example.prompt)


def documents_of(example: Example) -> tuple[list[int], int] | None:
    """The document of each needle, from 1, and how many documents there are; None where fewer than two are found.

    A document is what stands below a heading such as `Document 3:`, `[3]` or `Passage 3`; a needle before the first
    heading has the number 0.
    """
    headings = [one.start() for one in _HEADING.finditer(example.prompt, 0, haystack_end(example))]
    if len(headings) < 2:
        return None
    return [sum(start <= needle for start in headings) for needle, _ in example.needles], len(headings)


def places(examples: Sequence[Example]) -> list[str]:
    """The name of the place of each example's first needle; empty for an example without needles."""
    documents = [documents_of(one) for one in examples]
    known = [found for one, found in zip(examples, documents, strict=True) if one.needles]
    numbered = bool(known) and None not in known

    def name(example: Example, found: tuple[list[int], int] | None) -> str:
        if not example.needles:
            return ""
        if numbered and max(n for _, n in known) <= FEW_DOCUMENTS:
            return f"document {found[0][0]}"
        share = (found[0][0] - 0.5) / found[1] if numbered else example.needles[0][0] / haystack_end(example)
        return PARTS[min(int(share * len(PARTS)), len(PARTS) - 1)]

    return list(map(name, examples, documents))


def name_of(number: int, last: bool) -> str:
    """`the first document`, `the last document`, `document 10 from the end`: a number from the front or the back."""
    if last:
        return "the last document" if number == 1 else f"document {number} from the end"
    return f"the {_ORDINALS[number - 1]} document" if number <= len(_ORDINALS) else f"document {number}"


@dataclass
class Places:
    """Counts over the needles of a file.

    By needle, where it begins, from the start of the prompt (0) to the question (1), and how much of that text it
    takes; needles by document, counted from the first and from the last one; and how many needles even places would
    put into any one document.
    """

    fractions: array = field(default_factory=lambda: array("f"))
    width: array = field(default_factory=lambda: array("f"))
    front: Counter[int] = field(default_factory=Counter)
    back: Counter[int] = field(default_factory=Counter)
    expected: float = 0.0

    def add(self, example: Example) -> None:
        """Count the needles of one more example."""
        end = haystack_end(example)
        for start, stop in example.needles:
            self.fractions.append(start / end)
            self.width.append((stop - start) / end)
        numbers, n = documents_of(example) or ([], 0)
        for number in filter(None, numbers):
            self.front[number] += 1
            self.back[n + 1 - number] += 1
            self.expected += 1 / n

    @property
    def favourite(self) -> tuple[int, bool] | None:
        """The document with the most needles, as `(number, from the back)`; None where no needle is in a document."""
        counts = {(number, last): count for last, side in ((False, self.front), (True, self.back))
                  for number, count in side.items()}
        return max(counts, key=lambda one: (counts[one], one[0] == 1, not one[1])) if counts else None

    def one_place(self) -> str:
        """The place at which most needles stand, where they are more than chance puts there: in words; else empty."""
        n, favourite = self.front.total(), self.favourite
        if favourite is not None and n >= LEAST:
            count = (self.back if favourite[1] else self.front)[favourite[0]]
            if count >= n / 2 and self._chance(count, n) < UNLIKELY:
                return (f"{count} of {n} needles stand in {name_of(*favourite)} (evenly spread it would be "
                        f"{self.expected:.0f})")
        if len(self.fractions) >= LEAST and np.median(self.width) < NARROW:
            low, high = np.quantile(self.fractions, [0.05, 0.95])
            if high - low < NARROW:
                return (f"nine in ten of {len(self.fractions)} needles begin between {low:.2f} and {high:.2f} of the "
                        "text before the question")
        return ""

    def _chance(self, count: int, n: int) -> float:
        """Probability that evenly spread needles put so many into one of the documents."""
        from scipy.stats import binom  # takes a second to import

        return (len(self.front) + len(self.back)) * float(binom.sf(count - 1, n, self.expected / n))

    def text(self) -> str:
        """Where needles begin, and in which documents, for a reader; empty without a needle."""
        if not self.fractions:
            return ""
        low, middle, high = np.quantile(self.fractions, [0, 0.5, 1])
        told = f"from {low:.2f} to {high:.2f} of the text before the question, median {middle:.2f}"
        if self.favourite is not None:
            side, end = (self.back, " from the end") if self.favourite[1] else (self.front, "")
            most = ", ".join(f"{number}: {count}" for number, count in sorted(side.items())[:10])
            told += f"; by document{end} {most}" + (", ..." if len(side) > 10 else "")
        return told

    def as_json(self) -> dict[str, Any]:
        """Deciles of the places and counts by document."""
        deciles = np.quantile(self.fractions, np.linspace(0, 1, 11)).round(3).tolist() if self.fractions else []
        return {"deciles": deciles, "by_document": dict(sorted(self.front.items())),
                "by_document_from_the_end": dict(sorted(self.back.items())),
                "expected_by_document": round(self.expected, 2), "one_place": self.one_place()}


@dataclass
class Shortcuts:
    """Counts over the examples of a file that have needles.

    Lines of the examples whose answer stands in the text before the question outside the needles, too, whose question
    holds the answer, and whose question quotes a needle; and of each example, the share of sentences outside the
    needles that stand there for the second time.
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
        # the pieces of the text before the question that lie between the needles
        bounds = [0, *chain.from_iterable(example.needles), end]
        rest = "\n".join(example.prompt[start:min(stop, end)]
                         for start, stop in zip(bounds[::2], bounds[1::2], strict=True))
        question = example.prompt[end:]
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
        def of(lines: Lines) -> str:
            return f"{lines.count} of {self.n} examples"

        found = []
        if place := self.places.one_place():
            found.append(f"{place}: whoever reads that place alone solves them, whatever is asked")
        if self.outside.count >= max(1, OFTEN * self.n):
            found.append(f"{of(self.outside)} have the answer outside their needles, too: a head that copies it from "
                         f"there scores 0, and the needle need not be read ({self.outside.text()})")
        if self.in_question.count:
            found.append(f"{of(self.in_question)} have the answer in the question: nothing else need be read "
                         f"({self.in_question.text()})")
        if self.repeats and median(self.repeats) >= REPEATED:
            found.append(f"haystacks repeat themselves: {median(self.repeats):.0%} of the sentences of one (median) "
                         "stood in it before, so a needle is found by being different")
        if self.quoting.count > self.n / 2:
            found.append(f"{of(self.quoting)} have a question that quotes a needle, {QUOTED_WORDS} words or more in a "
                         f"row: it is found by the same words ({self.quoting.text()})")
        return found

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
