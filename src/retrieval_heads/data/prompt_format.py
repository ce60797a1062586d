"""How a prompt is written, and taken apart: one format for the generated tasks and the official files.

    Document 1: A title
    The text of the first document.

    Document 2: Another title
    The text of the second document.

    Question: the question?
    Answer:

The writer hands back where each document's text stands, so that a needle's place in the prompt is computed from its
place in the document and never searched for: a search would find the wrong one of two equal sentences. A heading is a
line `Document N:` whose number follows on the last one's, so that such a line inside a text is not taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from retrieval_heads.data.example import Example
from retrieval_heads.errors import DataError

Document = tuple[int, str, str]
"""A document as `(number, title, text)`; the number is the one that is written and cited."""

QUESTION = "Question:"
"""What the question after the documents begins with."""

Span = tuple[int, int]
"""Character offsets `(start, end)`, end exclusive."""

_HEADING = re.compile(r"^Document (\d+):(?: (.*))?\n", re.MULTILINE)
_END = "\nAnswer:"


def write_prompt(documents: Iterable[Document], question: str, instruction: str = "") -> tuple[str, list[Span]]:
    """The prompt, which ends in `Answer:` without a trailing space, and the span of each document's text in it.

    An empty title leaves `Document 3:` alone on its line; the instruction, if any, is a line before the documents.
    """
    parts = [f"{instruction}\n\n"] if instruction else []
    spans: list[Span] = []
    length = sum(map(len, parts))
    for number, title, text in documents:
        line = heading(number, title)
        start = length + len(line)
        spans.append((start, start + len(text)))
        parts += [line, text, "\n\n"]
        length = start + len(text) + 2
    return "".join([*parts, f"{QUESTION} {question}{_END}"]), spans


def heading(number: int, title: str) -> str:
    """The line before a document's text."""
    return f"Document {number}: {title}".rstrip(" ") + "\n"


def place(span: Span, document: Span) -> Span:
    """The span in the prompt of `span` inside a document's text, given that document's span in the prompt."""
    return document[0] + span[0], document[0] + span[1]


def write_citation(numbers: Sequence[int]) -> str:
    """Document numbers as the answer to a citation question: `2, 5, 11`, in increasing order."""
    return ", ".join(str(number) for number in sorted(numbers))


class Parts(NamedTuple):
    """An example's prompt taken apart.

    Attributes:
        head: what stands before the first document (a chat template's opening, an instruction).
        documents: `(number, title, text)` in order.
        question: without `Question:`.
        tail: what stands behind `Answer:` (a chat template's end).
        gold: indices into `documents` of those that hold needles.
    """

    head: str
    documents: tuple[Document, ...]
    question: str
    tail: str
    gold: tuple[int, ...]


def parts_of(example: Example) -> Parts:
    """The parts of a prompt of this format; `DataError` for another one, or for a `gold` that names no documents."""
    prompt = example.prompt
    begin = prompt.rfind(f"{QUESTION} ")
    end = prompt.find(_END, begin)
    headings = _headings(prompt[:begin]) if begin >= 0 else []
    if begin < 0 or end < 0 or not headings:
        raise refused(example, "prompt", prompt[-60:], "is not in the layout of documents and a question",
                      "Give lines `Document 1: TITLE` with texts, then `Question: ...` and `Answer:`.")
    bounds = [heading.start() for heading in headings[1:]] + [begin]
    documents = tuple(
        (int(heading[1]), heading[2] or "", prompt[heading.end() : bound].removesuffix("\n\n"))
        for heading, bound in zip(headings, bounds, strict=True)
    )
    question = prompt[begin + len(QUESTION) + 1 : end]
    return Parts(prompt[: headings[0].start()], documents, question, prompt[end + len(_END) :],
                 _gold(example, documents))


def _headings(text: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    for match in _HEADING.finditer(text):
        number = int(match[1])
        last = int(found[-1][1]) if found else None
        # numbers of the generated world have gaps, those of real prompts count from 1
        if last is None or number == last + 1 or (int(found[0][1]) != 1 and number > last):
            found.append(match)
    return found


def _gold(example: Example, documents: Sequence[Document]) -> tuple[int, ...]:
    index = {number: place for place, (number, _, _) in enumerate(documents)}
    numbers = example.meta.get("gold")
    if not isinstance(numbers, list) or not numbers or not all(type(number) is int for number in numbers):
        raise refused(example, "gold", numbers, "is not a list of document numbers",
                      "Give the numbers of the documents that hold the needles.")
    if unknown := [number for number in numbers if number not in index]:
        raise refused(example, "gold", unknown, f"names documents that are not among the {len(documents)} of the "
                      "prompt", "Give numbers that stand in lines `Document N:`.")
    return tuple(sorted({index[number] for number in numbers}))


def refused(example: Example, key: str, value: object, problem: str, remedy: str) -> DataError:
    """The error of an example that cannot be taken apart, which names its place and the key."""
    return DataError(problem, where=f"{example.place}, key {key}", value=value, remedy=remedy)


def without_gold(example: Example) -> Example:
    """The example without its gold documents, the others numbered anew, and without needles: what a model knows or
    guesses without reading. The loss of the gold answer so, less that with them, is the gain from context."""
    parts = parts_of(example)
    left = [document for index, document in enumerate(parts.documents) if index not in parts.gold]
    first = parts.documents[0][0]
    prompt, _ = write_prompt(
        [(first + place, title, text) for place, (_, title, text) in enumerate(left)], parts.question,
    )
    return replace(example, prompt=parts.head + prompt + parts.tail, needles=())
