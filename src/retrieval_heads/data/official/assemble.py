"""From documents with marked spans to an `Example`: what the three official tasks have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrieval_heads.data.example import Example
from retrieval_heads.data.layout import Document, Span, place, write_citation, write_prompt
from retrieval_heads.data.official.phrases import searched
from retrieval_heads.data.official.text import merge, occurrences, sentences_around
from retrieval_heads.data.official.usable import UnusableRecordError

NEEDLES = ("sentence", "passage", "answer")


def keep(n: int, gold: Collection[int], others: Sequence[int], n_documents: int | None, where: str) -> list[int]:
    """Which of `n` documents to keep, in increasing order: the gold ones, filled up from the front of `others`.

    Raises:
        UnusableRecordError: more gold documents than `n_documents`.
    """
    if n_documents is None:
        return list(range(n))
    if len(gold) > n_documents:
        raise UnusableRecordError(
            "there are more gold documents than n_documents", where=where, value=f"{len(gold)} > {n_documents}",
            remedy="Raise n_documents, or give on_unusable='drop' to leave such records out.",
        )
    return sorted([*gold, *others[: n_documents - len(gold)]])


@dataclass(frozen=True)
class Held:
    """An answer that some texts hold letter for letter: by text its needles, and whether it stands there in words of
    its own or only inside longer ones (`5` in `2015`)."""

    answer: str
    needles: dict[int, list[Span]]
    whole_words: bool


def find_answer(texts: Mapping[int, str], answers: Sequence[str], needle: str) -> Held | None:
    """The first of `answers` that one of the texts holds, preferably in words of its own; None when there is none.

    Looked for are only those that could be an answer's text (`phrases.searched`), unless there is none.

    A text's needles are every place of the answer (`answer`), the sentences around them (`sentence`), or the whole
    text (`passage`).
    """
    for whole_words in (True, False):
        for answer in searched(answers) or answers:
            places = {index: occurrences(text, answer, whole_words) for index, text in texts.items()}
            held = {index: _widened(texts[index], spans, needle) for index, spans in places.items() if spans}
            if held:
                return Held(answer, held, whole_words)
    return None


def _widened(text: str, places: list[Span], needle: str) -> list[Span]:
    if needle == "answer":
        return places
    return sentences_around(text, places) if needle == "sentence" else [(0, len(text))]


@dataclass(frozen=True)
class Source:
    """A record of an official file as documents with marked spans, before anything is left out, added or numbered.

    Attributes:
        task: `mdqa`, `musique` or `summhay`.
        where: file and line for messages; `file` (its name, no folder) and `line` for the example's `meta`.
        documents: all documents of the record as `(title, text)`.
        marked: index of a document -> spans in its text that are needles; these documents are gold.
        answers: the accepted ones, the reference answer first; none where the answer is the gold documents' numbers.
        meta: what else is known: `id`, and what the task adds.
    """

    task: str
    where: str
    file: str
    line: int
    documents: tuple[tuple[str, str], ...]
    marked: Mapping[int, Sequence[Span]]
    question: str
    answers: tuple[str, ...]
    meta: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.meta["id"]

    def with_documents(self, documents: Sequence[tuple[str, str]]) -> Source:
        """The same record with other documents; the marked ones have to be where they were."""
        return replace(self, documents=tuple(documents))


def assemble(source: Source, kept: Sequence[int], instruction: str, **more: Any) -> Example:
    """Write the kept documents, numbered from 1, and carry the marked spans over into the prompt.

    Args:
        kept: indices of the documents in the order of the prompt; all marked ones are among them.
        instruction: a line before the documents; none when empty.
        more: goes to the example's `meta`, with what the source has, `file`, `line`, `documents` (how many) and `gold`
            (the numbers of the marked ones).
    """
    numbered: list[Document] = [(number, *source.documents[index]) for number, index in enumerate(kept, start=1)]
    prompt, offsets = write_prompt(numbered, source.question, instruction)
    where = dict(zip(kept, offsets, strict=True))
    needles = merge(place(span, where[index]) for index, spans in source.marked.items() for span in spans)
    gold = [number for number, index in enumerate(kept, start=1) if index in source.marked]
    answers = source.answers or (write_citation(gold),)
    return Example(
        task=source.task, prompt=prompt, answer=answers[0], answers=tuple(dict.fromkeys(answers)),
        needles=tuple(needles),
        meta={**source.meta, "file": source.file, "line": source.line, "documents": len(kept), "gold": gold, **more},
    )
