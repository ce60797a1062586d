"""JSON values one after the other, of which no more text is held than about twice the value that is being read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")  # the white space of JSON, which is less than that of `str.isspace`
_decode = json.JSONDecoder().raw_decode

LEAST = 2**16
"""Characters that are asked for at a time."""

NEAR = 16
"""An error so near the end of the text at hand may come of what is not there yet: longer than any literal."""


class JsonStream:
    """Values from pieces of text: the elements of an array, or values one behind the other.

    Attributes:
        text: the text at hand; what lies before `position` has been read.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self.text, self.position = "", 0
        self._pieces, self._ended = iter(pieces), False
        self._line, self._counted = 1, 0

    def values(self) -> Iterator[tuple[int, Any]]:
        """Each value with the line where it begins.

        Raises:
            json.JSONDecodeError: malformed JSON; `line_of` says where.
            RecursionError, ValueError: a value that is nested too deeply, or a number that is too long.
        """
        if not self._take("["):
            while not self._at_end():
                yield self.line_of(self.position), self._value()
            return
        closed = self._take("]")
        while not closed:
            self._skip()
            yield self.line_of(self.position), self._value()
            closed = self._take("]")
            if not closed and not self._take(","):
                raise json.JSONDecodeError("Expecting ',' or ']'", self.text, self.position)
        if not self._at_end():
            raise json.JSONDecodeError("Extra data behind the array", self.text, self.position)

    def line_of(self, position: int) -> int:
        """The line, from 1, of a place in `text` that is not before the last one asked for."""
        self._line, self._counted = self._line + self.text.count("\n", self._counted, position), position
        return self._line

    def _value(self) -> Any:
        while True:
            try:
                value, end = _decode(self.text, self.position)
                if end < len(self.text) or self._ended:  # a number may go on
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                if self._ended or not (open_string or error.pos > len(self.text) - NEAR):
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
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text) or self._ended:
                return
            self._more()

    def _more(self) -> None:
        """Read as much again as is at hand, so that a value is tried few times however long it is."""
        self.line_of(self.position)
        parts = [self.text[self.position :]]
        wanted, got = max(LEAST, len(parts[0])), 0
        for piece in self._pieces:
            parts.append(piece)
            got += len(piece)
            if got >= wanted:
                break
        else:
            self._ended = True
        self.text, self.position, self._counted = "".join(parts), 0, 0
