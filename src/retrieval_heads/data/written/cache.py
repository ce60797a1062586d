"""Answers of an endpoint on disk, found by the content of the request, so that nothing is paid for twice.

An entry's name is the SHA-256 of model, messages and parameters. Its file appears whole or not at all as soon as the
answer is there, so an interrupted run keeps what it paid for; a file that was damaged later is noticed and asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole


class Reply(BaseModel):
    """One answer of an endpoint.

    Attributes:
        text: what was written; empty where nothing was.
        finish: why it ended, as the endpoint says it (`stop`, `length`, `content_filter`).
        refused: whether the endpoint marks it as a refusal.
        tokens_in: tokens of the request, None where the endpoint does not say.
        tokens_out: tokens of the answer, None where it does not say.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

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

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Reply | None:
        """The reply to that request; None when there is none, or only a damaged one."""
        try:
            raw = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from error
        reply = _sound(raw, key)
        self.damaged += reply is None
        return reply

    def put(self, key: str, reply: Reply) -> None:
        """Store a reply for good.

        Raises:
            ResultError: the folder cannot be written.
        """
        content = reply.model_dump()
        entry = {"key": key, "reply": content, "digest": _digest([key, content])}
        write_whole(self.path(key), json.dumps(entry, indent=1).encode())

    def _refused(self, error: OSError) -> ResultError:
        return ResultError(
            f"the cache cannot be used ({error.strerror or error})", where=self.folder,
            remedy="Free the disk or name another folder; answers that are stored already are kept.",
        )


def _sound(raw: bytes, key: str) -> Reply | None:
    """The reply of an entry, or None unless it is whole, of that key and as it was written."""
    try:
        entry = json.loads(raw)
        if entry["key"] != key or entry["digest"] != _digest([key, entry["reply"]]):
            return None
        return Reply.model_validate(entry["reply"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def _digest(value: Any) -> str:
    # escaped to ASCII, so that half of a surrogate pair is no obstacle
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
