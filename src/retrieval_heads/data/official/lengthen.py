"""A record at length: documents of other records are added until its prompt has the wanted number of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.assemble import Source, assemble
from retrieval_heads.data.official.depths import arrange, check_depths
from retrieval_heads.data.official.frame import Frame
from retrieval_heads.data.official.pool import Candidates, Pool, Text
from retrieval_heads.data.official.usable import UnusableRecordError
from retrieval_heads.errors import ConfigError

TOLERANCE = 0.05
"""Share of the length that may be missing when the pool is used up; more is an error."""

TOO_LONG = "the gold documents alone are longer than the length"
TOO_FEW = "the other documents are too few for the length"

_CLOSE = 0.01
"""Share of the length below which no further document is looked for."""
_MISSES = 100
"""Documents in a row that are too long for the rest, after which none is looked for."""
_CHUNK = 64
"""Documents that are counted in one call of the tokenizer."""


def lengthen(
    source: Source, pool: Pool, frame: Frame, length: int, *, depths: Sequence[float], seed: int = 0,
    apart: frozenset[str] = frozenset(),
) -> Example:
    """Make an example of at most `length` tokens of a record, and near to it.

    The record's own other documents come first, then documents of the pool, in a seeded order; what is left out is
    said at `Candidates`. All are whole, so the last gap is as wide as the shortest document that is looked at. The same
    seed at another length draws in the same order, so that a longer haystack has most of a shorter one's documents.

    Args:
        source: the record.
        pool: documents of all records.
        frame: tokenizer, instruction and chat template.
        length: tokens of prompt, answer and end of sequence.
        depths: one for each gold document, in the record's order, in [0, 1]; see `depths.py`.
        seed: of the drawing and the order of the documents that are not gold.
        apart: keys of texts that are kept away; see `Candidates`.

    Returns:
        The example; `meta` has what the loaders give and `length` (asked), `tokens`, and for the gold documents in
        their order in the prompt `depths` (reached) and `depths_asked`; `own` counts the record's own documents that
        are not gold, `added` those of others, and `refused` the ones passed over for holding an answer.

    Raises:
        UnusableRecordError: the gold documents alone are too long, or the others too few.
        ConfigError: another number of depths than gold documents, or a depth outside [0, 1].
    """
    gold = sorted(source.marked)
    depths = check_depths(depths)
    if len(depths) != len(gold):
        raise ConfigError(
            f"there are {len(gold)} gold documents", where=f"{source.where}, depths", value=depths,
            remedy="Give a depth for each; `spread` deals them.",
        )
    haystack, budget = _haystack(source, pool, frame, length, seed, apart)
    example, tokens = _written(source, haystack, haystack.take(budget), depths, length, seed)
    if 0 <= length - tokens > _CLOSE * length:  # documents were counted a little too long
        fuller = _written(source, haystack, haystack.take(budget + length - tokens), depths, length, seed)
        example, tokens = fuller if tokens < fuller[1] <= length else (example, tokens)
    while tokens > length:
        budget -= tokens - length
        example, tokens = _written(source, haystack, haystack.take(budget), depths, length, seed)
    return example


def check_room(
    source: Source, pool: Pool, frame: Frame, lengths: Sequence[int], *, seed: int = 0,
    apart: frozenset[str] = frozenset(),
) -> None:
    """Raise the `UnusableRecordError` of `lengthen` if the record does not fit one of the lengths or the pool does not
    fill it; cheaper than making the examples."""
    for length in {min(lengths), max(lengths)}:
        _haystack(source, pool, frame, length, seed, apart)


def _haystack(
    source: Source, pool: Pool, frame: Frame, length: int, seed: int, apart: frozenset[str],
) -> tuple[_Haystack, int]:
    """Documents for the record, proved to be enough, and the tokens that they may have."""
    bare = frame.finish(assemble(source, sorted(source.marked), frame.instruction))[1]
    if bare > length:
        raise UnusableRecordError(
            TOO_LONG, where=source.where, value=f"{bare} tokens with question and answer, {length} allowed",
            remedy="Raise the length, or leave the record out.",
        )
    haystack, needed = _Haystack(Candidates(source, pool, apart, seed), frame, length), length - bare
    haystack.take(needed)
    if haystack.exhausted and haystack.tokens < needed - TOLERANCE * length:
        raise UnusableRecordError(
            TOO_FEW, where=source.where,
            value=f"{haystack.tokens} tokens of documents without the answer, {needed} needed",
            remedy="Lower the length, or give more records of the task.",
        )
    return haystack, needed


class _Haystack:
    """Candidates with their tokens; those that were drawn are kept, so that another budget starts with the same ones.

    Attributes:
        drawn: documents so far, and `tokens` of all of them.
        exhausted: whether there are no more.
    """

    def __init__(self, candidates: Candidates, frame: Frame, length: int) -> None:
        self.candidates, self.frame, self.length = candidates, frame, length
        self.drawn: list[tuple[Text, int]] = []
        self.tokens, self.exhausted = 0, False
        self._rest = iter(candidates)

    def take(self, budget: int) -> list[tuple[Text, int]]:
        """Documents of together at most `budget` tokens, the first ones that fit."""
        taken, misses = [], 0
        for document, tokens in self._all():
            if tokens <= budget:
                taken.append((document, tokens))
                budget -= tokens
                misses = 0
            else:
                misses += 1
            if budget < _CLOSE * self.length or misses == _MISSES:
                break
        return taken

    def _all(self) -> Iterator[tuple[Text, int]]:
        yield from self.drawn
        while not self.exhausted:
            documents = list(islice(self._rest, _CHUNK))
            self.exhausted = len(documents) < _CHUNK
            counted = list(zip(documents, self.frame.count(documents), strict=True))
            self.drawn += counted
            self.tokens += sum(tokens for _, tokens in counted)
            yield from counted


def _written(
    source: Source, haystack: _Haystack, fillers: list[tuple[Text, int]], depths: Sequence[float], length: int,
    seed: int,
) -> tuple[Example, int]:
    """The example with these documents around the gold ones, and its tokens."""
    fillers = random.Random(f"{seed}:{source.id}").sample(fillers, len(fillers))
    slots, reached = arrange([tokens for _, tokens in fillers], depths)
    gold = sorted(zip(slots, depths, sorted(source.marked), reached, strict=True))
    documents = (*source.documents, *(document for document, _ in fillers))
    order = list(range(len(source.documents), len(documents)))
    for slot, _, index, _ in reversed(gold):
        order.insert(slot, index)
    own = sum(document in source.documents for document, _ in fillers)
    example, tokens = haystack.frame.finish(assemble(
        source.with_documents(documents), order, haystack.frame.instruction, length=length,
        depths=[round(depth, 4) for *_, depth in gold], depths_asked=[depth for _, depth, *_ in gold],
        own=own, added=len(fillers) - own, refused=haystack.candidates.refused,
    ))
    example.meta["tokens"] = tokens
    return example, tokens
