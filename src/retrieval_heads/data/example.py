"""The tasks, and `Example`: one question with its context, its answer and the places that hold the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval_heads.data.chains import MDQA, MUSIQUE
from retrieval_heads.data.citation import SUMMHAY
from retrieval_heads.data.task import Task
from retrieval_heads.errors import DataError

TASKS = {task.name: task for task in (MDQA, MUSIQUE, SUMMHAY)}
"""The tasks of the generated world by name, in the order of tables and figures."""


def task_of(name: str) -> Task:
    """The task of that name, or one of the user's own: a question with a short answer, whose examples are in files."""
    return TASKS.get(name) or Task(name)


@dataclass(frozen=True)
class Example:
    """One question over a long context.

    Attributes:
        task: `mdqa`, `musique` or `summhay`, or a name of the user's own.
        prompt: everything before the answer; ends without a trailing space (`... Answer:`).
        answer: the reference answer, without a leading space; the model sees `prompt + joint + answer`.
        answers: every accepted answer, the reference one among them.
        needles: `(start, end)` character spans into `prompt`, end exclusive, in order of position.
        meta: what else is known about the example (ids, hops, document numbers); JSON values, not to be changed.
        joint: the text between prompt and answer: a space, or nothing if a chat template ends the prompt.
        chat_template: None if the prompt is the user's own text; otherwise what is known about the template that wrote
            it: `arguments` (with the time it was given) and `end`, the token by which it ends a turn; see `chat`.

    Raises:
        DataError: empty prompt or answer, an answer missing from `answers`, or a span that is empty, out of the
            prompt or out of order.
    """

    task: str
    prompt: str
    answer: str
    answers: tuple[str, ...] = ()
    needles: tuple[tuple[int, int], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    joint: str = " "
    chat_template: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        where = self.place
        for name in ("prompt", "answer"):
            if not getattr(self, name).strip():
                raise DataError(f"the {name} is empty", where=where, remedy=f"Give every example a non-empty {name}.")
        object.__setattr__(self, "answers", tuple(self.answers) or (self.answer,))
        object.__setattr__(self, "needles", tuple((int(start), int(end)) for start, end in self.needles))
        object.__setattr__(self, "meta", dict(self.meta))
        if self.answer not in self.answers:
            raise DataError(
                "the reference answer is not among the accepted ones",
                where=where, value=self.answer, remedy="Add it to `answers`.",
            )
        last = 0
        for start, end in self.needles:
            if not last <= start < end <= len(self.prompt):
                raise DataError(
                    f"needle span outside the prompt of {len(self.prompt)} characters, empty, or out of order",
                    where=where, value=(start, end), remedy="Needles are disjoint (start, end) offsets into `prompt`.",
                )
            last = end

    @property
    def place(self) -> str:
        """Where it was read, for error messages: the file and line, else its id."""
        if {"file", "line"} <= set(self.meta):
            return f"{self.meta['file']}, line {self.meta['line']}"
        return f"example {self.meta.get('id', '')}".strip()

    @property
    def text(self) -> str:
        """The prompt and the reference answer as the model reads them."""
        return f"{self.prompt}{self.joint}{self.answer}"

    def needle_texts(self) -> tuple[str, ...]:
        """The needles as text, in order of position."""
        return tuple(self.prompt[start:end] for start, end in self.needles)
