"""The five synthetic conditions of a real example: how real its needles are, and what stands around them.

| condition | needles | context |
|---|---|---|
| `high_high` | documents that a language model wrote for the real facts | documents about other things |
| `high_low` | the same documents | a few sentences repeated |
| `low_high` | one template a type of question, inside a document about something else | documents about other things |
| `low_low` | the same templates, among the repeated sentences | a few sentences repeated |
| `symbolic` | a pair of random identifiers in a list | lists of such pairs |

After Zhao et al. 2024 (concept expression and context diversity). Question, answer, the number of facts, their depth in
the prompt and the length are those of the real example; `symbolic` has a question and an answer of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import token_counter
from retrieval_heads.data.prompt_tokens import PromptTokens
from retrieval_heads.data.scene import GRASS, Counter
from retrieval_heads.data.written import scenes
from retrieval_heads.data.written.real import Real
from retrieval_heads.progress import progress

SYNTHETIC = ("high_high", "high_low", "low_high", "low_low", "symbolic")
LETTERS = "bcdfghjklmnpqrstvwxz0123456789"
KEY = 8
"""Characters of a key."""
LONGEST = 60
"""Characters of a value, at most."""
LIST = "List"
"""Title of a document of codes."""
INSIGHT = "The report finds this: {insight}."
_AFTER = ("in", "on", "at", "by", "to", "into", "for", "as", "from", "and", "with", "of", "out", "under", "this")
"""Words behind a participle; an adjective in -ed has a noun there."""
_OPEN = ("to", "by", "of", "for", "with", "from", "in", "on", "at", "about", "as", "over", "like", "called", "named",
         "known", "after", "is", "was", "are")
"""Words that leave a question's end open, which then cannot stand before `is ANSWER`."""


def needs_writer(condition: str) -> bool:
    """Whether the needles of a condition are written by a language model."""
    return condition.startswith("high_")


def make_condition(
    reals: Sequence[Real], condition: str, tokenizer: Any, length: int, *, pool: scenes.Pool | None = None,
    written: Mapping[str, Sequence[scenes.Piece]] | None = None, prompt_tokens: PromptTokens | None = None,
) -> list[Example]:
    """One example of a condition for each real one.

    Args:
        length: most tokens per example, prompt, answer and special tokens together; examples come close to it.
        pool: documents for the context `high`.
        written: needle documents by the real example's id, for the concept `high`.
        prompt_tokens: of this tokenizer; given, conditions with the same documents do not count them again.

    Returns:
        Examples in the order of `reals`, of the same `id`; `meta` has `condition`, `hops`, `documents`, `gold` and
        `question`.

    Raises:
        DataError: a length too short for the needles, or a pool too small for the length.
    """
    count, prompt_tokens = token_counter(tokenizer), prompt_tokens or PromptTokens(tokenizer)
    examples = []
    for real in progress(reals, condition):
        pieces = list(written[real.id]) if needs_writer(condition) else None
        if condition == "symbolic":
            build = symbolic(real, count)
        elif condition.endswith("_high"):
            build = _among_documents(real, pieces, pool)
        else:
            build = _among_grass(real, pieces, count)
        examples.append(scenes.fit(real, condition, build, prompt_tokens, length))
    return examples


def statements(real: Real) -> list[str]:
    """The needles of concept `low`, one per fact, or for a citation one per document to be cited."""
    if real.cites:
        return [state_insight(real.facts[0].question)] * len(real.gold)
    return [state_fact(fact.question, fact.answer)[0] for fact in real.facts]


def _among_documents(real: Real, written: list[scenes.Piece] | None, pool: scenes.Pool) -> scenes.Build:
    """Documents about other things around written needles, or with stated ones inside some of them."""

    def build(budget: int) -> scenes.Scene:
        """The scene that fits so many tokens."""
        rng = random.Random(f"documents|{real.id}")
        drawn = pool.draw(real, rng)
        needles = written
        if needles is None:
            stated = statements(real)
            hosts, drawn = scenes.choose_hosts(real, len(stated), drawn)
            needles = [scenes.insert_into_text(text, host, rng) for text, host in zip(stated, hosts, strict=True)]
        others = scenes.fill(drawn, budget, f"example {real.id}") if budget else []
        rng.shuffle(others)
        return scenes.Scene(needles, others, real.question, real.accepted)

    return build


def _among_grass(real: Real, written: list[scenes.Piece] | None, count: Counter) -> scenes.Build:
    """Documents of a few repeated sentences, as many as the real example has, around or with the needles."""
    unit, top = scenes.unit_tokens(count, GRASS * 10), count([scenes.heading(scenes.TITLE)])[0]

    def build(budget: int) -> scenes.Scene:
        rng = random.Random(f"grass|{real.id}")
        stated = [] if written is not None else statements(real)
        made = scenes.sizes(real, budget, len(written or ()), len(stated), top, unit)
        rng.shuffle(made)
        needles = written or [scenes.insert(text, scenes.grass(made.pop()), rng) for text in stated]
        others = [scenes.Piece(scenes.TITLE, " ".join(scenes.grass(size))) for size in made]
        return scenes.Scene(needles, others, real.question, real.accepted)

    return build


def symbolic(real: Real, count: Counter) -> scenes.Build:
    """Key-value lists with random identifiers in the structure of the real example.

    As in the generated text world (`chains.py`, `citation.py`): one fact is a pair in a list, a chain leads from a
    value to the pair whose key it is, an insight is a code that stands in several lists. The asked value has as many
    tokens as the real answer where the tokenizer allows it, and all other values have the same number of characters.
    """
    answer = "" if real.cites else _as_long_as(real.example, count, random.Random(f"symbolic|{real.id}|answer"))

    def build(budget: int) -> scenes.Scene:
        """The scene that fits so many tokens."""
        rng, used = random.Random(f"symbolic|{real.id}"), set()

        def key() -> str:
            while (code := _code(rng, KEY)) in used:
                pass
            used.add(code)
            return code

        def entry() -> str:
            first = key()
            if real.cites:
                return f"{first}."
            while (value := _code(rng, len(answer))) == answer:
                pass
            return f"{first}: {value}."

        chain = [*(key() for _ in real.facts), answer]
        unit = scenes.unit_tokens(count, [entry() for _ in range(50)])
        if real.cites:
            needles, question = [f"{chain[0]}."] * len(real.gold), f"Which documents contain {chain[0]}?"
        else:
            needles = [f"{first}: {value}." for first, value in pairwise(chain)]
            question = f"What is {'the value of ' * len(needles)}{chain[0]}?"
        made = scenes.sizes(real, budget, 0, len(needles), count([scenes.heading(LIST)])[0], unit)
        rng.shuffle(made)
        pieces = [scenes.insert(needle, [entry() for _ in range(made.pop() - 1)], rng, LIST) for needle in needles]
        others = [scenes.Piece(LIST, " ".join(entry() for _ in range(size))) for size in made]
        return scenes.Scene(pieces, others, question, () if real.cites else (answer,))

    return build


def _as_long_as(example: Example, count: Counter, rng: random.Random) -> str:
    """An identifier with as many tokens as the answer, or as near to it as was found."""
    candidates = [_code(rng, size) for size in range(2, LONGEST) for _ in range(6)]
    wanted, *lengths = count([example.joint + text for text in (example.answer, *candidates)])
    return min(zip(lengths, candidates, strict=True), key=lambda pair: abs(pair[0] - wanted))[1]


def _code(rng: random.Random, size: int) -> str:
    return "".join(rng.choices(LETTERS, k=size))


class Statement(NamedTuple):
    """A fact as a statement, the type of its question, and whether the question is quoted in it."""

    text: str
    kind: str
    quotes: bool


def state_fact(question: str, answer: str) -> Statement:
    """The statement of a fact: `who wrote X` and `Y` give `Y wrote X.`, and a question that no pattern understands is
    quoted: `The answer to "..." is Y.`"""
    question = " ".join(question.split())
    bare = question.rstrip("?. ")
    for name, (pattern, statement) in _templates().items():
        if match := pattern.search(bare):
            # small words that began the question have no capital in the middle of a sentence
            parts = {key: (value or "").lower() if key in ("in", "is", "has", "will", "done") else value or ""
                     for key, value in match.groupdict().items()}
            if name == "relation":
                statement = _table()["relations"].get(parts["relation"], statement)
            if "verb" in parts:
                parts["past"], parts["third"] = _table()["verbs"][parts["verb"].lower()]
            text = statement.format(question=question, answer=answer, **parts)
            if not statement.startswith("{answer}"):  # which stays as it is, letter for letter
                text = text[0].upper() + text[1:]
            return Statement(text[:-1] if text.endswith("..") else text, name, "{question}" in statement)
    raise AssertionError("the last pattern of templates.yaml matches everything")


def state_insight(insight: str) -> str:
    """The statement of an insight, the same in each document that contains it."""
    return INSIGHT.format(insight=insight.strip().rstrip("."))


@cache
def _table() -> dict[str, Any]:
    text = files("retrieval_heads.data.written").joinpath("templates.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@cache
def _templates() -> dict[str, tuple[re.Pattern[str], str]]:
    """Pattern and statement of each type of question."""
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
        name: (re.compile(pattern.sub(lambda word: words[word[0]], entry["pattern"]), re.IGNORECASE),
               entry["statement"])
        for name, entry in table["types"].items()
    }
