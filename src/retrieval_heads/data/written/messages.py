"""The prompts for texts that a language model writes: YAML files in `prompts/`, `TASK_PURPOSE.yaml`.

A task without prompts of its own takes those of `mdqa`: one fact in one document.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

PURPOSES = ("needle", "distractor")
Messages = list[dict[str, str]]


def write_messages(task: str, purpose: str, **fields: Any) -> Messages:
    """The chat messages that ask for one text.

    Args:
        task: `mdqa`, `musique`, `summhay`, or another one, which is asked as `mdqa` where it has no file.
        purpose: `needle` (a document that states a fact) or `distractor` (one about something else).
        fields: what stands in the prompt's braces; the head of each file names them. `forbidden` is a list of names
            that must not occur.
    """
    template = _template(f"{task if _file(f'{task}_{purpose}').is_file() else 'mdqa'}_{purpose}")
    fields["forbidden"] = _forbidding(fields.get("forbidden", ()))
    return [{"role": role, "content": template[role].format(**fields).strip()} for role in ("system", "user")]


def ask_again(messages: Messages, text: str, reason: str) -> Messages:
    """The conversation that goes on after a text failed: what was asked, what came, and why that cannot be used."""
    again = _template("again")["user"].format(reason=reason).strip()
    # an empty message of the assistant is refused by some endpoints
    return [*messages, {"role": "assistant", "content": text or "(nothing)"}, {"role": "user", "content": again}]


def _forbidding(names: Any) -> str:
    listed = "; ".join(names)
    return f"- These words must not occur anywhere in the text: {listed}" if listed else ""


@cache
def _template(name: str) -> dict[str, str]:
    return yaml.safe_load(_file(name).read_text(encoding="utf-8"))


def _file(name: str) -> Traversable:
    return files("retrieval_heads.data.written").joinpath("prompts", f"{name}.yaml")
