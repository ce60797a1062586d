"""The option `--template-arguments`, which verbs that read chat messages share, and how JSON is read from options."""

from __future__ import annotations

import argparse
import json
from typing import Any

from retrieval_heads.errors import ConfigError


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--template-arguments`."""
    parser.add_argument("--template-arguments", metavar="JSON", default="{}",
                        help='what the chat template is told that writes `messages`, as {"enable_thinking": false}; '
                        '"strftime_now" is its date of today (2024-07-26)')


def json_object(option: str, text: str, example: str = '{"enable_thinking": false}') -> dict[str, Any]:
    """The JSON object that an option was given; `ConfigError` for anything else."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ConfigError("not a JSON object", where=option, value=text, remedy=f"Give one like '{example}'.")
    return given
