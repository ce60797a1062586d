"""A record at length: documents of other records are added until its prompt has the wanted number of tokens.

Where its gold documents stand is asked for by depth: depth 0 is before all other documents, depth 1 behind them, and in
between the share of the other documents' tokens that come before the gold one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, islice, repeat
from typing import Any

import numpy as np

from retrieval_heads.data.chat import template_arguments, write_chat
from retrieval_heads.data.example import Example
from retrieval_heads.data.official.answers import Forbidden
from retrieval_heads.data.official.formats import Source, UnusableRecordError
from retrieval_heads.data.official.loaders import assemble
from retrieval_heads.data.official.sources import Pool, Text, text_key
from retrieval_heads.data.prompt_format import Document, heading
from retrieval_heads.data.prompt_tokens import Counted, PromptTokens
from retrieval_heads.errors import ConfigError, DataError, ModelError

DEPTHS = tuple(step / 10 for step in range(11))
"""The depths that are used unless others are asked for."""
TOLERANCE = 0.05
"""Share of the length that may be missing when the pool is used up; more is an error."""
TOO_LONG = "the gold documents alone are longer than the length"
TOO_FEW = "the other documents are too few for the length"

_NUMBER = 100
"""Documents are counted with this number: one of three digits, as most have in a long prompt."""
_CLOSE = 0.01
"""Share of the length below which no further document is looked for."""
_MISSES = 100
"""Documents in a row that are too long for the rest, after which none is looked for."""
_CHUNK = 64
"""Documents that are counted in one call of the tokenizer."""


class Frame:
    """What stands around the documents of a prompt, and how many tokens of the reading model all of it is: a line of
    instruction, and with `chat` the tokenizer's chat template, its generation prompt included."""

    def __init__(
        self, tokenizer: Any, instruction: str = "", chat: bool = False, arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template", where=type(tokenizer).__name__,
                remedy="Put a chat_template.jinja into its folder, use an instruction-tuned one, or leave chat out.",
            )
        if arguments and not chat:
            raise ConfigError("there is no template to take arguments", where="template arguments",
                              value=dict(arguments), remedy="Also give --chat, or leave them out.")
        self.tokenizer, self.instruction, self.chat = tokenizer, instruction, chat
        self.template_arguments = template_arguments(tokenizer, arguments) if chat else {}
        self._tokens = PromptTokens(tokenizer)
        self._counts: dict[Text, int] = {}
        self._records: dict[int, _Record] = {}

    def count(self, documents: Sequence[Text]) -> list[int]:
        """Tokens of each document with its heading and the blank line after it; each is counted once and remembered."""
        new = [document for document in dict.fromkeys(documents) if document not in self._counts]
        if new:
            texts = [heading(_NUMBER, title) + f"{text}\n\n" for title, text in new]
            ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            self._counts.update(zip(new, map(len, ids), strict=True))
        return [self._counts[document] for document in documents]

    def record(self, source: Source) -> _Record:
        """What is found out about a record once for all lengths."""
        if id(source) not in self._records:  # which keeps the source, so that no other can have its id
            self._records[id(source)] = _Record(source, self)
        return self._records[id(source)]

    def finish(
        self, example: Example, documents: Sequence[Document] = (), like: Counted | None = None,
    ) -> tuple[Example, int]:
        """The example as the model reads it, and its tokens: prompt, answer and end of sequence; see `PromptTokens`."""
        finished = self._wrapped(example) if self.chat else example
        return finished, self._tokens.of(finished, documents, like)

    def _wrapped(self, example: Example) -> Example:
        """The example with its prompt as one user message in the chat template, needles moved along."""
        where = f"example {example.meta['id']}"
        messages = [{"role": "user", "content": example.prompt}]
        try:
            text, joint, template = write_chat(self.tokenizer, messages, self.template_arguments)
        except DataError as error:
            raise DataError(error.problem, where=where, value=error.value, remedy=error.remedy) from error
        if text.count(example.prompt) != 1:
            raise DataError(
                "the chat template changes the prompt, so that needles cannot be placed in it", where=where,
                value=text[:80], remedy="Use an instruction without white space around it, or leave chat out.",
            )
        start = text.index(example.prompt)
        needles = tuple((start + first, start + last) for first, last in example.needles)
        return replace(example, prompt=text, joint=joint, chat_template=template, needles=needles)


def check_depths(depths: Sequence[float]) -> tuple[float, ...]:
    """The depths as floats; `ConfigError` unless there is one and each lies in [0, 1]."""
    if not depths or not all(isinstance(depth, int | float) and 0 <= depth <= 1 for depth in depths):
        raise ConfigError("depths are fractions of the haystack", where="depths", value=list(depths),
                          remedy="Give one or more numbers from 0 (first) to 1 (last).")
    return tuple(float(depth) for depth in depths)


def spread(depths: Sequence[float], counts: Sequence[int], seed: int | str = 0) -> list[tuple[float, ...]]:
    """Depths for examples in turn, `counts[i]` of them for the gold documents of example `i`: the list is dealt again
    and again, each time in another seeded order, so that each depth is used equally often and in changing company."""
    rng = random.Random(f"depths:{seed}")
    dealt = chain.from_iterable(rng.sample(depths, len(depths)) for _ in repeat(None))
    return [tuple(islice(dealt, count)) for count in counts]


def arrange(tokens: Sequence[int], depths: Sequence[float]) -> tuple[list[int], list[float]]:
    """How many of the other documents (`tokens` of each) come before each gold one so that it is nearest to its depth,
    and the depths that are reached; 0 where there is no other document."""
    before = [0, *accumulate(tokens)]
    total = before[-1]
    slots = [min(range(len(before)), key=lambda slot: abs(before[slot] - depth * total)) for depth in depths]
    return slots, [before[slot] / total if total else 0.0 for slot in slots]


def lengthen(
    source: Source, pool: Pool, frame: Frame, length: int, *, depths: Sequence[float], seed: int = 0,
    apart: frozenset[str] = frozenset(),
) -> Example:
    """Make an example of at most `length` tokens of a record, and near to it.

    The record's own other documents come first, then documents of the pool, in a seeded order. Left out are gold
    documents of this record (also under another file's name), texts that are there already, and documents that hold an
    accepted answer; for a task whose answer is document numbers, those in which the insight stands word for word.

    All are whole, so the last gap is as wide as the shortest document that is looked at. The same seed at another
    length draws in the same order, so that a longer haystack has most of a shorter one's documents.

    Args:
        length: tokens of prompt, answer and end of sequence.
        depths: one for each gold document, in the record's order, in [0, 1].
        apart: keys of texts (`text_key`) that are left out too, such as gold documents of another split.

    Returns:
        The example; `meta` has what the loaders give and `length` (asked), `tokens`, and for the gold documents in
        their order in the prompt `depths` (reached) and `depths_asked`; `own` counts the record's own documents that
        are not gold, `added` those of others, and `refused` the ones passed over for holding an answer.

    Raises:
        UnusableRecordError: the gold documents alone are too long, or the others too few.
    """
    haystack = _Haystack(source, pool, frame, length, seed, apart)
    budget = haystack.budget
    example, tokens = haystack.example(budget, depths)
    if 0 <= length - tokens > _CLOSE * length:  # documents were counted a little too long
        fuller = haystack.example(budget + length - tokens, depths)
        example, tokens = fuller if tokens < fuller[1] <= length else (example, tokens)
    while tokens > length:
        budget -= tokens - length
        example, tokens = haystack.example(budget, depths)
    return example


def check_room(
    source: Source, pool: Pool, frame: Frame, lengths: Sequence[int], *, seed: int = 0,
    apart: frozenset[str] = frozenset(),
) -> None:
    """Raise the `UnusableRecordError` of `lengthen` if the record does not fit one of the lengths or the pool does not
    fill it; cheaper than making the examples."""
    for length in {min(lengths), max(lengths)}:
        _Haystack(source, pool, frame, length, seed, apart)


class _Record:
    """A record with nothing but its gold documents, and which documents hold one of its answers."""

    def __init__(self, source: Source, frame: Frame) -> None:
        self.source, gold = source, sorted(source.marked)
        bare, tokens = frame.finish(assemble(source, gold, frame.instruction))
        numbered = [(number, *source.documents[index]) for number, index in enumerate(gold, start=1)]
        self.bare = Counted(bare, numbered, tokens)
        self._forbidden = Forbidden(source.answers or (source.meta["insight"],))
        self._held: dict[str, bool] = {}

    def forbids(self, key: str, document: Text) -> bool:
        """Whether a document, of this `text_key`, may not be added."""
        if key not in self._held:
            self._held[key] = self._forbidden.held_by(*document)
        return self._held[key]


class _Haystack:
    """Documents for a record, proved to be enough, and the `budget` of tokens that they may have; those that were drawn
    are kept, so that another budget starts with the same ones."""

    def __init__(
        self, source: Source, pool: Pool, frame: Frame, length: int, seed: int, apart: frozenset[str],
    ) -> None:
        self._source, self._frame, self._length, self._seed = source, frame, length, seed
        self._rest, self._exhausted, self._refused = self._candidates(pool, apart), False, 0
        self._drawn: list[tuple[Text, int]] = []
        self._record = frame.record(source)
        bare = self._record.bare.tokens
        if bare > length:
            raise UnusableRecordError(
                TOO_LONG, where=source.where, value=f"{bare} tokens with question and answer, {length} allowed",
                remedy="Raise the length, or leave the record out.",
            )
        self.budget = length - bare
        self._take(self.budget)
        had = sum(tokens for _, tokens in self._drawn)
        if self._exhausted and had < self.budget - TOLERANCE * length:
            raise UnusableRecordError(
                TOO_FEW, where=source.where,
                value=f"{had} tokens of documents without the answer, {self.budget} needed",
                remedy="Lower the length, or give more records of the task.",
            )

    def example(self, budget: int, depths: Sequence[float]) -> tuple[Example, int]:
        """The example with documents of so many tokens around the gold ones, and its own tokens."""
        source, fillers = self._source, self._take(budget)
        fillers = random.Random(f"{self._seed}:{source.id}").sample(fillers, len(fillers))
        slots, reached = arrange([tokens for _, tokens in fillers], depths)
        gold = sorted(zip(slots, depths, sorted(source.marked), reached, strict=True))
        documents = (*source.documents, *(document for document, _ in fillers))
        order = list(range(len(source.documents), len(documents)))
        for slot, _, index, _ in reversed(gold):
            order.insert(slot, index)
        own = sum(document in source.documents for document, _ in fillers)
        example = assemble(
            replace(source, documents=documents), order, self._frame.instruction, length=self._length,
            depths=[round(depth, 4) for *_, depth in gold], depths_asked=[depth for _, depth, *_ in gold],
            own=own, added=len(fillers) - own, refused=self._refused,
        )
        numbered = [(number, *documents[index]) for number, index in enumerate(order, start=1)]
        example, tokens = self._frame.finish(example, numbered, self._record.bare)
        example.meta["tokens"] = tokens
        return example, tokens

    def _candidates(self, pool: Pool, apart: frozenset[str]) -> Iterator[Text]:
        """The documents that may be added, in their order; see `lengthen`."""
        source = self._source
        rng = np.random.default_rng(list(f"{self._seed}:{source.id}".encode()))
        own, others = [source.documents[index] for index in source.others], pool.items
        seen = {text_key(source.documents[index][1]) for index in source.marked}
        for key, document in chain(
            ((text_key(own[place][1]), own[place]) for place in rng.permutation(len(own))),
            (others[place] for place in rng.permutation(len(others))),
        ):
            if not key or key in seen or key in apart or source.id in pool.gold_of.get(key, ()):
                continue
            seen.add(key)
            if self._record.forbids(key, document):
                self._refused += 1
            else:
                yield document

    def _take(self, budget: int) -> list[tuple[Text, int]]:
        """Documents of together at most `budget` tokens, the first ones that fit."""
        taken, misses = [], 0
        for document, tokens in self._all():
            if tokens <= budget:
                taken.append((document, tokens))
                budget -= tokens
                misses = 0
            else:
                misses += 1
            if budget < _CLOSE * self._length or misses == _MISSES:
                break
        return taken

    def _all(self) -> Iterator[tuple[Text, int]]:
        yield from self._drawn
        while not self._exhausted:
            documents = list(islice(self._rest, _CHUNK))
            self._exhausted = len(documents) < _CHUNK
            counted = list(zip(documents, self._frame.count(documents), strict=True))
            self._drawn += counted
            yield from counted
