"""Multi-document question answering: the files of `lost-in-the-middle` (Liu et al., 2023), `nq-open-*.jsonl.gz`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Literal

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.assemble import NEEDLES, Source, assemble, find_answer, keep
from retrieval_heads.data.official.records import Record, check_count, read_records
from retrieval_heads.data.official.schema import MdqaRecord, parse
from retrieval_heads.data.official.usable import OnUnusable, UnusableRecordError, built, check_choice

GOLD = ("as it is", "in turn")
"""Where the gold passage stands."""


def load_mdqa(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None, gold: Literal["as it is", "in turn"] = "as it is",
) -> list[Example]:
    """Load questions over numbered passages, one of them gold (`nq-open-oracle` has only that one).

    The reference answer is the first accepted one that the gold passage holds letter for letter, since a head can
    copy no other. Its needles are all its places in the gold passage: an answer that the passage repeats can be
    copied from each of them.

    Args:
        path: JSON Lines, `.gz`, or a JSON array; extra keys are ignored.
        limit: read the first `limit` records only.
        needle: the `sentence` around the answer, the whole gold `passage`, or the `answer` alone.
        n_documents: keep at most so many passages: the gold one and the first others, in their order.
        instruction: a line before the passages.
        on_unusable: `raise` on a record without gold passage or whose gold passage does not hold an answer, or `drop`
            it (the shipped files have none of either).
        dropped: counts what was dropped by reason; without it a warning tells.
        gold: where the gold passage stands. In a published file it is at one place in all records, so a set of them
            `as it is` can be solved by reading that place; `in turn` puts it first, second, ..., last, first, ...

    Returns:
        Examples; `meta` has `id` (file and line, as the format has none), `file`, `line`, `documents` (how many),
        `gold` (their numbers, from 1), `needle`, and `whole_words`: False where the answer stands in the gold passage
        only inside longer words (`5` in `2015`), so that the needle may be no support.

    Raises:
        DataError: the file or a record is not in the official format, or see `on_unusable`.
        ConfigError: an argument out of range.
    """
    return list(iterate_mdqa(
        path, limit, needle=needle, n_documents=n_documents, instruction=instruction, on_unusable=on_unusable,
        dropped=dropped, gold=gold,
    ))


def iterate_mdqa(
    path: str | Path, limit: int | None = None, *, needle: Literal["sentence", "passage", "answer"] = "sentence",
    n_documents: int | None = None, instruction: str = "", on_unusable: OnUnusable = "raise",
    dropped: Counter[str] | None = None, gold: Literal["as it is", "in turn"] = "as it is",
) -> Iterator[Example]:
    """`load_mdqa`, one example at a time: memory does not grow with the file."""
    check_choice("needle", needle, NEEDLES)
    check_choice("on_unusable", on_unusable, ("raise", "drop"))
    check_choice("gold", gold, GOLD)
    check_count("n_documents", n_documents)
    turn = count()

    def build(record: Record) -> Example:
        source = mdqa_source(record, needle)
        others = [index for index in range(len(source.documents)) if index not in source.marked]
        kept = keep(len(source.documents), source.marked, others, n_documents, source.where)
        return assemble(source, kept if gold == "as it is" else _turned(kept, source, next(turn)), instruction)

    yield from built(read_records(path, limit), build, on_unusable, dropped)


def _turned(kept: list[int], source: Source, turn: int) -> list[int]:
    """The kept passages with the gold ones, together, at another place: `turn` counts the examples."""
    others = [index for index in kept if index not in source.marked]
    place = turn % (len(others) + 1)
    return [*others[:place], *(index for index in kept if index in source.marked), *others[place:]]


def mdqa_source(record: Record, needle: str) -> Source:
    """The passages of a record with its needles marked; raises as `load_mdqa` does."""
    fields = parse(record, MdqaRecord)
    gold = [index for index, passage in enumerate(fields.ctxs) if passage.isgold]
    if not gold:
        raise UnusableRecordError(
            "no passage is gold", where=f"{record.where}, field ctxs", value=f"{len(fields.ctxs)} passages",
        )
    held = find_answer({index: fields.ctxs[index].text for index in gold}, fields.answers, needle)
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
