"""Low concept expression: a fact as one fixed statement a type of question (`templates.yaml`)."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

INSIGHT = "The report finds this: {insight}."


def state_fact(question: str, answer: str) -> tuple[str, str]:
    """The statement of a fact and the type of its question: `('The answer to "..." is 42.', 'other')`."""
    question = " ".join(question.split())
    for name, (pattern, statement) in _templates().items():
        match = pattern.search(question)
        if match:
            parts = {key: value.strip() for key, value in match.groupdict().items()}
            return statement.format(question=question, answer=answer, **parts), name
    raise AssertionError("the last pattern of templates.yaml matches everything")


def state_insight(insight: str) -> str:
    """The statement of an insight, the same in each document that contains it."""
    return INSIGHT.format(insight=insight.strip().rstrip("."))


@cache
def _templates() -> dict[str, tuple[re.Pattern[str], str]]:
    text = files("retrieval_heads.data.written").joinpath("templates.yaml").read_text(encoding="utf-8")
    return {
        name: (re.compile(entry["pattern"], re.IGNORECASE), entry["statement"])
        for name, entry in yaml.safe_load(text).items()
    }
