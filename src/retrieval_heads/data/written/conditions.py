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
from collections.abc import Mapping, Sequence
from typing import Any

from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import token_counter
from retrieval_heads.data.scene import GRASS, Counter
from retrieval_heads.data.written.codes import symbolic
from retrieval_heads.data.written.fitting import Build, Piece, Scene, fit
from retrieval_heads.data.written.haystack import (
    TITLE,
    Pool,
    choose_hosts,
    fill,
    grass,
    heading,
    insert,
    insert_into_text,
    sizes,
    unit_tokens,
)
from retrieval_heads.data.written.real import Real
from retrieval_heads.data.written.templates import state_fact, state_insight
from retrieval_heads.errors import ConfigError
from retrieval_heads.progress import progress

SYNTHETIC = ("high_high", "high_low", "low_high", "low_low", "symbolic")


def needs_writer(condition: str) -> bool:
    """Whether the needles of a condition are written by a language model."""
    return condition.startswith("high_")


def check_conditions(names: Sequence[str]) -> None:
    """Raise `ConfigError` unless all are among `SYNTHETIC`."""
    for name in names:
        if name not in SYNTHETIC:
            raise ConfigError(
                "not a condition that is made from real examples", where="--conditions", value=name,
                remedy=f"Give some of {', '.join(SYNTHETIC)}.",
            )


def make_condition(
    reals: Sequence[Real], condition: str, tokenizer: Any, length: int, *, pool: Pool | None = None,
    written: Mapping[str, Sequence[Piece]] | None = None,
) -> list[Example]:
    """One example of a condition for each real one.

    Args:
        reals: real examples.
        condition: one of `SYNTHETIC`.
        tokenizer: a fast one.
        length: most tokens an example, prompt, answer and special tokens together; examples come close to it.
        pool: documents for the context `high`.
        written: needle documents by the real example's id, for the concept `high`.

    Returns:
        Examples in the order of `reals`, of the same `id`; `meta` has `condition`, `hops`, `documents`, `gold` and
        `question`.

    Raises:
        ConfigError: an unknown condition; no `pool` or no `written` where the condition needs it.
        DataError: a length too short for the needles, or a pool too small for the length.
    """
    check_conditions([condition])
    for name, given, needed in (("pool", pool, condition.endswith("_high")),
                                ("written", written, needs_writer(condition))):
        if needed and given is None:
            raise ConfigError(f"`{condition}` needs it", where=name, remedy=f"Give `{name}`.")
    count = token_counter(tokenizer)
    examples = []
    for real in progress(reals, condition):
        pieces = list(written[real.id]) if needs_writer(condition) else None
        if condition == "symbolic":
            build = symbolic(real, count)
        elif condition.endswith("_high"):
            build = _among_documents(real, pieces, pool)
        else:
            build = _among_grass(real, pieces, count)
        examples.append(fit(real, condition, build, tokenizer, length))
    return examples


def statements(real: Real) -> list[str]:
    """The needles of concept `low`, one a fact, or for a citation one a document to be cited."""
    if real.cites:
        return [state_insight(real.facts[0].question)] * len(real.gold)
    return [state_fact(fact.question, fact.answer)[0] for fact in real.facts]


def _among_documents(real: Real, written: list[Piece] | None, pool: Pool) -> Build:
    """Documents about other things around written needles, or with stated ones inside some of them."""

    def build(budget: int) -> Scene:
        """The scene in so many tokens; without haystack for 0."""
        rng = random.Random(f"documents|{real.id}")
        drawn = pool.draw(real, rng)
        needles = written
        if needles is None:
            stated = statements(real)
            hosts, drawn = choose_hosts(real, len(stated), drawn)
            needles = [insert_into_text(text, host, rng) for text, host in zip(stated, hosts, strict=True)]
        others = fill(drawn, budget, f"example {real.id}") if budget else []
        rng.shuffle(others)
        return Scene(needles, others, real.question, _answers(real))

    return build


def _among_grass(real: Real, written: list[Piece] | None, count: Counter) -> Build:
    """Documents of a few repeated sentences, as many as the real example has, around or with the needles."""
    unit, top = unit_tokens(count, GRASS * 10), count([heading(TITLE)])[0]

    def build(budget: int) -> Scene:
        rng = random.Random(f"grass|{real.id}")
        stated = [] if written is not None else statements(real)
        made = sizes(real, budget, len(written or ()), len(stated), top, unit)
        rng.shuffle(made)
        needles = written or [insert(text, grass(made.pop()), rng) for text in stated]
        others = [Piece(TITLE, " ".join(grass(size))) for size in made]
        return Scene(needles, others, real.question, _answers(real))

    return build


def _answers(real: Real) -> tuple[str, ...]:
    return () if real.cites else real.example.answers
