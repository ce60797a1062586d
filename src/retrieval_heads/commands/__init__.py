"""The verbs of the command line, and what several of them ask for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from retrieval_heads.errors import ConfigError

T = TypeVar("T")


def from_options(kind: type[T], parsed: argparse.Namespace, **more: Any) -> T:
    """A dataclass, each field from the option of its name, or from `more`."""
    given = {one.name: getattr(parsed, one.name) for one in fields(kind) if hasattr(parsed, one.name)}
    return kind(**given | more)


def add_template_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--template-arguments`, which verbs that read chat messages share."""
    parser.add_argument("--template-arguments", metavar="JSON", default="{}",
                        help='arguments for the chat template, such as {"enable_thinking": false}; '
                        '"strftime_now" sets its date of today (2024-07-26)')


def json_object(option: str, text: str, example: str = '{"enable_thinking": false}') -> dict[str, Any]:
    """The JSON object that an option was given; `ConfigError` for anything else."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ConfigError("not a JSON object", where=option, value=text, remedy=f"Give one like '{example}'.")
    return given


def named_paths(option: str, given: Iterable[str]) -> dict[str, Path]:
    """The paths of an option that was given several times; `ConfigError` for one without a name of its own."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path) or name in found:
            raise ConfigError("a name that was given already" if name in found else "not of the form NAME=PATH",
                              where=option, value=one, remedy="Give each set a name of its own, as in high=FILE.")
        found[name] = Path(path)
    return found
