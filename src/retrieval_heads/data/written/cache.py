"""Answers of an endpoint on disk, found by the content of the request, so that nothing is paid for twice; and what they
cost.

An entry's name is the SHA-256 of model, messages and parameters. Its file appears whole or not at all as soon as the
answer is there, so an interrupted run keeps what it paid for; a file that was damaged later is noticed and asked again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retrieval_heads.errors import ResultError
from retrieval_heads.files import UNREADABLE, write_whole


class Reply(BaseModel, strict=True, extra="forbid", frozen=True):
    """One answer of an endpoint.

    Attributes:
        text: what was written; empty where nothing was.
        finish: why it ended, as the endpoint says it (`stop`, `length`, `content_filter`).
        refused: whether the endpoint marks it as a refusal.
        tokens_in, tokens_out: tokens of the request and of the answer, None where the endpoint does not say.
    """

    text: str
    finish: str = "stop"
    refused: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None


def request_key(model: str, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> str:
    """SHA-256 (64 hexadecimal digits) of all that decides an answer; the order of parameters does not matter."""
    return _digest({"model": model, "messages": messages, "parameters": dict(parameters)})


class Cache:
    """Replies by the key of their request, one JSON file each: `FOLDER/ab/abcdef....json`.

    Attributes:
        damaged: how many entries were found damaged, and taken for missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged = 0

    def get(self, key: str) -> Reply | None:
        """The reply to that request; None when there is none, or only one that is not as it was written."""
        try:
            raw = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResultError(
                f"the cache cannot be used ({error.strerror or error})", where=self.folder,
                remedy="Free the disk or name another folder; answers that are stored already are kept.",
            ) from error
        try:
            entry = json.loads(raw)
            if entry["key"] == key and entry["digest"] == _digest([key, entry["reply"]]):
                return Reply.model_validate(entry["reply"])
        except UNREADABLE:
            pass
        self.damaged += 1
        return None

    def put(self, key: str, reply: Reply) -> None:
        """Store a reply for good; `ResultError` where the folder cannot be written."""
        content = reply.model_dump()
        entry = {"key": key, "reply": content, "digest": _digest([key, content])}
        write_whole(self._path(key), json.dumps(entry, indent=1).encode())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _digest(value: Any) -> str:
    # escaped to ASCII, so that half of a surrogate pair is no obstacle
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class Spending:
    """Requests, tokens and, where prices are known, money: a count that several threads add to.

    Attributes:
        price_in, price_out: price of a million tokens sent and received, in any currency; None when unknown.
        requests, cached: answers that the endpoint gave in this run, and those from an earlier one.
        tokens_in, tokens_out: sent and received in this run, but for `unreported` answers without a count.
    """

    price_in: float | None = None
    price_out: float | None = None
    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unreported: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, reply: Reply) -> None:
        """Count an answer of the endpoint."""
        with self._lock:
            self.requests += 1
            self.tokens_in += reply.tokens_in or 0
            self.tokens_out += reply.tokens_out or 0
            self.unreported += reply.tokens_in is None or reply.tokens_out is None

    def add_cached(self) -> None:
        """Count an answer that cost nothing."""
        with self._lock:
            self.cached += 1

    def cost(self) -> float | None:
        """Tokens times prices, in the currency of the prices; None unless both are known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.tokens_in * self.price_in + self.tokens_out * self.price_out) / 1e6

    def line(self) -> str:
        """The count in a line: `12 requests, 3 from the cache, 4,567 tokens in, 890 out, cost 0.0123`."""
        text = (f"{self.requests:,} requests, {self.cached:,} from the cache, {self.tokens_in:,} tokens in, "
                f"{self.tokens_out:,} out")
        if self.unreported:
            text += f" ({self.unreported:,} answers without a count)"
        cost = self.cost()
        return text if cost is None else f"{text}, cost {cost:.4f}"
