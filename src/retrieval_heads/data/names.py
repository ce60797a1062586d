"""Names of the text world: built from syllables, and divided among the splits by a hash.

The first and last syllables of an invented word (for a person, of the surname) belong to exactly one split, whatever
seed made the word; so train, probe and test sets cannot share an entity, nor a word that names one. There are some
seven million words in all.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from retrieval_heads.errors import ConfigError

# shares of the names, in sixteenths: the base model sees the most text, the others only need enough
SPLITS = {"base": range(0, 10), "train": range(10, 12), "probe": range(12, 14), "test": range(14, 16)}

ONSETS = "B Br C Ch D Dr F Fl G Gr H J K L M N P Qu R S Sh St T Th Tr V W Z"
VOWELS = "a e i o u ai ea oo"
MIDDLES = "l lm n nd r rn s ss st t tt v m mb ck d"
ENDINGS = "a an el en er i in is o on or us ia eth ing os"


def _joined(first: str, second: str) -> tuple[str, ...]:
    return tuple(a + b for a in first.split() for b in second.split())


STEMS, LINKS, TAILS = _joined(ONSETS, VOWELS), _joined(MIDDLES, VOWELS), _joined(MIDDLES, ENDINGS)
CONSONANTS = "bcdfghjklmnpqrstvwxz"

# {} stands for the invented word; types without an entry are a bare word
PATTERNS = {
    "company": ("{} Works", "{} Mills", "{} Group", "{} Trading", "{} Motors", "{} Foods"),
    "school": ("{} College", "{} Academy", "{} University"),
    "book": ("The {} Letters", "The Road to {}", "Goodbye {}", "Songs of {}"),
    "river": ("{} River", "{} Creek"),
    "museum": ("{} Museum", "{} Gallery"),
    "ship": ("Pride of {}", "{} Star", "Lady {}"),
    "team": ("{} Rovers", "{} United", "{} Wanderers"),
    "festival": ("{} Festival", "{} Carnival"),
    "newspaper": ("{} Herald", "{} Gazette", "{} Times"),
    "prize": ("{} Prize", "{} Medal"),
    "island": ("{} Island", "Isle of {}"),
}
TYPES = ("person", "city", "language", *PATTERNS)


class Entity(NamedTuple):
    """A named thing of the text world.

    Attributes:
        name: as it stands in text.
        kind: one of `TYPES`, or `code` (two letters and two digits, for the symbolic condition).
        word: the invented word in it; for a person the surname.
        pronoun: `He`, `She` or `It`.
    """

    name: str
    kind: str
    word: str
    pronoun: str


def _in_split(texts: Iterable[str], split: str) -> list[str]:
    return [text for text in texts if zlib.crc32(text.encode()) % 16 in SPLITS[split]]


@cache
def word_ends(split: str) -> tuple[tuple[str, str], ...]:
    """First and last syllables of the split's invented words."""
    joined = _in_split(map("-".join, product(STEMS, TAILS)), split)
    return tuple((stem, tail) for stem, tail in (text.split("-") for text in joined))


@cache
def codes(split: str) -> tuple[str, ...]:
    """The split's codes: two letters and two digits."""
    letters = map("".join, product(CONSONANTS, CONSONANTS))
    return tuple(_in_split((f"{pair}{number}" for pair, number in product(letters, range(10, 100))), split))


class Names:
    """Draws entities of one split, no name twice.

    Args:
        rng: the random stream of the example.
        split: `base`, `train`, `probe` or `test`.
    """

    def __init__(self, rng: random.Random, split: str) -> None:
        if split not in SPLITS:
            raise ConfigError("unknown split", where="split", value=split, remedy=f"Use one of {', '.join(SPLITS)}.")
        self._rng, self._split, self._used = rng, split, set[str]()

    def entity(self, kind: str, word: str | None = None) -> Entity:
        """A new entity; with `word` it shares that word (a person's surname) with another, as hard negatives do."""
        tries = 0
        while True:
            tries += 1
            # few names carry a given word, and all of them may be used: then a name of its own has to do
            entity = self._draw(kind, word if tries <= 20 else None)
            if entity.name not in self._used:
                self._used.add(entity.name)
                return entity

    def _draw(self, kind: str, word: str | None) -> Entity:
        if kind == "code":
            code = self._pick(codes(self._split))
            return Entity(code, kind, code, "It")
        if kind == "person":
            surname = word or self._word()
            given = self._pick(STEMS) + self._pick(TAILS)
            return Entity(f"{given} {surname}", kind, surname, self._pick(("He", "She")))
        invented = word if word and kind in PATTERNS else self._word()
        return Entity(self._pick(PATTERNS.get(kind, ("{}",))).format(invented), kind, invented, "It")

    def _word(self) -> str:
        stem, tail = self._pick(word_ends(self._split))
        link = self._pick(LINKS) if self._rng.random() < 0.3 else ""
        return stem + link + tail

    def _pick(self, items: Sequence[Any]) -> Any:
        # several times faster than `choice`, and names are most of the work of making text
        return items[int(self._rng.random() * len(items))]
