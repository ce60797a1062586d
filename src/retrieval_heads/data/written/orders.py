"""What a language model is asked to write: a document for each fact of a real example, and ones about other things."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean, median

from retrieval_heads.data.official.assemble import find_answer
from retrieval_heads.data.written.author import Order
from retrieval_heads.data.written.checks import Wanted, forbiddable
from retrieval_heads.data.written.fitting import Piece
from retrieval_heads.data.written.messages import write_messages
from retrieval_heads.data.written.real import Fact, Real

WORDS = (40, 1000)
"""Fewest and most words that are asked for: those of the real documents, within these bounds."""


def needle_orders(real: Real, control: tuple[str, ...] = ()) -> list[Order]:
    """One order a needle document of the conditions with concept `high`, in the order of the facts; for a citation
    one a document that is to be cited; `control` as in `Wanted`."""
    words = _within(fmean(len(real.documents[index][2].split()) for index in real.gold))
    if real.cites:
        insight = real.facts[0].question
        return [
            Order(
                write_messages(real.example.task, "needle", question=insight, words=words, number=number),
                Wanted(words, insight=insight, control=control), real.id, number - 1,
            )
            for number in range(1, len(real.gold) + 1)
        ]
    return [_fact_order(real, step, fact, words, control) for step, fact in enumerate(real.facts)]


def _fact_order(real: Real, step: int, fact: Fact, words: int, control: tuple[str, ...]) -> Order:
    # a document that already tells a later answer would let the chain be cut short
    later = [other.answer for other in real.facts[step + 1 :]]
    if later:
        later += real.hidden
    forbidden = forbiddable(list(dict.fromkeys(later)), fact.question, fact.answer, fact.title)
    messages = write_messages(
        real.example.task, "needle", question=fact.question, answer=fact.answer, title=fact.title or fact.question,
        words=words, forbidden=forbidden,
    )
    return Order(messages, Wanted(words, (fact.answer,), forbidden, control=control), real.id, step)


def needle_piece(real: Real, index: int, text: str) -> Piece:
    """The document of a needle order: needles are what they are in the real example (`needle` in its `meta`: the
    sentences around the answer, the whole passage, the answer), and for a citation the whole document."""
    if real.cites:
        return Piece("", text, ((0, len(text)),))
    fact = real.facts[index]
    kind = real.example.meta.get("needle", "sentence")
    held = find_answer({0: text}, [fact.answer], kind if kind in ("passage", "answer") else "sentence")
    return Piece(fact.title, text, tuple(held.needles[0]))


def distractor_orders(
    reals: Sequence[Real], n: int, seed: int = 0, control: tuple[str, ...] = (),
) -> tuple[list[str], list[Order]]:
    """Orders for `n` documents about the topics of the real ones, drawn at random, and their titles.

    A document about the topic of an example's document must not mention that example's answers; those of others are
    seen to where the context is filled.
    """
    rng = random.Random(f"{seed}|distractors")
    topics = list({topic: (topic, title, real) for real in reals for topic, title in _topics(real)}.values())
    rng.shuffle(topics)
    words = _within(median(len(text.split()) for real in reals for _, _, text in real.documents))
    titles, orders = [], []
    for number in range(n):
        topic, title, real = topics[number % len(topics)]
        forbidden = forbiddable(real.hidden, topic)
        messages = write_messages(
            real.example.task, "distractor", topic=topic, words=words, number=number + 1, forbidden=forbidden,
        )
        titles.append(title)
        unsaid = topic if real.cites else ""
        orders.append(Order(messages, Wanted(words, absent=forbidden, unsaid=unsaid, control=control)))
    return titles, orders


def _topics(real: Real) -> list[tuple[str, str]]:
    """Topics with the titles of documents about them; an insight, and for a document without a title its beginning."""
    if real.cites:
        return [(real.facts[0].question, "")]
    return [(title or text[:200], title) for _, title, text in real.documents]


def _within(words: float) -> int:
    return round(min(max(words, WORDS[0]), WORDS[1]))
