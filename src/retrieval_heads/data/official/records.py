"""Records of a data file, each with its file and line: JSON Lines, gzipped or not, or a JSON array of the same records.

Records are read one at a time, so memory grows with the longest record and not with the file. A file is known by its
first bytes and not by its name, so a `.gz` that a browser has unpacked already is read as well. Whatever is wrong with
a file is one `DataError` that names file and line; records before it have been handed out by then.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from retrieval_heads.errors import ConfigError, DataError

_PIECE = 2**16
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


def read_records(path: str | Path, limit: int | None = None, *, lines: bool = True) -> Iterator[Record]:
    """Read the first `limit` records (all when None) of JSON Lines or of a JSON array, plain or gzipped.

    Nothing behind the last wanted record is parsed, so `limit` also reads the sound part of a file that breaks off.

    Args:
        lines: False where a record may run over several lines.

    Raises:
        DataError: a missing, empty or unreadable file, damaged gzip, text that is not UTF-8, malformed JSON, a record
            that is not an object. Raised when the iterator gets there.
        ConfigError: `limit` below 1; raised at the first record.
    """
    check_count("limit", limit)
    for count, outcome in enumerate(islice(each_record(path, lines), limit)):
        if isinstance(outcome, DataError):
            more = f" Or give limit={count} for the {count} sound records before it." if count else ""
            raise DataError(outcome.problem, where=outcome.where, value=outcome.value, remedy=outcome.remedy + more)
        yield outcome


def each_record(path: str | Path, lines: bool = True) -> Iterator[Record | DataError]:
    """Each record of a file, or the error that stands in its place: a broken line does not end it, but what makes the
    rest unreadable does (damaged gzip, malformed JSON in an array). A missing or empty file is one error."""
    path, line, found = Path(path), 0, False
    try:
        with opened(path, lambda: f"{path}, after line {line}") as file:
            array = file.peek(_PIECE).lstrip().startswith(b"[")
            for outcome in _of_lines(path, file) if lines and not array else _of_stream(path, file):
                line, found = outcome.line if isinstance(outcome, Record) else line, True
                yield outcome
        if not found:
            raise DataError("the file holds no record", where=path, remedy=_AGAIN)
    except DataError as error:
        yield error


@contextmanager
def opened(path: Path, place: Callable[[], str]) -> Iterator[BinaryIO]:
    """A file to read from, unpacked and behind a byte order mark. What is wrong with it is a `DataError`, for which
    `place` says how far it was read."""
    try:
        with path.open("rb", buffering=_PIECE) as packed:
            file = gzip.GzipFile(fileobj=packed) if packed.peek(2).startswith(b"\x1f\x8b") else packed
            if file.peek(3).startswith(codecs.BOM_UTF8):
                file.read(3)
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip stream is damaged or cut off ({error})", where=place(), remedy=_AGAIN) from None
    except FileNotFoundError:
        raise DataError(
            "no such file", where=path, remedy="Check the path; RETRIEVAL_HEADS_DATA names the folder of the files.",
        ) from None
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=path, remedy=_AGAIN) from None


def _of_lines(path: Path, file: BinaryIO) -> Iterator[Record | DataError]:
    # split at line feeds only: other line separators may stand inside a JSON string
    for line, raw in enumerate(file, start=1):
        try:
            text = decoded(path, line, raw)
            outcome = _record(path, line, json.loads(text)) if text.strip() else None
        except DataError as error:
            outcome = error
        except (ValueError, RecursionError) as error:
            outcome = _malformed(f"{path}, line {line}", text, error)
        if outcome is not None:
            yield outcome


def _of_stream(path: Path, file: BinaryIO) -> Iterator[Record | DataError]:
    stream = JsonStream(codecs.iterdecode(iter(lambda: file.read1(_PIECE), b""), "utf-8"))
    try:
        for line, value in stream.values():
            yield _record(path, line, value)
    except UnicodeDecodeError as error:
        yield _not_text(f"{path}, behind line {stream.line}", error)
    except (ValueError, RecursionError) as error:
        line, text = stream.line, stream.text[stream.position :]
        if isinstance(error, json.JSONDecodeError):
            line, text = line + stream.text.count("\n", stream.position, error.pos), stream.text
        yield _malformed(f"{path}, line {line}", text, error)


def decoded(path: Path, line: int, raw: bytes) -> str:
    """A line as text."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_text(f"{path}, line {line}", error) from None


def _not_text(where: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"byte {error.start + 1} of the line is not UTF-8", where=where,
        value=error.object[max(0, error.start - 20) : error.start + 20], remedy=f"Save the file as UTF-8. {_AGAIN}",
    )


def _record(path: Path, line: int, value: Any) -> Record | DataError:
    if isinstance(value, dict):
        return Record(value, path, line)
    return DataError("the record is not a JSON object", where=f"{path}, line {line}", value=described(value),
                     remedy="Write one object per line, or a JSON array of objects.")


def _malformed(where: str, text: str, error: ValueError | RecursionError) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        broken_off = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        problem = f"{'the record breaks off' if broken_off else 'malformed JSON'} ({error.msg})"
        value = text[max(0, error.pos - 40) : error.pos + 40]
    else:
        problem, value = f"the JSON cannot be read ({error})", text[:80]
    return DataError(problem, where=where, value=value, remedy="Write one whole JSON object per line. Or fetch the "
                     "file again; it should hold JSON Lines or a JSON array.")


class JsonStream:
    """JSON values from pieces of text: the elements of an array, or values one behind the other.

    No more text is held than about twice the value that is being read.

    Attributes:
        text: the text at hand, read up to `position`, which is in `line`.
    """

    _SPACE = re.compile(r"[ \t\n\r]*")  # the white space of JSON, which is less than that of `str.isspace`
    _NEAR = 16  # characters; an error so near the end of the text at hand may come of what is not there yet

    def __init__(self, pieces: Iterable[str]) -> None:
        self.text, self.position, self.line = "", 0, 1
        self._pieces, self._ended = iter(pieces), False

    def values(self) -> Iterator[tuple[int, Any]]:
        """Each value with the line where it begins; a `ValueError` or `RecursionError` where it cannot be read."""
        array, first = self._take("["), True
        while not (self._take("]") if array else self._at_end()):
            if array and not first and not self._take(","):
                raise json.JSONDecodeError("Expecting ',' or ']'", self.text, self.position)
            first = False
            self._skip()
            yield self.line, self._value()
        if array and not self._at_end():
            raise json.JSONDecodeError("Extra data behind the array", self.text, self.position)

    def _value(self) -> Any:
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.position)
                if end < len(self.text) or self._ended:  # a number may go on
                    self._move(end)
                    return value
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                if self._ended or not (open_string or error.pos > len(self.text) - self._NEAR):
                    raise
            self._more()

    def _take(self, mark: str) -> bool:
        """Pass over white space, and over the mark where it stands there."""
        self._skip()
        found = self.text.startswith(mark, self.position)
        self.position += found
        return found

    def _at_end(self) -> bool:
        self._skip()
        return self.position == len(self.text)

    def _skip(self) -> None:
        self._move(self._SPACE.match(self.text, self.position).end())
        while self.position == len(self.text) and not self._ended:
            self._more()
            self._move(self._SPACE.match(self.text, self.position).end())

    def _move(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def _more(self) -> None:
        """Read as much again as is at hand, so that a value is tried few times however long it is."""
        parts = [self.text[self.position :]]
        missing = max(_PIECE, len(parts[0]))
        while missing > 0 and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            parts.append(piece or "")
            missing -= len(parts[-1])
        self.text, self.position = "".join(parts), 0


def read_ids(path: str | Path) -> tuple[str, ...]:
    """The ids of a file, each once, in its order: one per line, or the `id` of each record of JSON Lines; also gzipped.
    `DataError` for a file that cannot be read or holds none, or a record without `id`."""
    path, line, ids = Path(path), 0, {}
    with opened(path, lambda: f"{path}, after line {line}") as file:
        for line, raw in enumerate(file, start=1):
            if text := decoded(path, line, raw).strip():
                ids[_id(text, f"{path}, line {line}")] = None
    if not ids:
        raise DataError("the file holds no id", where=path, remedy="Give one per line, or JSON Lines with `id`.")
    return tuple(ids)


def _id(text: str, where: str) -> str:
    if not text.startswith(("{", "[", '"')):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    found = record.get("id") if isinstance(record, dict) else None
    if not isinstance(found, str) or not found:
        raise DataError("the record has no id", where=where, value=text[:60], remedy='Give it as `"id"`, a text.')
    return found


def check_count(name: str, count: int | None) -> None:
    """Raise `ConfigError` unless the argument `name` is None or at least 1."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigError("not a count", where=name, value=count, remedy="Give 1 or more, or None for all.")


def described(value: Any) -> Any:
    """A JSON value for an error message: containers by their size, since they may be large or deeply nested."""
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | dict) else value
