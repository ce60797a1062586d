"""The text world: names built from syllables, and the relations between them, read from `relations.yaml`.

Names are divided among the splits by a hash. The first and last syllables of an invented word (for a person, of the
surname) belong to exactly one split, whatever seed made the word; so train, probe and test sets cannot share an
entity, nor a word that names one. There are some seven million words in all.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import count, product
from typing import Any, NamedTuple

import yaml

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


class Entity(NamedTuple):
    """A named thing: `kind` is a type of `relations.yaml` or `code`, `word` the invented word (a surname)."""

    name: str
    kind: str
    word: str
    pronoun: str


@cache
def word_ends(split: str) -> tuple[tuple[str, str], ...]:
    """First and last syllables of the split's invented words."""
    return tuple((stem, tail) for stem, tail in product(STEMS, TAILS) if _in_split(f"{stem}-{tail}", split))


@cache
def codes(split: str) -> tuple[str, ...]:
    """The split's codes, for the condition `symbolic`: two letters and two digits."""
    made = (f"{a}{b}{number}" for a, b, number in product(CONSONANTS, CONSONANTS, range(10, 100)))
    return tuple(code for code in made if _in_split(code, split))


def _in_split(text: str, split: str) -> bool:
    return zlib.crc32(text.encode()) % 16 in SPLITS[split]


class Names:
    """Draws entities of one of the `SPLITS`, no name twice."""

    def __init__(self, rng: random.Random, split: str) -> None:
        if split not in SPLITS:
            raise ConfigError("unknown split", where="split", value=split, remedy=f"Use one of {', '.join(SPLITS)}.")
        self._rng, self._split, self._used = rng, split, set[str]()

    def entity(self, kind: str, word: str | None = None) -> Entity:
        """A new entity; with `word` it shares that word (a person's surname) with another, as hard negatives do."""
        for tries in count():
            # few names carry a given word, and all of them may be used: then a name of its own has to do
            entity = self._draw(kind, word if tries < 20 else None)
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


# a quarter of the relations, closed enough under chaining to build four hops: what `real_limited` is trained on
LIMITED = (
    "employer", "birthplace", "mentor", "alma_mater", "mayor", "city_river",
    "headquarters", "chief_executive", "principal", "school_city", "city_founder", "twin_city",
)
# one undoes or contradicts the other, so they never follow each other in a chain
CLASHES = frozenset({
    ("masterpiece", "author"), ("author", "masterpiece"), ("chief_executive", "employer"),
    ("employer", "chief_executive"), ("principal", "teaching_post"), ("teaching_post", "principal"),
})


class Relation(NamedTuple):
    """One relation; see the head of `relations.yaml` for the fields."""

    name: str
    subject: str
    object: str
    noun: str
    phrases: tuple[str, ...]
    inverted: tuple[str, ...]
    questions: tuple[str, ...]
    nested: tuple[str, ...]


CODES = Relation("value", "code", "code", "value", (), (), (), ())
"""What holds between the two codes of a pair in the condition `symbolic`."""


class Fact(NamedTuple):
    """`relation` holds between `subject` and `object`."""

    subject: Entity
    relation: Relation
    object: Entity


@cache
def relations() -> dict[str, Relation]:
    """All relations by name, the noun's question forms and noun phrase included."""
    raw = yaml.safe_load(files("retrieval_heads.data").joinpath("relations.yaml").read_text(encoding="utf-8"))
    table = {}
    for name, entry in raw.items():
        who = "Who" if entry["object"] == "person" else "What"
        nouns = (f"{who} is the {entry['noun']} of {{s}}?", f"Name the {entry['noun']} of {{s}}.")
        table[name] = Relation(
            name, entry["subject"], entry["object"], entry["noun"],
            tuple(entry["phrases"]), tuple(entry["inverted"]), nouns + tuple(entry["questions"]),
            (f"the {entry['noun']} of {{s}}", entry["nested"]),
        )
    return table


@cache
def by_subject(limited: bool = False) -> dict[str, tuple[Relation, ...]]:
    """Relations grouped by the type of their subject, all of them or the `LIMITED` quarter."""
    grouped: dict[str, list[Relation]] = {}
    for name, relation in relations().items():
        if not limited or name in LIMITED:
            grouped.setdefault(relation.subject, []).append(relation)
    return {kind: tuple(members) for kind, members in grouped.items()}


def draw_path(rng: random.Random, hops: int, limited: bool = False) -> list[Relation]:
    """A chain of `hops` relations in which the object type of each is the subject type of the next."""
    table = by_subject(limited)
    everything = [relation for group in table.values() for relation in group]
    while True:
        path = [rng.choice(everything)]
        while len(path) < hops and (onward := _onward(path[-1], table)):
            path.append(rng.choice(onward))
        if len(path) == hops:
            return path


def _onward(last: Relation, table: dict[str, tuple[Relation, ...]]) -> list[Relation]:
    return [relation for relation in table.get(last.object, ())
            if relation is not last and (last.name, relation.name) not in CLASHES]
