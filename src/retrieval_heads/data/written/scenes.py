"""From documents with marked spans to an example of a wanted length, with the prompt's frame of the real one; and what
fills the context: documents of other records, documents that a language model wrote, or repeated sentences."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import NamedTuple

from retrieval_heads.data.example import Example
from retrieval_heads.data.official.answers import Forbidden, find_answer, sentences
from retrieval_heads.data.prompt_format import Document, Span, place, write_citation, write_prompt
from retrieval_heads.data.prompt_tokens import Counted, PromptTokens
from retrieval_heads.data.scene import GRASS, Counter
from retrieval_heads.data.written.orders import states
from retrieval_heads.data.written.real import Real
from retrieval_heads.errors import DataError

TRIES = 5
CLOSE = 0.004
"""A prompt that is short of the wanted length by less than this fraction is not filled up further."""
TITLE = "Notes"
"""Title of a document of repeated sentences, as in the generated text world."""
LEAST = 5
"""Fewest sentences, or entries of a list, in a document of which the size can be chosen."""
HOSTS = 8
"""Documents to choose from for each needle that is put into one."""
MISSES = 100
"""Documents that do not fit any more until a context counts as full."""


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
"""Makes the same scene, of the same question, with as many documents as fit into a budget of tokens; 0 gives the
smallest there is."""


def needle_piece(real: Real, index: int, text: str) -> Piece:
    """The document of a needle order: needles are what they are in the real example (`needle` in its `meta`: the
    sentences around the answer, the whole passage, the answer), and for a citation the whole document."""
    if real.cites:
        return Piece("", text, ((0, len(text)),))
    fact = real.facts[index]
    kind = real.example.meta.get("needle", "sentence")
    held = find_answer({0: text}, [fact.answer], kind if kind in ("passage", "answer") else "sentence")
    return Piece(fact.title, text, tuple(held.needles[0]))


def fit(real: Real, condition: str, build: Build, prompt_tokens: PromptTokens, length: int) -> Example:
    """The example of at most `length` tokens, prompt, answer and special tokens together, that comes closest to it;
    `DataError` where already the smallest one is longer."""
    smallest, documents = write(real, condition, build(0))
    used = prompt_tokens.of(smallest)
    like = Counted(smallest, documents, used)
    if used > length:
        raise DataError(
            f"the documents that `{condition}` needs are {used} tokens", where=f"example {real.id}, length",
            value=length, remedy=f"Allow {used - length} tokens more.",
        )
    best, most, budget = smallest, used, length - used
    for tries in range(TRIES):
        example, documents = write(real, condition, build(max(0, budget)))
        used = prompt_tokens.of(example, documents, like)
        if most < used <= length:
            best, most = example, used
        if 0 <= length - used <= CLOSE * length:
            break
        # aim a little lower each time, since a budget is met by whole sentences and not by tokens
        budget += length - used - round(tries * max(CLOSE * length / 2, 8))
    return best


def write(real: Real, condition: str, scene: Scene) -> tuple[Example, list[Document]]:
    """The example of a scene, and its documents. Its needles stand as deep as those of the real one; for a citation
    they have the same numbers where there are as many documents."""
    rng = random.Random(f"{condition}|{real.id}|places")
    total = len(scene.needles) + len(scene.others)
    needles, others = list(scene.needles), iter(scene.others)
    rng.shuffle(needles)
    held = dict(zip(_places(real, total, len(needles), rng), needles, strict=True))
    pieces = [held.get(index) or next(others) for index in range(total)]
    known = [number for number, _, _ in real.documents]
    numbers = known if len(known) == total else list(range(known[0], known[0] + total))
    documents = [(number, piece.title, piece.text) for number, piece in zip(numbers, pieces, strict=True)]
    prompt, spans = write_prompt(documents, scene.question)
    shift = len(real.head)
    marked = [place(needle, span) for piece, span in zip(pieces, spans, strict=True) for needle in piece.needles]
    gold = [number for number, piece in zip(numbers, pieces, strict=True) if piece.needles]
    answers = scene.answers or (write_citation(gold),)
    meta = {
        "id": real.id, "condition": condition, "hops": len(real.facts), "documents": total, "gold": gold,
        "question": scene.question,
    }
    return Example(
        real.example.task, real.head + prompt + real.tail, answers[0], answers,
        tuple((start + shift, end + shift) for start, end in marked), meta, real.example.joint,
        real.example.chat_template,
    ), documents


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


class Pool:
    """Documents about other things, `(title, text)`, for the context `high`; equal ones are taken once."""

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
    """Documents one after the other as long as they fit, and then smaller ones while there are any that fit;
    `DataError` where there are no more of them, and much room is left."""
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
    """Documents to put `n` needles into, about as long as the real ones that hold needles, and those that are left;
    `DataError` where there are too few."""
    candidates = list(islice(drawn, HOSTS * n))
    if len(candidates) < n:
        raise DataError(
            "there are too few documents without the answer to put the needles into", where=f"example {real.id}",
            value=f"{len(candidates)} for {n}",
            remedy="Give more real examples, or have documents written (--distractors).",
        )
    hosts = []
    for index in range(n):
        length = len(real.documents[real.gold[index % len(real.gold)]][2])
        best = min(candidates, key=lambda pair, length=length: abs(len(pair[0].text) - length))
        candidates.remove(best)
        hosts.append(best[0])
    return hosts, chain(candidates, drawn)


def sizes(real: Real, budget: int, n_fixed: int, n_least: int, heading_tokens: float, unit: float) -> list[int]:
    """How many units (sentences, entries) each document gets, so that there are as many documents as in the real
    example and they fill a budget of tokens; fewer documents where they would have less than `LEAST` units.

    Args:
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
    return _joined(title, " ".join(into[:place]), sentence, " ".join(into[place:]))


def insert_into_text(sentence: str, host: Piece, rng: random.Random) -> Piece:
    """A document with a needle sentence between two of its sentences, or before or behind all of them."""
    cut = rng.choice([0, *(end for _, end in sentences(host.text))])
    return _joined(host.title, host.text[:cut].rstrip(), sentence, host.text[cut:].strip())


def _joined(title: str, before: str, sentence: str, after: str) -> Piece:
    start = len(before) + bool(before)
    return Piece(title, " ".join(part for part in (before, sentence, after) if part), ((start, start + len(sentence)),))


def heading(title: str) -> str:
    """The heading and end of a document, for counting its tokens."""
    return f"Document 100: {title}\n\n\n"


def unit_tokens(count: Counter, units: Sequence[str]) -> float:
    """Tokens of one unit in running text, as a mean."""
    return count([" ".join(units)])[0] / len(units)
