"""MuSiQue (Trivedi et al., 2022): questions of two to four hops over about twenty paragraphs, `musique_ans_*.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from retrieval_heads.data.example import Example
from retrieval_heads.data.layout import Span
from retrieval_heads.data.official.assemble import NEEDLES, Source, assemble, find_answer, keep
from retrieval_heads.data.official.records import Record, check_count, read_records
from retrieval_heads.data.official.schema import MusiqueRecord, parse
from retrieval_heads.data.official.usable import OnUnusable, UnusableRecordError, built, check_choice
from retrieval_heads.errors import DataError


def load_musique(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None,
) -> list[Example]:
    """Load multi-hop questions; each step of the decomposition gives the needles of its answer in its paragraph.

    The last step's answer may be any accepted one: the reference answer is the first of them that the last paragraph
    holds letter for letter. A step's answer has to stand in the paragraph that `paragraph_support_idx` names.

    Args:
        path: JSON Lines, `.gz`, or a JSON array; extra keys are ignored.
        limit: read the first `limit` records only.
        needle: the `sentence` around each step's answer, the whole supporting `passage`, or the `answer` alone.
        n_documents: keep at most so many paragraphs: the supporting ones and the first others, in their order.
        instruction: a line before the paragraphs.
        on_unusable: `raise` on a record with a step that has no supporting paragraph (the unanswerable ones of
            MuSiQue-Full) or whose answer is not in it, or `drop` it (the 100 shipped records have none of either).
        dropped: counts what was dropped by reason; without it a warning tells.

    Returns:
        Examples; `meta` has `id`, `file`, `line`, `hops`, `documents` (how many), `gold` (the numbers of the supporting
        ones, from 1, in order of position), `needle`, `whole_words`: False where a step's answer stands in its
        paragraph only inside longer words (`5` in `2015`), and `steps`: `question`, `answer` and paragraph `title` of
        each step in turn (`#1` in a question is the answer of the first).

    Raises:
        DataError: the file or a record is not in the official format, or see `on_unusable`.
        ConfigError: an argument out of range.
    """
    return list(iterate_musique(
        path, limit, needle=needle, n_documents=n_documents, instruction=instruction, on_unusable=on_unusable,
        dropped=dropped,
    ))


def iterate_musique(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None,
) -> Iterator[Example]:
    """`load_musique`, one example at a time: memory does not grow with the file."""
    check_choice("needle", needle, NEEDLES)
    check_choice("on_unusable", on_unusable, ("raise", "drop"))
    check_count("n_documents", n_documents)

    def build(record: Record) -> Example:
        source = musique_source(record, needle)
        others = [index for index in range(len(source.documents)) if index not in source.marked]
        kept = keep(len(source.documents), source.marked, others, n_documents, source.where)
        return assemble(source, kept, instruction)

    yield from built(read_records(path, limit), build, on_unusable, dropped)


def musique_source(record: Record, needle: str) -> Source:
    """The paragraphs of a record with its needles marked; raises as `load_musique` does."""
    fields = parse(record, MusiqueRecord)
    accepted = [fields.answer, *fields.answer_aliases]
    marked, answer, whole_words = _needles(record, fields, accepted, needle)
    return Source(
        task="musique", where=record.where, file=record.path.name, line=record.line,
        documents=tuple((part.title, part.paragraph_text) for part in fields.paragraphs), marked=marked,
        question=fields.question, answers=(answer, *accepted),
        meta={"id": fields.id, "hops": len(fields.question_decomposition), "needle": needle,
              "whole_words": whole_words, "steps": _steps(fields, answer)},
    )


def _steps(fields: MusiqueRecord, answer: str) -> list[dict[str, str]]:
    """Question, answer and paragraph title of each step; `#1` in a question stands for the first step's answer."""
    titles = {paragraph.idx: paragraph.title for paragraph in fields.paragraphs}
    answers = [*(step.answer for step in fields.question_decomposition[:-1]), answer]
    return [
        {"question": step.question, "answer": text, "title": titles[step.paragraph_support_idx]}
        for step, text in zip(fields.question_decomposition, answers, strict=True)
    ]


def _needles(
    record: Record, fields: MusiqueRecord, accepted: list[str], needle: str,
) -> tuple[dict[int, list[Span]], str, bool]:
    """Spans by paragraph position for all steps, the accepted answer that the last step's paragraph holds, and
    whether all answers stand there in words of their own."""
    position = {paragraph.idx: place for place, paragraph in enumerate(fields.paragraphs)}
    marked: dict[int, list[Span]] = {}
    whole_words = True
    for number, step in enumerate(fields.question_decomposition):
        where = f"{record.where}, field question_decomposition[{number}]"
        if step.paragraph_support_idx is None:
            raise UnusableRecordError("a step has no supporting paragraph", where=where, value=step.answer)
        if step.paragraph_support_idx not in position:
            raise DataError(
                "no paragraph has that idx", where=f"{where}.paragraph_support_idx", value=step.paragraph_support_idx,
                remedy="Each step names the `idx` of one of the record's `paragraphs`.",
            )
        index = position[step.paragraph_support_idx]
        last = number == len(fields.question_decomposition) - 1
        held = find_answer(
            {index: fields.paragraphs[index].paragraph_text}, accepted if last else [step.answer], needle,
        )
        if held is None:
            raise UnusableRecordError(
                "a step's answer is not in its paragraph", where=f"{where}.answer", value=step.answer,
            )
        marked.setdefault(index, []).extend(held.needles[index])
        whole_words &= held.whole_words
    return marked, held.answer, whole_words
