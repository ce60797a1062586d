"""Records of a data file, each with its file and line: JSON Lines, gzipped or not, or a JSON array of the same records.

Records are read one at a time, so memory grows with the longest record and not with the file. A file is known by its
first bytes and not by its name, so a `.gz` that a browser has unpacked already is read as well. Whatever is wrong with
a file is one `DataError` that names file and line; records before it have been handed out by then.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from retrieval_heads.data.official.json_stream import JsonStream
from retrieval_heads.errors import ConfigError, DataError

_GZIP_MAGIC = b"\x1f\x8b"
_PIECE = 2**18
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


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, gzipped or not, with their numbers from 1; raises as `read_records`."""
    return _text_lines(Path(path))


def each_record(path: str | Path) -> Iterator[Record | DataError]:
    """Read JSON Lines, or a JSON array, to the end: each record, or the error that stands in its place.

    A broken line does not end it; what makes the rest unreadable does (damaged gzip, malformed JSON in an array). A
    missing or empty file is one error.
    """
    path, anything = Path(path), False
    try:
        lines = _byte_lines(path)
        for line, raw in lines:
            try:
                text = _decoded(path, line, raw)
                if not text.strip():
                    continue
                if not anything and text.lstrip().startswith("["):
                    break
                outcome: Record | DataError = _line_record(path, line, text)
            except DataError as error:
                outcome = error
            anything = True
            yield outcome
        else:
            if not anything:
                raise DataError("the file holds no record", where=path, remedy=_AGAIN)
            return
        for record in _values(path, chain(["\n" * (line - 1), text], _texts(path, lines))):
            anything = True
            yield record
        if not anything:
            raise DataError("the file holds no record", where=path, remedy=_AGAIN)
    except DataError as error:
        yield error


def read_documents(path: str | Path, limit: int | None = None) -> Iterator[Record]:
    """Read JSON objects that may each run over several lines, or a JSON array of them.

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
    count, lines = 0, _text_lines(path)
    for line, text in lines:
        if not text.strip():
            continue
        if not count and text.lstrip().startswith("["):
            yield from _values(path, chain(["\n" * (line - 1), text], (part for _, part in lines)))
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
    return _values(path, (part for _, part in _text_lines(path, in_pieces=True)))


def _values(path: Path, pieces: Iterable[str]) -> Iterator[Record]:
    """The records of a JSON array, or objects one after the other, from pieces of text."""
    stream, line, count = JsonStream(pieces), 1, 0
    try:
        for line, value in stream.values():
            yield _record(path, line, value)
            count += 1
    except DataError:  # is a ValueError, too, and has its message already
        raise
    except json.JSONDecodeError as error:
        _malformed(path, stream.line_of(error.pos), stream.text, error, count)
    except (ValueError, RecursionError) as error:
        _malformed(path, line, stream.text[stream.position :], error, count)


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


def _text_lines(path: Path, in_pieces: bool = False) -> Iterator[tuple[int, str]]:
    """Lines from 1 as text. Split at line feeds only: other line separators may stand inside a JSON string."""
    return ((line, _decoded(path, line, raw)) for line, raw in _byte_lines(path, in_pieces))


def _texts(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    return (_decoded(path, line, raw) for line, raw in lines)


def _decoded(path: Path, line: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line is not UTF-8", where=f"{path}, line {line}",
            value=raw[max(0, error.start - 20) : error.start + 20], remedy=f"Save the file as UTF-8. {_AGAIN}",
        ) from None


def _byte_lines(path: Path, in_pieces: bool = False) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; in pieces of a line where that is wanted, or where the file is an array."""
    line = 0
    try:
        with path.open("rb", buffering=2**16) as file:
            packed = file.peek(2)[:2] == _GZIP_MAGIC
            opened = gzip.GzipFile(fileobj=file) if packed else file
            # a byte order mark is no part of the first record
            mark = len(codecs.BOM_UTF8) * opened.peek(3).startswith(codecs.BOM_UTF8)
            in_pieces |= opened.peek(2**16)[mark:].lstrip().startswith(b"[")
            opened.read(mark)
            whole = True
            while raw := _line(opened, _PIECE if in_pieces else -1):
                line += whole
                whole = raw.endswith(b"\n")
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


def _line(file: Any, most: int) -> bytes:
    """The rest of a line, or about so many bytes of it, and no part of a character."""
    raw = file.readline(most)
    while raw and not raw.endswith(b"\n") and (after := file.peek(1)[:1]) and after[0] & 0xC0 == 0x80:
        raw += file.read(1)
    return raw
