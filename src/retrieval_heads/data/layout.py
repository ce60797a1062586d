"""How a prompt is written: one layout for the synthetic tasks and the official files.

    Document 1: A title
    The text of the first document.

    Document 2: Another title
    The text of the second document.

    Question: the question?
    Answer:

The writer hands back where each document's text stands, so that a needle's place in the prompt is computed from its
place in the document and never searched for: a search would find the wrong one of two equal sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Document = tuple[int, str, str]
"""A document as `(number, title, text)`; the number is the one that is written and cited."""

QUESTION = "Question:"
"""What the question after the documents begins with."""

Span = tuple[int, int]
"""Character offsets `(start, end)`, end exclusive."""


def write_prompt(documents: Iterable[Document], question: str, instruction: str = "") -> tuple[str, list[Span]]:
    """Write titled documents and a question as one prompt.

    Args:
        documents: in the order in which they are written; an empty title leaves `Document 3:` alone on its line.
        question: one question, written as it is.
        instruction: a line before the documents; none when empty.

    Returns:
        The prompt, which ends in `Answer:` without a trailing space, and the span of each document's text in it, in the
        order of `documents`.
    """
    parts = [f"{instruction}\n\n"] if instruction else []
    spans: list[Span] = []
    length = sum(map(len, parts))
    for number, title, text in documents:
        heading = f"Document {number}: {title}".rstrip(" ") + "\n"
        start = length + len(heading)
        spans.append((start, start + len(text)))
        parts += [heading, text, "\n\n"]
        length = start + len(text) + 2
    return "".join([*parts, f"{QUESTION} {question}\nAnswer:"]), spans


def place(span: Span, document: Span) -> Span:
    """The span in the prompt of `span` inside a document's text, given that document's span in the prompt."""
    return document[0] + span[0], document[0] + span[1]


def write_citation(numbers: Sequence[int]) -> str:
    """Document numbers as the answer to a citation question: `2, 5, 11`, in increasing order."""
    return ", ".join(str(number) for number in sorted(numbers))
