"""The loaders of official files: multi-document question answering (`lost-in-the-middle`, Liu et al., 2023, the files
`nq-open-*.jsonl.gz`), MuSiQue (Trivedi et al., 2022, `musique_ans_*.jsonl`: two to four hops over 20 paragraphs) and
Summary of a Haystack (Laban et al., 2024, `topic_*.json`: documents in which insights recur in other words)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Literal

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.answers import find_answer, occurrences, sentences, sentences_around
from retrieval_heads.data.official.assemble import (
    OnUnusable,
    Source,
    UnusableRecordError,
    assemble,
    built,
    check_choice,
    check_loading,
    keep,
    listed,
    parse,
)
from retrieval_heads.data.official.records import Record, check_count, read_records
from retrieval_heads.data.official.schemas import Insight, MdqaRecord, MusiqueRecord, Topic
from retrieval_heads.data.prompt_format import Span
from retrieval_heads.errors import DataError

QUESTION = "Which documents say that {insight}?"
"""What is asked about an insight of a topic file."""


Item = tuple[Record, Topic, int, int, Insight]
"""A topic file, its fields, the places of a subtopic and of an insight in it, and the insight."""


def iterate_mdqa(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None, gold: Literal["as it is", "in turn"] = "as it is",
) -> Iterator[Example]:
    """Load questions over numbered passages, one of them gold (`nq-open-oracle` has only that one).

    The reference answer is the first accepted one that the gold passage holds letter for letter, since a head cannot
    copy any other. Its needles are all its places in the gold passage: an answer that the passage repeats can be
    copied from each of them.

    Args:
        path: JSON Lines, `.gz`, or a JSON array; extra keys are ignored.
        limit: read the first `limit` records only.
        needle: the `sentence` around the answer, the whole gold `passage`, or the `answer` alone.
        n_documents: keep at most this many passages: the gold one and the first others, in their order.
        instruction: a line before the passages.
        on_unusable: `raise` on a record without gold passage or whose gold passage does not hold an answer, or `drop`
            it (the shipped files have none of either).
        dropped: counts what was dropped by reason; without it, a warning says so.
        gold: where the gold passage stands. In a published file it is at one place in all records, so a set of them
            `as it is` can be solved by reading that place; `in turn` puts it first, second, ..., last, first, ...

    Returns:
        Examples; `meta` has `id` (file and line, as the format has none), `file`, `line`, `documents` (how many),
        `gold` (their numbers, from 1), `needle`, and `whole_words`: False where the answer stands in the gold passage
        only inside longer words (`5` in `2015`), so that the needle may not support it.

    Raises:
        DataError: the file or a record is not in the official format, or see `on_unusable`.
        ConfigError: an argument out of range.
    """
    check_loading(needle, ("sentence", "passage", "answer"), on_unusable, n_documents)
    check_choice("gold", gold, ("as it is", "in turn"))
    turn = count()

    def build(record: Record) -> Example:
        source = mdqa_source(record, needle)
        kept = keep(source, n_documents)
        if gold == "in turn":
            others = [index for index in kept if index not in source.marked]
            here = next(turn) % (len(others) + 1)
            kept = [*others[:here], *(index for index in kept if index in source.marked), *others[here:]]
        return assemble(source, kept, instruction)

    yield from built(read_records(path, limit), build, on_unusable, dropped)


def iterate_musique(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None,
) -> Iterator[Example]:
    """Load multi-hop questions; each step of the decomposition gives the needles of its answer in its paragraph.

    The last step's answer may be any accepted one: the reference answer is the first of them that the last paragraph
    holds letter for letter. A step's answer has to stand in the paragraph that `paragraph_support_idx` names.

    Arguments and errors as in `load_mdqa`, with paragraphs for passages and the supporting ones for the gold
    one. Unusable is a record with a step that has no supporting paragraph (the unanswerable ones of MuSiQue-Full) or
    whose answer is not in it (the 100 shipped records have none of either).

    Returns:
        Examples; `meta` is that of `load_mdqa` with the official `id`, `hops`, and `steps`: `question`, `answer` and
        paragraph `title` of each step in turn (`#1` in a question is the answer of the first). `whole_words` is False
        where one step's answer stands in its paragraph only inside longer words.
    """
    check_loading(needle, ("sentence", "passage", "answer"), on_unusable, n_documents)

    def build(record: Record) -> Example:
        source = musique_source(record, needle)
        return assemble(source, keep(source, n_documents), instruction)

    yield from built(read_records(path, limit), build, on_unusable, dropped)


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

    Arguments and errors as in `load_mdqa`, but for these:

    Args:
        path: a topic file, a JSON array of topics or topics as JSON Lines, each plain or gzipped.
        limit: make examples of the first `limit` insights only.
        needle: `document` or `sentence`, see above.
        n_documents: a sample of this many documents, drawn for each insight: all that contain it, filled up with
            others, in the order of the file. All documents when None.
        seed: of the sample.
        on_unusable: `raise` on an insight that no document contains, or more than `n_documents` do, or `drop` it.

    Returns:
        Examples; the answer is a list like `2, 5, 11`, and documents have no title. `meta` is that of `load_mdqa` with
        the `id` of the insight, `topic`, `subtopic` (its place in the file, from 0) and `insight`, no `whole_words`.
    """
    check_loading(needle, ("document", "sentence"), on_unusable, n_documents)
    check_count("limit", limit)

    def build(item: Item) -> Example:
        source = summhay_source(item, needle)
        others = source.others
        random.Random(f"{seed}:{source.id}").shuffle(others)
        return assemble(source, keep(source, n_documents, others), instruction)

    yield from built(islice(topic_items(path), limit), build, on_unusable, dropped)


load_mdqa, load_musique, load_summhay = map(listed, (iterate_mdqa, iterate_musique, iterate_summhay))


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
