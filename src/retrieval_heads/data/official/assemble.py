"""From a record of an official file to an `Example`: what the three tasks have in common.

A record's fields are checked (`parse`) and become a `Source`, documents with marked spans, which `assemble` writes as a
prompt. A record that is sound but cannot become an example is an `UnusableRecordError`: raised by default, or left out
and counted by reason (`built`).
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.answers import merge
from retrieval_heads.data.official.records import Record, check_count, described
from retrieval_heads.data.prompt_format import Document, Span, place, write_citation, write_prompt
from retrieval_heads.errors import ConfigError, DataError

OnUnusable = Literal["raise", "drop"]
_DROP = "Give on_unusable='drop' to leave such records out; they are counted by reason."
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def _encodable(text: str) -> str:
    # JSON can spell half of a surrogate pair (a text cut inside an emoji), which no tokenizer takes
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is not a character") from None
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A string as it is, empty or not."""
Filled = Annotated[Text, AfterValidator(_filled)]
"""A string as it is, with something to read in it."""
Phrase = Annotated[Filled, AfterValidator(str.strip)]
"""A question or an answer: not empty, without white space around it."""


class Fields(BaseModel, strict=True, extra="ignore", frozen=True):
    """Base of the formats: exact types (a quoted number is not a number). Extra keys are ignored: predictions files add
    `model_*` keys, and later releases add metadata."""

F = TypeVar("F", bound=Fields)


def parse(record: Record, fields: type[F]) -> F:
    """The fields of a record; `DataError` for the first one that is missing, of another type or empty."""
    try:
        return fields.model_validate(record.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    missing = first["type"] == "missing"
    value = sorted(first["input"]) if missing and isinstance(first["input"], dict) else described(first["input"])
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    wanted = ", ".join(name for name, field in fields.model_fields.items() if field.is_required())
    raise DataError(
        "the key is missing; there are others" if missing else first["msg"].removeprefix("Value error, "),
        where=f"{record.where}, field {name}", value=value,
        remedy=f"Give a file in the official format (keys {wanted}; further keys are ignored).",
    )


class UnusableRecordError(DataError):
    """A record in the right format from which no example can be made; `problem` is the same for all of its kind."""

    def __init__(self, problem: str, *, where: object = None, value: object = None, remedy: str = _DROP) -> None:
        super().__init__(problem, where=where, value=value, remedy=remedy)


@dataclass(frozen=True)
class Source:
    """A record of an official file as documents with marked spans, before anything is left out, added or numbered.

    Attributes:
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

    @property
    def others(self) -> list[int]:
        """Indices of the documents that are not gold."""
        return [index for index in range(len(self.documents)) if index not in self.marked]


def assemble(source: Source, kept: Sequence[int], instruction: str, **more: Any) -> Example:
    """Write the kept documents, numbered from 1 in the given order, and carry the marked spans over into the prompt.

    `more` goes to the example's `meta`, with what the source has, `file`, `line`, `documents` (how many) and `gold`
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


def keep(source: Source, n_documents: int | None, others: Sequence[int] | None = None) -> list[int]:
    """Which documents to keep, in increasing order: the gold ones, filled up from the front of `others`, which are all
    that are not gold unless they are given; `UnusableRecordError` where there are more gold ones than `n_documents`."""
    if n_documents is None:
        return list(range(len(source.documents)))
    room = n_documents - len(source.marked)
    if room < 0:
        raise UnusableRecordError(
            "there are more gold documents than n_documents", where=source.where,
            value=f"{len(source.marked)} > {n_documents}",
            remedy="Raise n_documents, or give on_unusable='drop' to leave such records out.",
        )
    return sorted([*source.marked, *(source.others if others is None else others)[:room]])


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError("unknown choice", where=name, value=value, remedy=f"Give one of {', '.join(choices)}.")


def check_loading(needle: str, needles: tuple[str, ...], on_unusable: str, n_documents: int | None) -> None:
    """Raise `ConfigError` for an argument that is out of range in every loader."""
    check_choice("needle", needle, needles)
    check_choice("on_unusable", on_unusable, ("raise", "drop"))
    check_count("n_documents", n_documents)


def listed(iterate: Callable[P, Iterator[Example]]) -> Callable[P, list[Example]]:
    """The loader `load_TASK` of `iterate_TASK`: all examples at once. It takes over the text that says what both do."""
    @wraps(iterate)
    def load(*args: P.args, **kwargs: P.kwargs) -> list[Example]:
        return list(iterate(*args, **kwargs))

    load.__name__ = load.__qualname__ = iterate.__name__.replace("iterate", "load")
    load.__signature__ = inspect.signature(iterate).replace(return_annotation="list[Example]")
    iterate.__doc__ = f"`{load.__name__}`, one example at a time: memory does not grow with the file."
    return load


def built(
    items: Iterable[T], build: Callable[[T], R], on_unusable: OnUnusable, dropped: Counter[str] | None,
) -> Iterator[R]:
    """What `build` makes of each item, one at a time, without those that are unusable where these are to be dropped;
    `dropped` counts them by reason, or a warning tells the counts."""
    count = 0
    reasons: Counter[str] = Counter()
    for item in items:
        try:
            example = build(item)
        except UnusableRecordError as error:
            if on_unusable == "raise":
                raise
            reasons[error.problem] += 1
            last = error
            continue
        count += 1
        yield example
    if reasons and not count:
        raise DataError(
            f"no record is usable: {told(reasons)}", where=last.where, value=last.value,
            remedy="Correct the file or the arguments.",
        )
    if dropped is not None:
        dropped.update(reasons)
    elif reasons:
        total = reasons.total()
        warnings.warn(f"left out {total} of {total + count} records: {told(reasons)}", stacklevel=3)


def told(reasons: Counter[str]) -> str:
    """Counts by reason in words."""
    return "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
