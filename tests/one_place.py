"""Files of questions over three documents, in which the gold one stands at a place of one's choice.

They follow a real case: a set whose gold document is always the first, made of the same questions as a sound
one, won over that by F1, as the model learned to read the first document alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.prompt_format import place, write_prompt

TOWNS = ("Arle", "Bosk", "Cray", "Dunn", "Eyot", "Frome", "Garth", "Hythe", "Ivel", "Joss", "Kell", "Lund", "Maze",
         "Ness")
THINGS = ("harbour", "library", "market", "museum", "station", "theatre", "tower", "garden", "bridge", "school")


def question(rng: random.Random, gold: int, n_documents: int = 3) -> Example:
    """One question; `gold` is the place of the document that answers it, from 0."""
    thing, towns = rng.choice(THINGS), rng.sample(TOWNS, n_documents)
    years = rng.sample(range(1500, 1990), n_documents)
    documents, spans = [], []
    order = list(range(1, n_documents))
    order.insert(gold, 0)
    for number, index in enumerate(order):
        town, year = towns[index], years[index]
        needle = f"People of {town} opened their {thing} in {year}."
        before = f"{town} lies {rng.randrange(3, 90)} miles from the coast, in a valley. "
        documents.append((number + 1, town, f"{before}{needle} It had {rng.randrange(2, 60)} rooms then."))
        spans.append((len(before), len(before) + len(needle)))
    prompt, places = write_prompt(documents, f"when was the {thing} of {towns[0]} opened")
    return Example("mdqa", prompt, str(years[0]), needles=(place(spans[gold], places[gold]),))


def questions(golds: Sequence[int], seed: int = 0, n_documents: int = 3) -> list[Example]:
    """One question for each place."""
    rng = random.Random(seed)
    return [question(rng, gold, n_documents) for gold in golds]


def write_case(folder: Path, n: int = 48) -> Path:
    """`A.jsonl` (gold at place 1, 2, 3 in turn), `B.jsonl` (the same questions, always first), `real` and `eval`."""
    turns = [number % 3 for number in range(n)]
    for name, golds, seed in (("A", turns, 1), ("B", [0] * n, 1), ("real", turns, 2), ("eval", turns, 3)):
        write_examples(folder / f"{name}.jsonl", questions(golds, seed))
    return folder
