"""The loaders of official files: a record (`formats.py`) is written as a prompt, and becomes an `Example`.

Records that cannot become one are errors by default, or left out and counted by reason.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from retrieval_heads.data.example import Example
from retrieval_heads.data.official import formats
from retrieval_heads.data.official.answers import merge
from retrieval_heads.data.official.formats import Item, Source, UnusableRecordError
from retrieval_heads.data.official.records import Record, check_count, read_records
from retrieval_heads.data.prompt_format import Document, place, write_citation, write_prompt
from retrieval_heads.errors import ConfigError, DataError

OnUnusable = Literal["raise", "drop"]
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


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
        source = formats.mdqa_source(record, needle)
        kept = keep(source, n_documents)
        if gold == "in turn":
            others = [index for index in kept if index not in source.marked]
            here = next(turn) % (len(others) + 1)
            kept = [*others[:here], *sorted(source.marked), *others[here:]]
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
        source = formats.musique_source(record, needle)
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
        source = formats.summhay_source(item, needle)
        others = source.others
        random.Random(f"{seed}:{source.id}").shuffle(others)
        return assemble(source, keep(source, n_documents, others), instruction)

    yield from built(islice(formats.topic_items(path), limit), build, on_unusable, dropped)


def listed(iterate: Callable[P, Iterator[Example]]) -> Callable[P, list[Example]]:
    """The loader `load_TASK` of `iterate_TASK`: all examples at once. It takes over the text that says what both do."""
    @wraps(iterate)
    def load(*args: P.args, **kwargs: P.kwargs) -> list[Example]:
        return list(iterate(*args, **kwargs))

    load.__name__ = load.__qualname__ = iterate.__name__.replace("iterate", "load")
    load.__signature__ = inspect.signature(iterate).replace(return_annotation="list[Example]")
    iterate.__doc__ = f"`{load.__name__}`, one example at a time: memory does not grow with the file."
    return load


load_mdqa, load_musique, load_summhay = map(listed, (iterate_mdqa, iterate_musique, iterate_summhay))


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
