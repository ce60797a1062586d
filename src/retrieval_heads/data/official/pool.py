"""The pool: documents of many records, each text once, from which haystacks are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.forbidden import Forbidden

Text = tuple[str, str]
"""A document as `(title, text)`."""


def text_key(text: str) -> str:
    """What makes two documents the same one: their text, whatever its case and white space."""
    return " ".join(text.split()).casefold()


@dataclass
class Pool:
    """Documents of records; the first title of a text is kept.

    Attributes:
        documents: by `text_key`, in the order of the records.
        gold_of: by `text_key`, the ids of the records of which the document is gold.
    """

    documents: dict[str, Text] = field(default_factory=dict)
    gold_of: dict[str, set[str]] = field(default_factory=dict)

    def __init__(self, sources: Iterable[Source]) -> None:
        self.documents, self.gold_of = {}, {}
        keys: dict[str, str] = {}  # the insights of a topic share its documents, whose keys are made once
        for source in sources:
            for index, (title, text) in enumerate(source.documents):
                key = keys.get(text) or keys.setdefault(text, text_key(text))
                self.documents.setdefault(key, (title, text))
                if index in source.marked:
                    self.gold_of.setdefault(key, set()).add(source.id)

    def __len__(self) -> int:
        return len(self.documents)


class Candidates:
    """The documents that may be added to a record, in a seeded order: its own first, then those of the pool.

    Left out are gold documents of this record (also under another file's name), texts that are there already, texts in
    `apart`, and documents that hold an accepted answer; for a task whose answer is document numbers, those in which
    the insight stands word for word.

    Args:
        source: the record.
        pool: documents of all records.
        apart: keys of texts (`text_key`) that are kept away, such as gold documents of another split.
        seed: of the order, which also depends on the record's id.

    Attributes:
        refused: how many documents were passed over for holding an answer.
    """

    def __init__(self, source: Source, pool: Pool, apart: frozenset[str], seed: int) -> None:
        self._source, self._pool, self._apart = source, pool, apart
        self._seen = {text_key(source.documents[index][1]) for index in source.marked}
        self._forbidden = Forbidden(source.answers or (source.meta["insight"],))
        self._rng = np.random.default_rng(list(f"{seed}:{source.id}".encode()))
        self.refused = 0

    def __iter__(self) -> Iterator[Text]:
        own = [document for index, document in enumerate(self._source.documents) if index not in self._source.marked]
        for place in self._rng.permutation(len(own)):
            yield from self._admitted(text_key(own[place][1]), own[place])
        keys = list(self._pool.documents)
        for place in self._rng.permutation(len(keys)):
            yield from self._admitted(keys[place], self._pool.documents[keys[place]])

    def _admitted(self, key: str, document: Text) -> Iterator[Text]:
        if key in self._seen or key in self._apart or self._source.id in self._pool.gold_of.get(key, ()) or not key:
            return
        self._seen.add(key)
        if self._forbidden.held_by(*document):
            self.refused += 1
            return
        yield document
