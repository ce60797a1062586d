"""The fields of the official formats, checked by pydantic, with its findings turned into one `DataError` a record.

Extra keys are ignored: predictions files add `model_*` keys, and later releases add metadata.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from retrieval_heads.data.official.records import Record, described
from retrieval_heads.errors import DataError


def _encodable(text: str) -> str:
    # JSON can spell half of a surrogate pair (a text cut inside an emoji), which no tokenizer takes
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half of a surrogate pair, which is no character")
    return text


def _stripped(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text.strip()


def _filled(text: str) -> str:
    _stripped(text)
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A string as it is, empty or not."""

Filled = Annotated[Text, AfterValidator(_filled)]
"""A string as it is, with something to read in it."""

Phrase = Annotated[Text, AfterValidator(_stripped)]
"""A question or an answer: not empty, without white space around it."""


class Fields(BaseModel):
    """Base of the formats: exact types (a number in quotes is no number), extra keys ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Passage(Fields):
    title: Text
    text: Text
    isgold: bool


class MdqaRecord(Fields):
    """A record of the multi-document question answering files of Liu et al. (2023), `lost-in-the-middle`."""

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
    """A record of MuSiQue (Trivedi et al., 2022)."""

    id: Filled
    question: Phrase
    answer: Phrase
    answer_aliases: list[Phrase] = []
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
    """A topic file of Summary of a Haystack (Laban et al., 2024)."""

    topic_id: Filled
    subtopics: Annotated[list[Subtopic], Field(min_length=1)]
    documents: Annotated[list[TopicDocument], Field(min_length=1)]


F = TypeVar("F", bound=Fields)


def parse(record: Record, fields: type[F]) -> F:
    """The fields of one record.

    Raises:
        DataError: the first field that is missing, of another type or empty, with file, line and field.
    """
    try:
        return fields.model_validate(record.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    missing = first["type"] == "missing"
    value = sorted(first["input"]) if missing and isinstance(first["input"], dict) else described(first["input"])
    wanted = ", ".join(name for name, field in fields.model_fields.items() if field.is_required())
    raise DataError(
        "the key is missing; there are others" if missing else first["msg"].removeprefix("Value error, "),
        where=f"{record.where}, field {field_name(first['loc'])}", value=value,
        remedy=f"Give a file in the official format (keys {wanted}; further keys are ignored).",
    )


def field_name(location: tuple[int | str, ...]) -> str:
    """A place inside a record as one reads it: `ctxs[3].isgold`."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return name.removeprefix(".")
