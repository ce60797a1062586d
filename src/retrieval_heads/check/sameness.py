"""Examples that are the same in some way: repeats inside a file, and training examples that a test set has too.

Compared are digests of 8 bytes, so memory grows by some 100 bytes a key and not with the length of the texts; among a
million different texts, two have one digest by chance in 1 of 3e7 cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from retrieval_heads.data.example import Example
from retrieval_heads.data.prompt_format import QUESTION

REPEATS = ("prompt", "question and answer")
"""In which ways an example can repeat another one of its own file."""

LEAKS = ("prompt", "question", "needle and answer")
"""In which ways an example can be known from another file."""

_WORD = re.compile(r"\w+")


@dataclass
class Shared:
    """How many examples share something with an earlier one (or with another file), and the lines of the first pair."""

    count: int = 0
    first: tuple[int, int] | None = None

    def add(self, line: int, other: int) -> None:
        self.count += 1
        self.first = self.first or (line, other)

    def lines(self, other: str) -> str:
        """The first pair in words, `other` before the second line; empty without one."""
        return f" (first: line {self.first[0]}, {other} {self.first[1]})" if self.first else ""


@dataclass
class Seen:
    """The keys of all examples of a file, each with the line where it stands first."""

    lines: dict[str, dict[int, int]] = field(default_factory=lambda: {way: {} for way in {*REPEATS, *LEAKS}})

    def add(self, example: Example) -> None:
        for way, known in self.lines.items():
            for key in keys(example, way):
                known.setdefault(key, line_of(example))

    def find(self, example: Example, way: str) -> int | None:
        """The line of an example that is the same in this way; None when there is none."""
        return next((self.lines[way][key] for key in keys(example, way) if key in self.lines[way]), None)


def count_shared(example: Example, seen: Seen, ways: Iterable[str], into: dict[str, Shared]) -> None:
    """Add to `into` in which of the ways the example is one of those seen."""
    for way in ways:
        other = seen.find(example, way)
        if other is not None:
            into[way].add(line_of(example), other)


def keys(example: Example, way: str) -> Iterator[int]:
    """The digests by which an example is known in one way; none where it lacks what is compared."""
    if way == "prompt":
        yield _digest(example.prompt)
    elif way == "needle and answer":
        for text in dict.fromkeys(example.needle_texts()):
            yield _digest(text, example.answer)
    elif question := question_of(example):
        yield _digest(question, example.answer) if way == "question and answer" else _digest(question)


def question_of(example: Example) -> str:
    """The question in small letters, without punctuation: the key `question`, else what follows the last `Question:`.

    Empty where there is neither: then questions cannot be compared.
    """
    given = example.meta.get("question")
    if not isinstance(given, str):
        _, found, given = example.prompt.rpartition(QUESTION)
        given = given if found else ""
    return " ".join(_WORD.findall(given.casefold()))


def line_of(example: Example) -> int:
    return example.meta["line"]


def _digest(*texts: str) -> int:
    # surrogates can stand in a `question` of the user's, which no check has seen
    content = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
