"""The errors a user can cause, each with the place, the value and the remedy in its message.

Everything that bad input can trigger raises a `StudyError`; the command line prints it on one line and exits with 2.
Anything else that escapes is a bug in this package.
"""

from __future__ import annotations

_MISSING = object()


class StudyError(ValueError):
    """A problem that the user can fix: says where it is, what was found, and what to do about it.

    Args:
        problem: what is wrong, without a full stop.
        where: the file, file and line, field or argument it was found in.
        value: the offending value (shortened in the message).
        remedy: what to do, as a sentence.
    """

    def __init__(self, problem: str, *, where: object = None, value: object = _MISSING, remedy: str = "") -> None:
        text = f"{where}: {problem}" if where is not None else problem
        if value is not _MISSING:
            shown = repr(value)
            text += f" (got {shown if len(shown) <= 200 else shown[:197] + '...'})"
        text += "."
        if remedy:
            text += f" {remedy}"
        super().__init__(text)
        self.problem, self.where, self.value, self.remedy = problem, where, value, remedy


def printable(text: str) -> str:
    """A text for a terminal: control characters, which could move its cursor or worse, are written as escapes."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


class DataError(StudyError):
    """An example, a record of a data file or a span that cannot be used."""


class ConfigError(StudyError):
    """An unknown or contradictory setting: profile key, task, condition, command-line value."""


class ModelError(StudyError):
    """A model, tokenizer or adapter that is missing, incomplete or does not fit."""


class HeadError(StudyError):
    """A head outside the model, or a set of heads that cannot be drawn."""


class ResultError(StudyError):
    """A result file that is missing, incomplete, made by other settings, or cannot be written."""
