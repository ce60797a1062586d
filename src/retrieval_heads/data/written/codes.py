"""The `symbolic` condition for real data: key-value lists with random identifiers in the structure of the real example.

As in the generated text world (`chains.py`, `citation.py`): one fact is a pair in a list, a chain leads from a value
to the pair whose key it is, an insight is a code that stands in several lists. The asked value has as many tokens as
the real answer where the tokenizer allows it, and all other values have the same number of characters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from retrieval_heads.data.scene import Counter
from retrieval_heads.data.written.fitting import Build, Piece, Scene
from retrieval_heads.data.written.haystack import heading, insert, sizes, unit_tokens
from retrieval_heads.data.written.real import Real

LETTERS = "bcdfghjklmnpqrstvwxz0123456789"
KEY = 8
"""Characters of a key."""
LONGEST = 60
TITLE = "List"


class Codes:
    """Random identifiers of one example."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._used = rng, set[str]()

    def draw(self, size: int) -> str:
        """A new identifier of so many characters, enough of them that there always is one."""
        while True:
            code = self.any(size)
            if code not in self._used:
                self._used.add(code)
                return code

    def any(self, size: int) -> str:
        """An identifier of so many characters, which may have been used."""
        return "".join(self._rng.choices(LETTERS, k=size))


def symbolic(real: Real, count: Counter) -> Build:
    """Builds the symbolic scene of a real example for any budget."""
    return _lists(real, count) if real.cites else _pairs(real, count)


def as_long_as(text: str, joint: str, count: Counter, rng: random.Random) -> str:
    """An identifier with as many tokens as a text, each after `joint`, or as near to it as was found."""
    candidates = ["".join(rng.choices(LETTERS, k=size)) for size in range(2, LONGEST) for _ in range(6)]
    wanted, *lengths = count([joint + text, *(joint + code for code in candidates)])
    return min(zip(lengths, candidates, strict=True), key=lambda pair: abs(pair[0] - wanted))[1]


def _pairs(real: Real, count: Counter) -> Build:
    example = real.example
    answer = as_long_as(example.answer, example.joint, count, random.Random(f"symbolic|{real.id}|answer"))

    def other(codes: Codes) -> str:
        value = answer
        while value == answer:
            value = codes.any(len(answer))
        return value

    def build(budget: int) -> Scene:
        """The scene in so many tokens."""
        rng = random.Random(f"symbolic|{real.id}")
        codes = Codes(rng)
        chain = [*(codes.draw(KEY) for _ in real.facts), answer]

        def entries(n: int) -> list[str]:
            return [f"{codes.draw(KEY)}: {other(codes)}." for _ in range(n)]

        unit = unit_tokens(count, entries(50))
        needles = [f"{key}: {value}." for key, value in pairwise(chain)]
        question = f"What is {'the value of ' * len(needles)}{chain[0]}?"
        made = sizes(real, budget, 0, len(needles), count([heading(TITLE)])[0], unit)
        rng.shuffle(made)
        pieces = [insert(needle, entries(made.pop() - 1), rng, TITLE) for needle in needles]
        return Scene(pieces, _filled(made, entries), question, (answer,))

    return build


def _lists(real: Real, count: Counter) -> Build:
    def build(budget: int) -> Scene:
        """The scene in so many tokens."""
        rng = random.Random(f"symbolic|{real.id}")
        codes = Codes(rng)
        code = codes.draw(KEY)

        def entries(n: int) -> list[str]:
            return [f"{codes.draw(KEY)}." for _ in range(n)]

        unit = unit_tokens(count, entries(50))
        made = sizes(real, budget, 0, len(real.gold), count([heading(TITLE)])[0], unit)
        rng.shuffle(made)
        pieces = [insert(f"{code}.", entries(made.pop() - 1), rng, TITLE) for _ in real.gold]
        return Scene(pieces, _filled(made, entries), f"Which documents contain {code}?")

    return build


def _filled(made: Sequence[int], entries: Callable[[int], list[str]]) -> list[Piece]:
    return [Piece(TITLE, " ".join(entries(size))) for size in made]
