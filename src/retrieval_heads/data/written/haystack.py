"""What fills the context: documents of other records, documents that a language model wrote, or repeated sentences."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice

from retrieval_heads.data.official.forbidden import Forbidden
from retrieval_heads.data.official.text import sentences
from retrieval_heads.data.scene import GRASS, Counter
from retrieval_heads.data.written.checks import states
from retrieval_heads.data.written.fitting import Piece
from retrieval_heads.data.written.real import Real
from retrieval_heads.errors import DataError

TITLE = "Notes"
"""Title of a document of repeated sentences, as in the generated text world."""
LEAST = 5
"""Fewest sentences, or entries of a list, in a document of which the size can be chosen."""
HOSTS = 8
"""Documents to choose from for each needle that is put into one."""
MISSES = 100
"""Documents that do not fit any more until a context counts as full."""


class Pool:
    """Documents about other things, for the context `high`.

    Args:
        documents: `(title, text)`; equal ones are taken once.
        count: counts tokens.
    """

    def __init__(self, documents: Sequence[tuple[str, str]], count: Counter) -> None:
        self._documents = list({text: Piece(title, text) for title, text in documents if text.strip()}.values())
        self._tokens = count([heading(piece.title) + piece.text for piece in self._documents])

    def draw(self, real: Real, rng: random.Random) -> Iterator[tuple[Piece, int]]:
        """The documents in random order, each with its tokens: none that holds an accepted answer of the example (or
        may state its insight), and none of its own documents, which may be chosen to mislead."""
        own = {text for _, _, text in real.documents}
        forbidden = Forbidden(real.hidden)
        order = list(range(len(self._documents)))
        rng.shuffle(order)
        for index in order:
            piece = self._documents[index]
            if piece.text in own or forbidden.held_by(piece.title, piece.text):
                continue
            if not (real.cites and states(piece.text, real.facts[0].question)):
                yield piece, self._tokens[index]


    def fills(self, real: Real, budget: int) -> bool:
        """Whether there are documents for so many tokens around an example's needles."""
        tokens = accumulate(tokens for _, tokens in self.draw(real, random.Random(0)))
        return any(total >= budget for total in tokens)


def pool_of_records(reals: Sequence[Real], count: Counter) -> Pool:
    """The documents of all real examples."""
    return Pool([(title, text) for real in reals for _, title, text in real.documents], count)


def fill(drawn: Iterator[tuple[Piece, int]], budget: int, where: str) -> list[Piece]:
    """Documents one after the other as long as they fit, and then smaller ones while there are any that fit.

    Raises:
        DataError: there are no more of them, and much room is left.
    """
    pieces, left, missed = [], budget, 0
    for piece, tokens in drawn:
        if tokens <= left:
            pieces.append(piece)
            left -= tokens
        else:
            missed += 1
        if missed >= MISSES:
            return pieces
    used = budget - left
    if left > max(used / max(len(pieces), 1) * 3, 0.02 * budget):
        raise DataError(
            f"there are too few documents without the answer to fill the context: {left} tokens are missing",
            where=where, value=f"{len(pieces)} documents",
            remedy="Give more real examples, have documents written (--distractors), or a smaller length.",
        )
    return pieces


def choose_hosts(
    real: Real, n: int, drawn: Iterator[tuple[Piece, int]],
) -> tuple[list[Piece], Iterator[tuple[Piece, int]]]:
    """Documents to put `n` needles into, about as long as the real ones that hold needles, and those that are left.

    Raises:
        DataError: there are fewer than `n`.
    """
    candidates = list(islice(drawn, HOSTS * n))
    if len(candidates) < n:
        raise DataError(
            "there are too few documents without the answer to put the needles into", where=f"example {real.id}",
            value=f"{len(candidates)} for {n}",
            remedy="Give more real examples, or have documents written (--distractors).",
        )
    hosts = []
    for place in range(n):
        length = len(real.documents[real.gold[place % len(real.gold)]][2])
        best = min(candidates, key=lambda pair, length=length: abs(len(pair[0].text) - length))
        candidates.remove(best)
        hosts.append(best[0])
    return hosts, chain(candidates, drawn)


def sizes(real: Real, budget: int, n_fixed: int, n_least: int, heading_tokens: float, unit: float) -> list[int]:
    """How many units (sentences, entries) each document gets, so that there are as many documents as in the real
    example and they fill a budget of tokens; fewer documents where they would have less than `LEAST` units.

    Args:
        real: the example to follow.
        budget: tokens to fill.
        n_fixed: documents that are there already.
        n_least: fewest documents to make; a budget of 0 gives these with `LEAST` units.
        heading_tokens: tokens of a document's heading and end.
        unit: tokens of one unit.
    """
    most = int(budget / (heading_tokens + LEAST * unit))
    n = max(n_least, min(len(real.documents) - n_fixed, n_least + most))
    if not n:
        return []
    # the documents that must be made are in the budget already, with their fewest units
    spare = budget - (n - n_least) * (heading_tokens + LEAST * unit)
    total = n * LEAST + max(0, int(spare / unit))
    return [total // n + (index < total % n) for index in range(n)]


def grass(size: int) -> list[str]:
    """So many of the repeated sentences."""
    return [GRASS[index % len(GRASS)] for index in range(size)]


def insert(sentence: str, into: Sequence[str], rng: random.Random, title: str = TITLE) -> Piece:
    """A document with a needle sentence at a random place among others."""
    place = rng.randint(0, len(into))
    before = "".join(f"{text} " for text in into[:place])
    text = " ".join([*into[:place], sentence, *into[place:]])
    return Piece(title, text, ((len(before), len(before) + len(sentence)),))


def insert_into_text(sentence: str, host: Piece, rng: random.Random) -> Piece:
    """A document with a needle sentence between two of its sentences, or before or behind all of them."""
    cuts = [0, *(end for _, end in sentences(host.text))]
    cut = rng.choice(cuts)
    before, after = host.text[:cut].rstrip(), host.text[cut:].strip()
    start = len(before) + bool(before)
    text = " ".join(part for part in (before, sentence, after) if part)
    return Piece(host.title, text, ((start, start + len(sentence)),))


def heading(title: str) -> str:
    """The heading and end of a document, for counting its tokens."""
    return f"Document 100: {title}\n\n\n"


def unit_tokens(count: Counter, units: Sequence[str]) -> float:
    """Tokens of one unit in running text, as a mean."""
    return count([" ".join(units)])[0] / len(units)
