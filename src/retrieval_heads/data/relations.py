"""The relations of the text world and the ways of stating and asking them, read from `relations.yaml`."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml

from retrieval_heads.data.names import Entity

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
        while len(path) < hops:
            last = path[-1]
            onward = [
                relation for relation in table.get(last.object, ())
                if relation is not last and (last.name, relation.name) not in CLASHES
            ]
            if not onward:
                break
            path.append(rng.choice(onward))
        if len(path) == hops:
            return path
