"""The `symbolic` condition: the three tasks with codes in the place of words.

mdqa looks up a key in lists of pairs, musique follows a value that is the key of another pair, summhay finds the lists
that hold a code.
"""

from __future__ import annotations

from itertools import pairwise

from retrieval_heads.data.citation import REPEATS
from retrieval_heads.data.names import Entity
from retrieval_heads.data.relations import Fact, Relation
from retrieval_heads.data.scene import Counter, Document, Query, Scene, Stage, fill
from retrieval_heads.data.statements import Sentence

PAIRS = 5
"""Pairs in a list of mdqa and musique; codes in a list of summhay."""
HAS_VALUE = Relation("value", "code", "code", "value", (), (), (), ())


def build_pairs(stage: Stage, budget: int, count: Counter, n_queries: int, hops: int) -> Scene:
    """Lists of `key: value` pairs; a query asks for the value `hops` steps from a key."""
    chains = [_chain(stage, hops)]
    while len(chains) < n_queries and hops * (len(chains) + 1) * 50 < budget:
        chains.append(_chain(stage, hops))
    scene = Scene([_pairs(stage, fact) for chain in chains for fact in chain])
    fill(scene, lambda: _pairs(stage), budget, count)
    for chain in chains[: max(1, n_queries)]:
        inner = "the value of " * len(chain) + chain[0].subject.name
        scene.queries.append(Query(f"What is {inner}?", chain[-1].object.name, tuple(chain)))
    return scene


def build_lists(stage: Stage, budget: int, count: Counter, n_queries: int) -> Scene:
    """Lists of codes; a query asks for the two to five lists that hold one code."""
    rng = stage.rng
    targets = [_code_fact(stage) for _ in range(min(n_queries, 3))]
    fewest, most = (1, max(2, min(REPEATS[1], budget // 45))) if stage.compact else REPEATS
    contents: list[list[Sentence]] = [[] for _ in range(most)]
    for fact in targets:
        for content in rng.sample(contents, rng.randint(fewest, most)):
            content.append(_item(fact))

    def codes(content: list[Sentence]) -> Document:
        content += [_item(_code_fact(stage)) for _ in range(PAIRS * 2 - len(content))]
        rng.shuffle(content)
        return Document("List", tuple(content))

    scene = Scene([codes(content) for content in contents])
    fill(scene, lambda: codes([]), budget, count)
    scene.queries = [Query(f"Which documents contain {fact.subject.name}?", None, (fact,)) for fact in targets]
    return scene


def _code(stage: Stage) -> Entity:
    return stage.names.entity("code")


def _code_fact(stage: Stage) -> Fact:
    code = _code(stage)
    return Fact(code, HAS_VALUE, code)


def _chain(stage: Stage, hops: int) -> list[Fact]:
    codes = [_code(stage) for _ in range(hops + 1)]
    return [Fact(key, HAS_VALUE, value) for key, value in pairwise(codes)]


def _pair(fact: Fact) -> Sentence:
    return Sentence(f"{fact.subject.name}: {fact.object.name}.", (fact,), ("value/pair/0",))


def _item(fact: Fact) -> Sentence:
    return Sentence(f"{fact.subject.name}.", (fact,), ("value/item/0",))


def _pairs(stage: Stage, needle: Fact | None = None) -> Document:
    pairs = [_pair(Fact(_code(stage), HAS_VALUE, _code(stage))) for _ in range(PAIRS - (needle is not None))]
    if needle is not None:
        pairs.insert(stage.rng.randint(0, len(pairs)), _pair(needle))
    return Document("List", tuple(pairs))
