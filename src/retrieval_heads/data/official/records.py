"""Records of a data file, each with its file and line: JSON Lines, gzipped or not, or a JSON array of the same records.

JSON Lines are read one line at a time, so memory does not grow with the file. A file is known by its first bytes and
not by its name, so a `.gz` that a browser has unpacked already is read as well. Whatever is wrong with a file is one
`DataError` that names file and line; records before it have been handed out by then.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from retrieval_heads.errors import ConfigError, DataError

_GZIP_MAGIC = b"\x1f\x8b"
_SPACE = re.compile(r"[ \t\n\r]*")  # the white space of JSON, which is less than that of `str.isspace`
_AGAIN = "Fetch the file again."


@dataclass(frozen=True)
class Record:
    """One record: its keys and values, and the file and line (from 1) it begins on."""

    data: dict[str, Any]
    path: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"


def read_records(path: str | Path, limit: int | None = None) -> Iterator[Record]:
    """Read the first `limit` records (all when None) of JSON Lines or of a JSON array, plain or gzipped.

    Nothing behind the last wanted record is parsed, so `limit` also reads the sound part of a file that breaks off.

    Raises:
        DataError: a missing, empty or unreadable file, damaged gzip, text that is not UTF-8, malformed JSON, a record
            that is no object. Raised when the iterator gets there.
        ConfigError: `limit` below 1.
    """
    check_count("limit", limit)
    return _read(Path(path), limit, _json_lines)


def each_record(path: str | Path) -> Iterator[Record | DataError]:
    """Read JSON Lines, or a JSON array, to the end: each record, or the error that stands in its place.

    A broken line does not end it; what makes the rest unreadable does (damaged gzip, malformed JSON in an array). A
    missing or empty file is one error.
    """
    path, anything = Path(path), False
    try:
        for line, raw in _byte_lines(path):
            try:
                text = _decoded(path, line, raw)
                if not text.strip():
                    continue
                if not anything and text.lstrip().startswith("["):
                    yield from _whole_text(path)
                    return
                outcome = _line_record(path, line, text)
            except DataError as error:
                outcome = error
            anything = True
            yield outcome
        if not anything:
            raise DataError("the file holds no record", where=path, remedy=_AGAIN)
    except DataError as error:
        yield error


def read_documents(path: str | Path, limit: int | None = None) -> Iterator[Record]:
    """Read JSON objects that may each run over several lines, or a JSON array of them; the whole file is in memory.

    Raises: as `read_records`.
    """
    check_count("limit", limit)
    return _read(Path(path), limit, _whole_text)


def check_count(name: str, count: int | None) -> None:
    """Raise `ConfigError` unless the argument `name` is None or at least 1."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigError("not a count", where=name, value=count, remedy="Give 1 or more, or None for all.")


def described(value: Any) -> Any:
    """A JSON value for an error message: containers by their size, since they may be large or deeply nested."""
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else value


def _read(path: Path, limit: int | None, parse: Callable[[Path], Iterator[Record]]) -> Iterator[Record]:
    count = 0
    for count, record in enumerate(parse(path), start=1):
        yield record
        if count == limit:
            return
    if not count:
        raise DataError("the file holds no record", where=path, remedy=_AGAIN)


def _json_lines(path: Path) -> Iterator[Record]:
    count = 0
    for line, text in _text_lines(path):
        if not text.strip():
            continue
        if not count and text.lstrip().startswith("["):
            yield from _whole_text(path)
            return
        yield _line_record(path, line, text, count)
        count += 1


def _line_record(path: Path, line: int, text: str, count: int | None = None) -> Record:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        _malformed(path, line, text, error, count)
    return _record(path, line, value)


def _whole_text(path: Path) -> Iterator[Record]:
    text = "".join(part for _, part in _text_lines(path))
    line, counted, count = 1, 0, 0
    try:
        for start, value in _values(text):
            line, counted = line + text.count("\n", counted, start), start
            yield _record(path, line, value)
            count += 1
    except DataError:  # is a ValueError, too, and has its message already
        raise
    except (ValueError, RecursionError) as error:
        _malformed(path, getattr(error, "lineno", line), text, error, count)


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of an array, or values one after the other, each with the place where it begins."""
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, 0)
    if not text.startswith("[", position):
        while position < len(text):
            value, end = decode(text, position)
            yield position, value
            position = _skip(text, end)
        return
    position = _skip(text, position + 1)
    closed = text.startswith("]", position)
    while not closed:
        value, end = decode(text, position)
        yield position, value
        position = _skip(text, end)
        closed = text.startswith("]", position)
        if not closed:
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = _skip(text, position + 1)
    position = _skip(text, position + 1)
    if position < len(text):
        raise json.JSONDecodeError("Extra data behind the array", text, position)


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


def _record(path: Path, line: int, value: Any) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            "the record is no JSON object", where=f"{path}, line {line}", value=described(value),
            remedy="Write one object a line, or a JSON array of objects.",
        )
    return Record(value, path, line)


def _malformed(
    path: Path, line: int, text: str, error: ValueError | RecursionError, count: int | None,
) -> NoReturn:
    """Raise the error of JSON that cannot be parsed; `count` records come before it, None if it is no matter."""
    if isinstance(error, json.JSONDecodeError):
        broken_off = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        problem = "the record breaks off" if broken_off else "malformed JSON"
        problem += f" ({error.msg})"
        value = text[max(0, error.pos - 40) : error.pos + 40]
    else:
        problem, value = f"the JSON cannot be read ({error})", text[:80]
    if count is None:
        remedy = "Write one whole JSON object a line."
    elif count:
        remedy = f"{_AGAIN[:-1]}, or give limit={count} for the {count} sound records before it."
    else:
        remedy = f"{_AGAIN[:-1]}; it should hold JSON Lines or a JSON array."
    raise DataError(problem, where=f"{path}, line {line}", value=value, remedy=remedy) from None


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines from 1 as text. Split at line feeds only: other line separators may stand inside a JSON string."""
    for line, raw in _byte_lines(path):
        yield line, _decoded(path, line, raw)


def _decoded(path: Path, line: int, raw: bytes) -> str:
    try:
        # a byte order mark is no part of the first record
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line is not UTF-8", where=f"{path}, line {line}",
            value=raw[max(0, error.start - 20) : error.start + 20], remedy=f"Save the file as UTF-8. {_AGAIN}",
        ) from None


def _byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    line = 0
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == _GZIP_MAGIC
            for line, raw in enumerate(gzip.GzipFile(fileobj=file) if packed else file, start=1):
                yield line, raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"the gzip stream is damaged or cut off ({error})", where=f"{path}, after line {line}", remedy=_AGAIN,
        ) from None
    except FileNotFoundError:
        raise DataError(
            "no such file", where=path, remedy="Check the path; RETRIEVAL_HEADS_DATA names the folder of the files.",
        ) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=path, remedy=_AGAIN) from None
