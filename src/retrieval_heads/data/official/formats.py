"""The records of official files: multi-document question answering (`lost-in-the-middle`, Liu et al., 2023, the files
`nq-open-*.jsonl.gz`), MuSiQue (Trivedi et al., 2022, `musique_ans_*.jsonl`: two to four hops over 20 paragraphs) and
Summary of a Haystack (Laban et al., 2024, `topic_*.json`: documents in which insights recur in other words).

A record's fields are checked (`parse`) and become a `Source`: documents with marked spans. A record that is sound but
cannot become an example is an `UnusableRecordError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from retrieval_heads.data.official.answers import find_answer, occurrences, sentences, sentences_around
from retrieval_heads.data.official.records import Record, described, read_records
from retrieval_heads.data.prompt_format import Span
from retrieval_heads.errors import DataError

QUESTION = "Which documents say that {insight}?"
"""What is asked about an insight of a topic file."""
_DROP = "Give on_unusable='drop' to leave such records out; they are counted by reason."


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


class Passage(Fields):
    title: Text
    text: Text
    isgold: bool


class MdqaRecord(Fields):
    question: Phrase
    answers: Annotated[list[Phrase], Field(min_length=1)]
    ctxs: Annotated[list[Passage], Field(min_length=1)]


class Paragraph(Fields):
    idx: int
    title: Text
    paragraph_text: Text


class Step(Fields):
    question: Text = ""
    answer: Phrase
    paragraph_support_idx: int | None


class MusiqueRecord(Fields):
    id: Filled
    question: Phrase
    answer: Phrase
    answer_aliases: list[Phrase] = Field(default_factory=list)
    paragraphs: Annotated[list[Paragraph], Field(min_length=1)]
    question_decomposition: Annotated[list[Step], Field(min_length=1)]


class Insight(Fields):
    insight_id: Filled
    insight: Phrase


class Subtopic(Fields):
    insights: list[Insight]


class TopicDocument(Fields):
    document_text: Filled
    insights_included: list[str]


class Topic(Fields):
    topic_id: Filled
    subtopics: Annotated[list[Subtopic], Field(min_length=1)]
    documents: Annotated[list[TopicDocument], Field(min_length=1)]


Item = tuple[Record, Topic, int, int, Insight]
"""A topic file, its fields, the places of a subtopic and of an insight in it, and the insight."""


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


def mdqa_source(record: Record, needle: str) -> Source:
    """The passages of a record with its needles marked; raises as `load_mdqa` does."""
    fields = parse(record, MdqaRecord)
    gold = {index: passage.text for index, passage in enumerate(fields.ctxs) if passage.isgold}
    if not gold:
        raise UnusableRecordError(
            "no passage is gold", where=f"{record.where}, field ctxs", value=f"{len(fields.ctxs)} passages",
        )
    held = find_answer(gold, fields.answers, needle)
    if held is None:
        raise UnusableRecordError(
            "no answer stands in the gold passage", where=f"{record.where}, field answers", value=fields.answers,
        )
    return Source(
        task="mdqa", where=record.where, file=record.path.name, line=record.line,
        documents=tuple((passage.title, passage.text) for passage in fields.ctxs), marked=held.needles,
        question=fields.question, answers=(held.answer, *fields.answers),
        meta={"id": f"{record.path.name}:{record.line}", "needle": needle, "whole_words": held.whole_words},
    )


def musique_source(record: Record, needle: str) -> Source:
    """The paragraphs of a record with its needles marked; raises as `load_musique` does."""
    fields = parse(record, MusiqueRecord)
    accepted, steps = [fields.answer, *fields.answer_aliases], fields.question_decomposition
    position = {paragraph.idx: place for place, paragraph in enumerate(fields.paragraphs)}
    marked: dict[int, list[Span]] = {}
    chain, whole_words = [], True
    for number, step in enumerate(steps):
        where = f"{record.where}, field question_decomposition[{number}]"
        if step.paragraph_support_idx is None:
            raise UnusableRecordError("a step has no supporting paragraph", where=where, value=step.answer)
        if step.paragraph_support_idx not in position:
            raise DataError(
                "no paragraph has that idx", where=f"{where}.paragraph_support_idx", value=step.paragraph_support_idx,
                remedy="Each step names the `idx` of one of the record's `paragraphs`.",
            )
        index = position[step.paragraph_support_idx]
        paragraph, last = fields.paragraphs[index], number == len(steps) - 1
        held = find_answer({index: paragraph.paragraph_text}, accepted if last else [step.answer], needle)
        if held is None:
            raise UnusableRecordError(
                "a step's answer is not in its paragraph", where=f"{where}.answer", value=step.answer,
            )
        marked.setdefault(index, []).extend(held.needles[index])
        chain.append({"question": step.question, "answer": held.answer, "title": paragraph.title})
        whole_words &= held.whole_words
    return Source(
        task="musique", where=record.where, file=record.path.name, line=record.line,
        documents=tuple((part.title, part.paragraph_text) for part in fields.paragraphs), marked=marked,
        question=fields.question, answers=(held.answer, *accepted),
        meta={"id": fields.id, "hops": len(steps), "needle": needle, "whole_words": whole_words, "steps": chain},
    )


def topic_items(path: str | Path) -> Iterator[Item]:
    """Every insight of every topic of a file, in its order."""
    for record in read_records(path, lines=False):
        topic = parse(record, Topic)
        if not any(subtopic.insights for subtopic in topic.subtopics):
            raise DataError(
                "the topic has no insight", where=f"{record.where}, field subtopics", value=topic.topic_id,
                remedy="Give a topic file whose subtopics have `insights`.",
            )
        for number, subtopic in enumerate(topic.subtopics):
            for place, insight in enumerate(subtopic.insights):
                yield record, topic, number, place, insight


def summhay_source(item: Item, needle: str) -> Source:
    """The documents of an insight's topic with its needles marked; raises as `load_summhay` does."""
    record, topic, subtopic, place, insight = item
    where = f"{record.where}, field subtopics[{subtopic}].insights[{place}]"
    gold = [index for index, part in enumerate(topic.documents) if insight.insight_id in part.insights_included]
    if not gold:
        raise UnusableRecordError("no document contains the insight", where=where, value=insight.insight)
    texts = [part.document_text for part in topic.documents]
    return Source(
        task="summhay", where=where, file=record.path.name, line=record.line,
        documents=tuple(("", text) for text in texts),
        marked={index: _needles(texts[index], insight.insight, needle, where) for index in gold},
        question=QUESTION.format(insight=insight.insight.rstrip(".")), answers=(),
        meta={"id": insight.insight_id, "topic": topic.topic_id, "subtopic": subtopic, "insight": insight.insight,
              "needle": needle},
    )


def _needles(text: str, insight: str, needle: str, where: str) -> list[Span]:
    if needle == "document":
        return [(0, len(text))]
    if places := occurrences(text, insight, whole_words=False):
        return sentences_around(text, places)
    words = set(re.findall(r"\w+", insight.casefold()))
    shared = {span: len(words.intersection(re.findall(r"\w+", text[span[0] : span[1]].casefold())))
              for span in sentences(text)}
    best = max(shared, key=shared.__getitem__)
    if not shared[best]:
        raise UnusableRecordError("no sentence shares a word with the insight", where=where, value=insight)
    return [best]
