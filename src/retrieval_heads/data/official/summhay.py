"""Summary of a Haystack (Laban et al., 2024): documents in which insights recur in other words, `topic_*.json`."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.answers import occurrences, sentences, sentences_around
from retrieval_heads.data.official.assemble import (
    Fields,
    Filled,
    OnUnusable,
    Phrase,
    Source,
    UnusableRecordError,
    assemble,
    built,
    check_loading,
    keep,
    listed,
    parse,
)
from retrieval_heads.data.official.records import Record, check_count, read_records
from retrieval_heads.data.prompt_format import Span
from retrieval_heads.errors import DataError

NEEDLES = ("document", "sentence")
QUESTION = "Which documents say that {insight}?"


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


def iterate_summhay(
    path: str | Path, limit: int | None = None, *, needle: Literal["document", "sentence"] = "document",
    n_documents: int | None = None, seed: int = 0, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None,
) -> Iterator[Example]:
    """Load one example per insight: given the insight, cite the numbers of the documents that contain it.

    This is the task of this study, made from the official file (which asks for summaries of a subtopic with
    citations). The file says which documents contain an insight (`insights_included`), but not where: documents put
    it in other words (28 of the 675 mentions in `topic_news1` and 113 of 704 in `topic_news3` are word for word). So
    the needle is the whole document by default. `sentence` is an estimate: the insight's sentences where it stands
    word for word, else the sentence that holds the largest fraction of the insight's words.

    Args:
        path: a topic file, a JSON array of topics or topics as JSON Lines, each plain or gzipped; extra keys are
            ignored.
        limit: make examples of the first `limit` insights only.
        needle: `document` or `sentence`, see above.
        n_documents: a sample of this many documents, drawn for each insight: all that contain it, filled up with
            others, in the order of the file. All documents when None.
        seed: of the sample.
        instruction: a line before the documents.
        on_unusable: `raise` on an insight that no document contains, or more than `n_documents` do, or `drop` it.
        dropped: counts what was dropped by reason; without it, a warning says so.

    Returns:
        Examples; the answer is a list like `2, 5, 11`, and documents have no title. `meta` has `id` (of the insight),
        `topic`, `subtopic` (its place in the file, from 0), `insight`, `file`, `line`, `documents` (how many), `gold`
        (the cited numbers, from 1) and `needle`.

    Raises:
        DataError: the file or a record is not in the official format, or see `on_unusable`.
        ConfigError: an argument out of range.
    """
    check_loading(needle, NEEDLES, on_unusable, n_documents)
    check_count("limit", limit)

    def build(item: Item) -> Example:
        source = summhay_source(item, needle)
        others = source.others
        random.Random(f"{seed}:{source.id}").shuffle(others)
        return assemble(source, keep(source, n_documents, others), instruction)

    yield from built(islice(topic_items(path), limit), build, on_unusable, dropped)


load_summhay = listed(iterate_summhay)


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
