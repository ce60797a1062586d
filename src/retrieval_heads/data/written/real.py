"""A real training example taken apart: its documents, question and facts, and what a chat template put around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import iterate_examples
from retrieval_heads.data.prompt_format import Document, parts_of, refused
from retrieval_heads.errors import DataError

_STEP = re.compile(r"#(\d+)")
_CITE = re.compile(r"^Which documents say that (.+?)\?$", re.DOTALL)


@dataclass(frozen=True)
class Fact:
    """One question with its answer, and the title of the document that states it. For `summhay`, `question` is the
    insight and the answer is empty."""

    question: str
    answer: str
    title: str


@dataclass(frozen=True)
class Real:
    """A real example, its `Parts`, and its facts: one, or several for a chain of them."""

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
    parts = parts_of(example)
    titles = [parts.documents[index][1] for index in parts.gold]
    return Real(example, *parts, _facts(example, parts.question, titles))


def _facts(example: Example, question: str, titles: Sequence[str]) -> tuple[Fact, ...]:
    if task_of(example.task).cites:
        cited = _CITE.match(question)
        insight = example.meta.get("insight") or (cited[1] if cited else question)
        return (Fact(str(insight), "", ""),)
    if "steps" in example.meta:
        return _chain(example)
    if task_of(example.task).chained:
        raise refused(example, "steps", sorted(example.meta), "is missing: the facts of the chain are not known",
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
            raise refused(example, "steps", step, "holds something else than steps",
                          "A step has `question`, `answer` and `title`, all text.")
        known = [fact.answer for fact in facts]
        question = _STEP.sub(
            lambda match, known=known: known[int(match[1]) - 1] if 0 < int(match[1]) <= len(known) else match[0],
            step["question"],
        )
        facts.append(Fact(question.strip(), step["answer"].strip(), step["title"].strip()))
    if not facts or facts[-1].answer != example.answer:
        raise refused(example, "steps", [fact.answer for fact in facts], "does not end in the reference answer",
                      "The last step's answer is the example's.")
    return tuple(facts)
