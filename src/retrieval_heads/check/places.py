"""Where needles stand: the place in the prompt, and the document, counted from the front and from the back.

A set whose needles all stand at one place can be solved by reading that place alone, whatever the question asks for.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval_heads.data.example import Example
from retrieval_heads.data.prompt_format import QUESTION

_HEADING = re.compile(
    r"^\W{0,3}(?:(?:document|doc|passage|paragraph|source|text|context)\W{0,3}\d+|\[\d+\])",
    re.IGNORECASE | re.MULTILINE,
)

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

_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def haystack_end(example: Example) -> int:
    """Index of the character at which the text before the question ends; the prompt's without a question."""
    question = example.prompt.rfind(QUESTION)
    return question if question > 0 else len(example.prompt)


def document_of(example: Example) -> tuple[int, int] | None:
    """The document of the first needle and how many there are, from 1; None without numbered documents or a needle.

    A document is what stands below a heading such as `Document 3:`, `[3]` or `Passage 3`.
    """
    found = documents_of(example)
    return (found[0][0], found[1]) if found and found[0] else None


def documents_of(example: Example) -> tuple[list[int], int] | None:
    """The document of each needle, and how many documents there are; None where fewer than two are found."""
    headings = [one.start() for one in _HEADING.finditer(example.prompt, 0, haystack_end(example))]
    if len(headings) < 2:
        return None
    return [sum(start <= needle for start in headings) for needle, _ in example.needles], len(headings)


def place_of(example: Example) -> float:
    """Where the first needle begins, as a fraction of the text before the question; NaN without a needle."""
    return example.needles[0][0] / haystack_end(example) if example.needles else float("nan")


def places(examples: Sequence[Example]) -> list[str]:
    """The name of the place of each example's first needle; empty for an example without needles."""
    documents = [document_of(one) for one in examples if one.needles]
    counts = {found[1] for found in documents if found is not None}
    if documents and None not in documents and max(counts) <= FEW_DOCUMENTS:
        return [f"document {document_of(one)[0]}" if one.needles else "" for one in examples]
    return [_part(one, None not in documents) if one.needles else "" for one in examples]


def _part(example: Example, numbered: bool) -> str:
    found = document_of(example) if numbered else None
    share = place_of(example) if found is None else (found[0] - 0.5) / found[1]
    return PARTS[min(int(share * len(PARTS)), len(PARTS) - 1)]


def name_of(number: int, last: bool) -> str:
    """`the first document`, `the last document`, `document 10 from the end`: a number from the front or the back."""
    if last:
        return "the last document" if number == 1 else f"document {number} from the end"
    return f"the {_ORDINALS[number - 1]} document" if number <= len(_ORDINALS) else f"document {number}"


@dataclass
class Places:
    """Counts over the needles of a file.

    Attributes:
        fractions: where each needle begins, from the start of the prompt (0) to the question (1).
        width: how much of that text each needle takes.
        front, back: needles by document, counted from the first and from the last one.
        expected: needles that even places would put into any one document.
        documents: number of documents of each example that has some.
    """

    fractions: array = field(default_factory=lambda: array("f"))
    width: array = field(default_factory=lambda: array("f"))
    front: Counter[int] = field(default_factory=Counter)
    back: Counter[int] = field(default_factory=Counter)
    expected: float = 0.0
    documents: array = field(default_factory=lambda: array("q"))

    def add(self, example: Example) -> None:
        """Count the needles of one more example."""
        end = haystack_end(example)
        for start, stop in example.needles:
            self.fractions.append(start / end)
            self.width.append((stop - start) / end)
        found = documents_of(example)
        if found is None:
            return
        numbers, n = found
        self.documents.append(n)
        for number in numbers:
            if number:  # a needle before the first heading is in none
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

        places = len(self.front) + len(self.back)
        return places * float(binom.sf(count - 1, n, self.expected / n))

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
