"""Where written texts come from: an endpoint that is asked, the batch interface of a service, or a file of texts that
were written elsewhere.

A text that fails its checks is asked for again with the reason, in the same conversation, and given up after some
attempts. The batch interface is OpenAI's, which others have too: a file of requests, later one of answers, each request
known by its `custom_id`. That is the key under which the cache keeps the answer, so answers may come in any order and
in several files, and texts that fail are asked for again in the next batch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval_heads.data.official.records import Record, each_record, read_records
from retrieval_heads.data.written.cache import Cache, Reply, request_key
from retrieval_heads.data.written.client import Client, read_reply
from retrieval_heads.data.written.orders import Fault, Messages, Order, ask_again, cleaned, find_fault
from retrieval_heads.errors import ConfigError, DataError, StudyError
from retrieval_heads.files import content_digest, write_whole

URL = "/v1/chat/completions"
_UNANSWERED = Fault("there is no answer to it", "the batches hold no answer to it.")


def settle(
    order: Order, attempts: int, ask: Callable[[Messages], Reply | None],
) -> tuple[str | Fault, Messages | None, list[Messages]]:
    """How far an order comes: its text, or what is wrong with the last answer; what is to be asked next where `ask` has
    no answer to it; and all that was asked up to there.

    Each attempt goes on in the conversation of the one before, so that the writer is told what to mend; and as its
    messages differ, the cache keeps every attempt.
    """
    messages, result, asked = order.messages, _UNANSWERED, []
    for left in reversed(range(attempts)):
        asked.append(messages)
        reply = ask(messages)
        if reply is None:
            return result, messages, asked
        fault = find_fault(reply, order.wanted)
        if fault is None:
            return cleaned(reply.text), None, asked
        result = fault
        if left:
            messages = ask_again(messages, reply.text, fault.told)
    return result, None, asked


class EndpointWriter:
    """Asks an endpoint, with at most `concurrency` requests at a time.

    On a terminal a line shows how far it is, with tokens and cost. What was answered before an error is in the cache;
    requests that had not begun are not sent.
    """

    def __init__(self, client: Client, concurrency: int = 8, attempts: int = 3) -> None:
        for name, value in (("concurrency", concurrency), ("attempts", attempts)):
            if value < 1:
                raise ConfigError("not a count", where=name, value=value, remedy="Give 1 or more.")
        self._client, self._concurrency, self._attempts = client, concurrency, attempts

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        """For each order, in their order, a text or why there is none that can be used."""
        def work(order: Order) -> str | Fault:
            return settle(order, self._attempts, self._client.complete)[0]

        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="write") as pool, tqdm(
            total=len(orders), desc="written", unit="text", disable=not sys.stderr.isatty(), leave=False,
        ) as bar:
            futures = [pool.submit(work, order) for order in orders]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.set_postfix_str(self._client.spending.line(), refresh=False)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def facts(self) -> dict[str, Any]:
        """What the record of the conditions says of it, as JSON values."""
        return {"model": self._client.endpoint.model, "parameters": dict(self._client.endpoint.parameters)}


@dataclass
class Batch:
    """The answers of batches that are known so far, and what is to be asked next: a text `attempts` times over all
    batches. `failed` has the lines of read batches that hold no answer, each with its place and the reason."""

    cache: Cache
    model: str
    parameters: Mapping[str, Any]
    attempts: int
    failed: list[str] = field(default_factory=list)

    def texts(self, orders: Sequence[Order]) -> list[str | Fault]:
        return [self._settled(order)[0] for order in orders]

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "parameters": dict(self.parameters), "failed_lines": self.failed}

    def write_requests(self, path: str | Path, orders: Sequence[Order]) -> int:
        """Write the next request of each order without a text, one per line. Returns how many; 0 writes nothing."""
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
        """Take the answers of the files into the cache. Returns how many there were; `DataError` for none."""
        taken = 0
        for path in paths:
            left = list(each_record(path))
            while True:  # in rounds, as the answer to a repeated request may stand before that to the first one
                known = {self._key(messages): order for order in orders for messages in self._settled(order)[2]}
                mine = [isinstance(record, Record) and _id_of(record) in known for record in left]
                if not any(mine):
                    break
                taken += sum(self._take(record, known[_id_of(record)]) for record in compress(left, mine))
                left = [record for record, taking in zip(left, mine, strict=True) if not taking]
            self.failed += [
                str(record) if isinstance(record, DataError) else
                f"{record.where}, custom_id {_id_of(record)}: it answers no request of these arguments"
                for record in left
            ]
        if not taken and self.failed:
            raise DataError(
                "no line answers a request", where=", ".join(map(str, paths)), value=self.failed[0],
                remedy="Give the arguments (--real, --model, --parameters, --distractors) of --batch-out.",
            )
        return taken

    def _settled(self, order: Order) -> tuple[str | Fault, Messages | None, list[Messages]]:
        return settle(order, self.attempts, lambda messages: self.cache.get(self._key(messages)))

    def _key(self, messages: Messages) -> str:
        return request_key(self.model, messages, self.parameters)

    def _take(self, record: Record, order: Order) -> bool:
        """Put the answer of a line into the cache, or note why it has none."""
        key, response = _id_of(record), record.data.get("response")
        try:
            if not isinstance(response, dict) or response.get("status_code", 200) != 200:
                raise ValueError(_told(record.data.get("error")) or _told(response) or "no response")
            self.cache.put(key, read_reply(json.dumps(response.get("body"))))
        except StudyError:
            raise
        except (ValueError, RecursionError) as error:
            whose = f"{order.id}, text {order.place}" if order.id else "a document of the context"
            self.failed.append(f"{record.where}, custom_id {key} ({whose}): {error}")
            return False
        return True


def _id_of(record: Record) -> str:
    return str(record.data.get("custom_id"))


def _told(value: Any) -> str:
    """What an error object says, as the interface has it: in `message`, or deeper in `body` and `error`."""
    while isinstance(value, dict):
        if isinstance(value.get("message"), str):
            return value["message"]
        value = value.get("error") or value.get("body")
    return value if isinstance(value, str) else ""


class GivenTexts:
    """Texts of a file, JSON Lines with `id` (of the example), `fact` (0 where it is missing) and `text`.

    They are checked as those of an endpoint are. An `answer` of a record has to be that of the example, so that texts
    for other examples with the same ids are noticed. `DataError` for a file that cannot be read, a record without these
    keys, two texts for one fact.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._passages: dict[tuple[str, int], tuple[str, str]] = {}  # text, and the answer that it was written for
        self._asked: set[tuple[str, int]] = set()
        for record in read_records(self._path):
            data = _passage(record)
            key = (data["id"], data["fact"])
            if key in self._passages:
                raise DataError("two texts are for the same fact", where=record.where, value=key,
                                remedy="Leave one of them.")
            self._passages[key] = data["text"], data["answer"].strip()

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
        if (order.id, order.place) not in self._passages:
            return Fault("no text is given", f"there is none in {self._path.name}.")
        text, answer = self._passages[order.id, order.place]
        if answer and order.wanted.present and answer not in order.wanted.present:
            return Fault("the text is for another answer",
                         f"it was written for {answer!r}, and the answer is {order.wanted.present[0]!r}.")
        return find_fault(Reply(text=text), order.wanted) or cleaned(text)


def _passage(record: Record) -> dict[str, Any]:
    data = {"fact": 0, "answer": "", **record.data}
    for key, kind, what in (("id", str, "a text"), ("text", str, "a text"), ("answer", str, "a text"),
                            ("fact", int, "a whole number from 0")):
        if type(data.get(key)) is not kind or (key == "fact" and data[key] < 0):
            raise DataError(f"`{key}` is not {what}", where=record.where, value=data.get(key),
                            remedy="Give `id` of the example, `fact` (its place in the chain, from 0) and `text`.")
    return data
