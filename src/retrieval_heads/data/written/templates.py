"""Low concept expression: a fact as one fixed statement a type of question (`templates.yaml`)."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

INSIGHT = "The report finds this: {insight}."
_QUOTES = "{question}"
_AFTER = ("in", "on", "at", "by", "to", "into", "for", "as", "from", "and", "with", "of", "out", "under", "this")
"""Words behind a participle; an adjective in -ed has a noun there."""
_OPEN = ("to", "by", "of", "for", "with", "from", "in", "on", "at", "about", "as", "over", "like", "called", "named",
         "known", "after", "is", "was", "are")
"""Words that leave a question's end open, which then cannot stand before `is ANSWER`."""


class Statement(NamedTuple):
    """A fact as a statement, the type of its question, and whether the question is quoted in it."""

    text: str
    kind: str
    quotes: bool


class _Template(NamedTuple):
    pattern: re.Pattern[str]
    statement: str


def state_fact(question: str, answer: str) -> Statement:
    """The statement of a fact: `who wrote X` and `Y` give `Y wrote X.`, and a question that no pattern understands is
    quoted: `The answer to "..." is Y.`"""
    question = " ".join(question.split())
    bare = question.rstrip("?. ")
    for name, template in _templates().items():
        match = template.pattern.search(bare)
        if match:
            parts = {key: _in_sentence(key, value or "") for key, value in match.groupdict().items()}
            if name == "relation":
                template = template._replace(statement=_relations().get(parts["relation"], template.statement))
            if "verb" in parts:
                parts["past"], parts["third"] = _table()["verbs"][parts["verb"].lower()]
            text = template.statement.format(question=question, answer=answer, **parts)
            if not template.statement.startswith("{answer}"):  # which stays as it is, letter for letter
                text = text[0].upper() + text[1:]
            return Statement(_one_stop(text), name, _QUOTES in template.statement)
    raise AssertionError("the last pattern of templates.yaml matches everything")


def state_insight(insight: str) -> str:
    """The statement of an insight, the same in each document that contains it."""
    return INSIGHT.format(insight=insight.strip().rstrip("."))


def _in_sentence(key: str, text: str) -> str:
    """A part of the question in the middle of a sentence: small words that began it have no capital there."""
    return text.lower() if key in ("in", "is", "has", "will", "done") else text


def _one_stop(text: str) -> str:
    return text[:-1] if text.endswith("..") else text


def _relations() -> dict[str, str]:
    return _table()["relations"]


@cache
def _table() -> dict[str, Any]:
    text = files("retrieval_heads.data.written").joinpath("templates.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@cache
def _templates() -> dict[str, _Template]:
    table = _table()
    done, not_done = "|".join(table["done"]), "|".join(table["not_done"])
    verb_form = rf"(?!(?:{not_done})\b)\w{{2,}}ed\b|(?:{done})\b"
    words = {
        "VERB": rf"(?P<verb>{'|'.join(table['verbs'])})\b",
        "DOER": rf"(?:{'|'.join(table['doers'])})",
        "DONE": rf"(?:{verb_form})(?=$| (?:{'|'.join(_AFTER)})\b)",
        "NOUNS": rf"(?:(?!\w{{3,}}ing\b|{verb_form}|(?:did|does|do|is|are|was|were|has|have|had)\b)\S+(?: |$|(?= )))+",
        "WHOLE": rf"(?!.* (?:{'|'.join(_OPEN)})$)",
    }
    pattern = re.compile("|".join(words))
    return {
        name: _Template(re.compile(pattern.sub(lambda word: words[word[0]], entry["pattern"]), re.IGNORECASE),
                        entry["statement"])
        for name, entry in table["types"].items()
    }
