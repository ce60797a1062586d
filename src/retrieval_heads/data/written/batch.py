"""Texts through the batch interface of OpenAI's, which others have too: a file of requests, later one of answers.

One request a line, known by its `custom_id`. That is the key under which the cache keeps the answer, so answers may
come in any order and in several files, and texts that fail are asked for again in the next batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from retrieval_heads.data.official.records import Record, each_record
from retrieval_heads.data.written.author import Order, asked_again
from retrieval_heads.data.written.cache import Cache, request_key
from retrieval_heads.data.written.checks import Fault, cleaned, find_fault
from retrieval_heads.data.written.client import read_reply
from retrieval_heads.data.written.messages import Messages
from retrieval_heads.errors import DataError, StudyError
from retrieval_heads.files import write_whole

URL = "/v1/chat/completions"
_UNANSWERED = Fault("there is no answer to it", "the batches hold no answer to it.")


@dataclass
class Batch:
    """The answers that are known so far, and what is to be asked next.

    Attributes:
        cache: where answers are kept.
        model, parameters: as they are sent; part of what an answer is known by.
        attempts: how often a text is asked for, over all batches.
        failed: lines of read batches that hold no answer, each with its place and the reason.
    """

    cache: Cache
    model: str
    parameters: Mapping[str, Any]
    attempts: int
    failed: list[str] = field(default_factory=list)

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        """See `Writer`."""
        return [self._settled(order)[0] for order in orders]

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "parameters": dict(self.parameters), "failed_lines": self.failed}

    def write_requests(self, path: str | Path, orders: Sequence[Order]) -> int:
        """Write the next request of each order that has no text yet, one a line. Returns how many; 0 writes nothing.

        Raises:
            ResultError: the file cannot be written.
        """
        lines = {}
        for order in orders:
            messages = self._settled(order)[1]
            if messages is not None:
                key = self._key(messages)
                named = {name: value for name, value in self.parameters.items() if name != "extra_body"}
                body = {"model": self.model, "messages": messages, **named, **self.parameters.get("extra_body", {})}
                lines[key] = json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body})
        if lines:
            write_whole(Path(path), ("\n".join(lines.values()) + "\n").encode())
        return len(lines)

    def read_answers(self, paths: Iterable[str | Path], orders: Sequence[Order]) -> int:
        """Take the answers of the files into the cache. Returns how many there were.

        Raises:
            DataError: a file that cannot be read, or no line that answers a request of these orders.
        """
        taken = 0
        for path in paths:
            left = list(each_record(path))
            while True:  # in rounds, as the answer to a repeated request may stand before that to the first one
                known = {key: order for order in orders for key in self._settled(order)[2]}
                mine = [isinstance(record, Record) and _id_of(record) in known for record in left]
                if not any(mine):
                    break
                taken += sum(self._take(record, known[_id_of(record)]) for record in compress(left, mine))
                left = [record for record, taking in zip(left, mine, strict=True) if not taking]
            self.failed += map(_stranger, left)
        if not taken and self.failed:
            raise DataError(
                "no line answers a request", where=", ".join(map(str, paths)), value=self.failed[0],
                remedy="Give the arguments (--real, --model, --parameters, --distractors) of --batch-out.",
            )
        return taken

    def _settled(self, order: Order) -> tuple[str | Fault, Messages | None, list[str]]:
        """The text of an order or what is wrong with the last answer; what is to be asked next, if anything; and the
        keys of all requests up to there."""
        messages, result, keys = order.messages, _UNANSWERED, []
        for left in reversed(range(self.attempts)):
            keys.append(self._key(messages))
            reply = self.cache.get(keys[-1])
            if reply is None:
                return result, messages, keys
            fault = find_fault(reply, order.wanted)
            if fault is None:
                return cleaned(reply.text), None, keys
            result = fault
            if left:
                messages = asked_again(messages, reply, fault)
        return result, None, keys

    def _key(self, messages: Messages) -> str:
        return request_key(self.model, messages, self.parameters)

    def _take(self, record: Record, order: Order) -> bool:
        """Put the answer of a line into the cache, or note why it has none."""
        key, response = _id_of(record), record.data.get("response")
        try:
            if not isinstance(response, dict) or response.get("status_code", 200) != 200:
                raise ValueError(_told(record.data.get("error")) or _told(response) or "no response")
            self.cache.put(key, read_reply(json.dumps(response.get("body"))))
        except (ValueError, RecursionError) as error:
            if isinstance(error, StudyError):
                raise
            whose = f"{order.id}, text {order.place}" if order.id else "a document of the context"
            self.failed.append(f"{record.where}, custom_id {key} ({whose}): {error}")
            return False
        return True


def _id_of(record: Record) -> str:
    return str(record.data.get("custom_id"))


def _stranger(record: Record | DataError) -> str:
    if isinstance(record, DataError):
        return str(record)
    return f"{record.where}, custom_id {_id_of(record)}: it answers no request of these arguments"


def _told(value: Any) -> str:
    """What an error object says, as the interface has it: in `message`, or deeper in `body` and `error`."""
    while isinstance(value, dict):
        if isinstance(value.get("message"), str):
            return value["message"]
        value = value.get("error") or value.get("body")
    return value if isinstance(value, str) else ""
