"""A real training example taken apart: its documents, question and facts, and what a chat template put around them.

The layout is that of `layout.py`. A document's heading is a line `Document N:` whose number follows on the last one's,
so that a line of that form inside a text is not taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import iterate_examples
from retrieval_heads.data.layout import QUESTION, Document
from retrieval_heads.errors import DataError

_HEADING = re.compile(r"^Document (\d+):(?: (.*))?\n", re.MULTILINE)
_STEP = re.compile(r"#(\d+)")
_CITE = re.compile(r"^Which documents say that (.+?)\?$", re.DOTALL)
_END = "\nAnswer:"


@dataclass(frozen=True)
class Fact:
    """One question with its answer, and the title of the document that states it. For `summhay`, `question` is the
    insight and the answer is empty."""

    question: str
    answer: str
    title: str


@dataclass(frozen=True)
class Real:
    """A real example taken apart.

    Attributes:
        example: as it was read.
        head: what stands before the first document (a chat template's opening, an instruction).
        documents: `(number, title, text)` in order.
        question: without `Question:`.
        tail: what stands behind `Answer:` (a chat template's end).
        gold: indices into `documents` of those that hold needles.
        facts: one; several for a chain of facts.
    """

    example: Example
    head: str
    documents: tuple[Document, ...]
    question: str
    tail: str
    gold: tuple[int, ...]
    facts: tuple[Fact, ...]

    @property
    def id(self) -> str:
        return str(self.example.meta["id"])

    @property
    def cites(self) -> bool:
        """Whether the answer is the numbers of documents, so that it follows from where the needles are put."""
        return task_of(self.example.task).cites

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted answers; none where they follow from where the needles are put."""
        return () if self.cites else self.example.answers

    @property
    def hidden(self) -> tuple[str, ...]:
        """What no other document may say: every accepted answer, or the insight whose documents are cited."""
        return (self.facts[0].question,) if self.cites else self.example.answers


def read_real(path: str | Path, limit: int | None = None) -> list[Real]:
    """Read a file of real training examples; `DataError` for one that cannot be taken apart, or two of one id."""
    reals = [take_apart(example) for example in iterate_examples(path, limit=limit)]
    seen: set[str] = set()
    for real in reals:
        if real.id in seen:
            raise DataError("two examples have the same id", where=path, value=real.id, remedy="Give each its own.")
        seen.add(real.id)
    return reals


def take_apart(example: Example) -> Real:
    """One example taken apart; raises `DataError` naming file, line and key."""
    prompt = example.prompt
    begin = prompt.rfind(f"{QUESTION} ")
    end = prompt.find(_END, begin)
    headings = _headings(prompt[:begin]) if begin >= 0 else []
    if begin < 0 or end < 0 or not headings:
        raise _refused(example, "prompt", prompt[-60:], "is not in the layout of documents and a question",
                       "Give lines `Document 1: TITLE` with texts, then `Question: ...` and `Answer:`.")
    bounds = [heading.start() for heading in headings[1:]] + [begin]
    documents = tuple(
        (int(heading[1]), heading[2] or "", prompt[heading.end() : bound].removesuffix("\n\n"))
        for heading, bound in zip(headings, bounds, strict=True)
    )
    question = prompt[begin + len(QUESTION) + 1 : end]
    gold = _gold(example, documents)
    return Real(
        example, prompt[: headings[0].start()], documents, question, prompt[end + len(_END) :], gold,
        _facts(example, question, [documents[index][1] for index in gold]),
    )


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
        raise _refused(example, "gold", numbers, "is no list of document numbers",
                       "Give the numbers of the documents that hold the needles.")
    unknown = [number for number in numbers if number not in index]
    if unknown:
        raise _refused(example, "gold", unknown, f"names documents that are not among the {len(documents)} of the "
                       "prompt", "Give numbers that stand in lines `Document N:`.")
    return tuple(sorted({index[number] for number in numbers}))


def _facts(example: Example, question: str, titles: Sequence[str]) -> tuple[Fact, ...]:
    if task_of(example.task).cites:
        cited = _CITE.match(question)
        insight = example.meta.get("insight") or (cited[1] if cited else question)
        return (Fact(str(insight), "", ""),)
    if "steps" in example.meta:
        return _chain(example)
    if task_of(example.task).chained:
        raise _refused(example, "steps", sorted(example.meta), "is missing: the facts of the chain are not known",
                       "Make the file from the official records, or give question, answer and title of each step.")
    return (Fact(question, example.answer, titles[0]),)


def _chain(example: Example) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    steps = example.meta["steps"]
    for step in steps if isinstance(steps, list) else [None]:
        if not isinstance(step, dict) or not all(
            isinstance(step.get(key), str) and (key == "title" or step[key].strip())
            for key in ("question", "answer", "title")
        ):
            raise _refused(example, "steps", step, "holds something else than steps",
                           "A step has `question`, `answer` and `title`, all text.")
        known = [fact.answer for fact in facts]
        question = _STEP.sub(
            lambda match, known=known: known[int(match[1]) - 1] if 0 < int(match[1]) <= len(known) else match[0],
            step["question"],
        )
        facts.append(Fact(question.strip(), step["answer"].strip(), step["title"].strip()))
    if not facts or facts[-1].answer != example.answer:
        raise _refused(example, "steps", [fact.answer for fact in facts], "does not end in the reference answer",
                       "The last step's answer is the example's.")
    return tuple(facts)


def _refused(example: Example, key: str, value: object, problem: str, remedy: str) -> DataError:
    return DataError(problem, where=f"{example.place}, key {key}", value=value, remedy=remedy)
