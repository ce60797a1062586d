"""The records of the official files, field by field; other fields are ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from retrieval_heads.data.official.assemble import Fields, Filled, Phrase, Text


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
