"""From documents with marked spans to an example of a wanted length, with the prompt's frame of the real one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.layout import Span, place, write_citation, write_prompt
from retrieval_heads.data.written.real import Real
from retrieval_heads.errors import DataError

TRIES = 5
CLOSE = 0.004
"""A prompt that is short of the wanted length by less than this fraction is not filled up further."""


class Piece(NamedTuple):
    """A document without a number; `needles` are spans in its text."""

    title: str
    text: str
    needles: tuple[Span, ...] = ()


class Scene(NamedTuple):
    """What an example is written from: the documents that hold needles, in any order, the others in theirs, and the
    question with its accepted answers (none for a citation, which follows from the places)."""

    needles: Sequence[Piece]
    others: Sequence[Piece]
    question: str
    answers: tuple[str, ...] = ()


Build = Callable[[int], Scene]
"""Makes the same scene with as many documents as fit into a budget of tokens; 0 gives the smallest there is."""


def fit(real: Real, condition: str, build: Build, tokenizer: Any, length: int) -> Example:
    """The example of at most `length` tokens, prompt, answer and special tokens together, that comes closest to it.

    Raises:
        DataError: already the smallest one is longer.
    """
    smallest = write(real, condition, build(0))
    used = len(encode(smallest, tokenizer).ids)
    if used > length:
        raise DataError(
            f"the documents that `{condition}` needs are {used} tokens", where=f"example {real.id}, length",
            value=length, remedy=f"Allow {used - length} tokens more.",
        )
    best, most, budget = smallest, used, length - used
    for tries in range(TRIES):
        example = write(real, condition, build(max(0, budget)))
        used = len(encode(example, tokenizer).ids)
        if most < used <= length:
            best, most = example, used
        if 0 <= length - used <= CLOSE * length:
            break
        # aim a little lower each time, since a budget is met by whole sentences and not by tokens
        budget += length - used - round(tries * max(CLOSE * length / 2, 8))
    return best


def tokens_of(real: Real, needles: Sequence[Piece], tokenizer: Any) -> int:
    """Tokens of the smallest example with these needle documents: nothing else in its context."""
    scene = Scene(needles, (), real.question, () if real.cites else real.example.answers)
    return len(encode(write(real, "", scene), tokenizer).ids)


def write(real: Real, condition: str, scene: Scene) -> Example:
    """The example of a scene. Its needles stand as deep as those of the real one; for a citation they have the same
    numbers where there are as many documents."""
    rng = random.Random(f"{condition}|{real.id}|places")
    total = len(scene.needles) + len(scene.others)
    needles, others = list(scene.needles), iter(scene.others)
    rng.shuffle(needles)
    held = dict(zip(_places(real, total, len(needles), rng), needles, strict=True))
    pieces = [held.get(index) or next(others) for index in range(total)]
    known = [number for number, _, _ in real.documents]
    numbers = known if len(known) == total else list(range(known[0], known[0] + total))
    prompt, spans = write_prompt(
        [(number, piece.title, piece.text) for number, piece in zip(numbers, pieces, strict=True)], scene.question
    )
    marked = [
        place(needle, span) for piece, span in zip(pieces, spans, strict=True) for needle in piece.needles
    ]
    gold = [number for number, piece in zip(numbers, pieces, strict=True) if piece.needles]
    answers = scene.answers or (write_citation(gold),)
    shift = len(real.head)
    meta = {
        "id": real.id, "condition": condition, "hops": len(real.facts), "documents": total, "gold": gold,
        "question": scene.question,
    }
    return Example(
        real.example.task, real.head + prompt + real.tail, answers[0], answers,
        tuple((start + shift, end + shift) for start, end in marked), meta, real.example.joint,
        real.example.chat_template,
    )


def _places(real: Real, total: int, n: int, rng: random.Random) -> list[int]:
    """`n` increasing places among `total` documents: as deep as the real needles, or for a citation the very same."""
    last = len(real.documents) - 1
    if real.cites and max(real.gold) < total:
        wanted = list(real.gold)
    else:
        wanted = [round(index / last * (total - 1)) if last else rng.randrange(total) for index in real.gold]
    rng.shuffle(wanted)
    wanted = wanted[:n] + [rng.randrange(total) for _ in range(n - len(wanted))]
    taken: set[int] = set()
    for index in wanted:
        free = [place for place in range(total) if place not in taken]
        taken.add(min(free, key=lambda place, index=index: abs(place - index)))
    return sorted(taken)
