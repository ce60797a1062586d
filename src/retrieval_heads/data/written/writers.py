"""Where written texts come from: an endpoint that is asked, or a file of texts that were written elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from retrieval_heads.data.official.records import Record, read_records
from retrieval_heads.data.written.author import Order, write_texts
from retrieval_heads.data.written.cache import Reply
from retrieval_heads.data.written.checks import Fault, cleaned, find_fault
from retrieval_heads.data.written.client import Client
from retrieval_heads.errors import DataError
from retrieval_heads.files import content_digest


class Writer(Protocol):
    """A source of texts."""

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        """In the order of `orders`: the text, or why there is none that can be used."""

    def facts(self) -> dict[str, Any]:
        """What the record of the conditions says of it, as JSON values."""


class EndpointWriter:
    """Asks an endpoint, through its cache; see `write_texts`."""

    def __init__(self, client: Client, concurrency: int, attempts: int) -> None:
        self._client, self._concurrency, self._attempts = client, concurrency, attempts

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        return write_texts(self._client, orders, self._concurrency, self._attempts)

    def facts(self) -> dict[str, Any]:
        return {"model": self._client.endpoint.model, "parameters": dict(self._client.endpoint.parameters)}


class Passage(NamedTuple):
    """A text of a file; `answer` is the one that it was written for, empty where the file does not say."""

    text: str
    answer: str


class GivenTexts:
    """Texts of a file, JSON Lines with `id` (of the example), `fact` (0 where it is missing) and `text`.

    They are checked as those of an endpoint are. Where a record has an `answer` too, it has to be that of the example,
    so that texts for other examples with the same ids are noticed.

    Raises:
        DataError: a file that cannot be read, a record without these keys, two texts for one fact.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._passages: dict[tuple[str, int], Passage] = {}
        self._asked: set[tuple[str, int]] = set()
        for record in read_records(self._path):
            key, passage = _passage(record)
            if key in self._passages:
                raise DataError("two texts are for the same fact", where=record.where, value=key,
                                remedy="Leave one of them.")
            self._passages[key] = passage

    @property
    def unused(self) -> int:
        """How many texts belong to no example that was asked for."""
        return len(self._passages.keys() - self._asked)

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        return [self._text(order) for order in orders]

    def facts(self) -> dict[str, Any]:
        return {"model": None, "parameters": None, "texts": {
            "name": self._path.name, "sha256": content_digest(self._path), "texts": len(self._passages),
            "unused": self.unused,
        }}

    def _text(self, order: Order) -> str | Fault:
        self._asked.add((order.id, order.place))
        passage = self._passages.get((order.id, order.place))
        if passage is None:
            return Fault("no text is given", f"there is none in {self._path.name}.")
        if passage.answer and order.wanted.present and passage.answer not in order.wanted.present:
            return Fault("the text is for another answer",
                         f"it was written for {passage.answer!r}, and the answer is {order.wanted.present[0]!r}.")
        return find_fault(Reply(text=passage.text), order.wanted) or cleaned(passage.text)


def _passage(record: Record) -> tuple[tuple[str, int], Passage]:
    data = {"fact": 0, "answer": "", **record.data}
    for key, kind, what in (("id", str, "a text"), ("text", str, "a text"), ("answer", str, "a text"),
                            ("fact", int, "a whole number from 0")):
        if type(data.get(key)) is not kind or (key == "fact" and data[key] < 0):
            raise DataError(f"`{key}` is not {what}", where=record.where, value=data.get(key),
                            remedy="Give `id` of the example, `fact` (its place in the chain, from 0) and `text`.")
    return (data["id"], data["fact"]), Passage(data["text"], data["answer"].strip())
