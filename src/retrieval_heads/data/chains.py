"""`mdqa` and `musique`: one fact in one document, or a chain of facts in different documents.

mdqa follows Liu et al. 2023 (Lost in the Middle), musique Trivedi et al. 2022 (MuSiQue), in the text world of this
package. In the condition `symbolic`, mdqa looks up a key in lists of pairs, and musique follows a value that is the
key of another pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from retrieval_heads.data.relations import CODES, Fact, Relation, draw_path
from retrieval_heads.data.scene import Counter, Document, Query, Scene, SceneBuilder, Sentence, ask, fill, state
from retrieval_heads.data.task import Task

HOP_SHARES = {2: 0.65, 3: 0.25, 4: 0.10}
"""Shares of the chain lengths in `musique`: close to those of the official training set."""
LESSON_SHARES = {2: 0.40, 3: 0.35, 4: 0.25}
"""The same for scenes with several questions, from which the base model learns: long chains take longest to learn."""
PAIRS = 5
"""Pairs in a list of the condition `symbolic`."""


def build_mdqa(builder: SceneBuilder, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """One fact in one document; further queries ask for other facts of the same documents."""
    build = _in_codes if builder.condition.context == "symbolic" else _in_words
    return build(builder, budget, count, n_queries, hops=1)


def build_musique(builder: SceneBuilder, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """A chain of two to four facts in as many documents; further queries ask for parts of the chains."""
    symbolic = builder.condition.context == "symbolic"
    shares = HOP_SHARES if n_queries == 1 or symbolic else LESSON_SHARES
    hops = builder.rng.choices(tuple(shares), tuple(shares.values()))[0]
    if symbolic:
        return _in_codes(builder, budget, count, n_queries, hops)
    return _in_words(builder, budget, count, n_queries, 2 if builder.compact and hops * 90 > budget else hops)


MDQA = Task("mdqa", build_mdqa)
MUSIQUE = Task("musique", build_musique, chained=True)


def _in_words(builder: SceneBuilder, budget: int, count: Counter, n_queries: int, hops: int) -> Scene:
    rng, condition = builder.rng, builder.condition
    path = draw_path(rng, hops, condition.limited)
    chains = [_chain(builder, path)]
    asked = frozenset(relation.name for relation in path)
    if condition.context == "low":
        while len(chains) < n_queries and hops * (len(chains) + 1) * 80 < budget:
            chains.append(_chain(builder, draw_path(rng, hops, condition.limited)))
        scene = Scene([builder.grass([state(rng, fact, condition.concept)]) for chain in chains for fact in chain])
        fill(scene, builder.grass, budget, count)
    else:
        if condition.context == "real":
            n = 1
            if n_queries > 1:  # up to three misleading chains if they fit
                n = max(1, min(rng.randint(1, 3), budget // (hops * (32 if builder.compact else 50)) - 1))
            chains += [_hard_negative(builder, chains[0]) for _ in range(n)]
        scene = Scene([_about(builder, fact, asked) for chain in chains for fact in chain])
        avoid = frozenset() if condition.context == "real" else asked
        fill(scene, builder.haystack(lambda: builder.other_document(avoid)), budget, count)
    scene.queries = [_query(builder, chains[0])]
    known = {chains[0][-1]}
    for _ in range(3 * (n_queries - 1)):  # some draws repeat an answer
        if len(scene.queries) == n_queries:
            break
        part = _stated(builder, scene) if hops == 1 and condition.context != "low" else _part(builder, chains)
        if part[-1] not in known:  # an answer that is already in the prompt could be copied from there
            known.add(part[-1])
            scene.queries.append(_query(builder, part))
    return scene


def _query(builder: SceneBuilder, chain: Sequence[Fact]) -> Query:
    return Query(ask(builder.rng, chain, builder.condition.concept), chain[-1].object.name, tuple(chain))


def _chain(builder: SceneBuilder, path: Sequence[Relation], word: str | None = None) -> list[Fact]:
    """A chain of new facts along `path`; its first subject carries `word` if one is given."""
    chain: list[Fact] = []
    for relation in path:
        subject = chain[-1].object if chain else builder.names.entity(relation.subject, word)
        chain.append(builder.fact(subject, relation))
    return chain


def _hard_negative(builder: SceneBuilder, chain: Sequence[Fact]) -> list[Fact]:
    """The same relations from another subject, which half of the time shares the asked one's surname or word."""
    word = chain[0].subject.word if builder.rng.random() < 0.5 else None
    return _chain(builder, [fact.relation for fact in chain], word)


def _about(builder: SceneBuilder, fact: Fact, asked: frozenset[str]) -> Document:
    """A document about the fact's subject with one or two facts beside the needle."""
    sides = builder.rng.randint(0, 1) + (not builder.compact)
    return builder.document([fact, *builder.side_facts(fact.subject, sides, asked)], needle=fact)


def _stated(builder: SceneBuilder, scene: Scene) -> list[Fact]:
    """Any fact that the scene states, as a chain of one."""
    sentence = builder.rng.choice(builder.rng.choice(scene.documents).sentences)
    return [builder.rng.choice(sentence.facts)]


def _part(builder: SceneBuilder, chains: Sequence[Sequence[Fact]]) -> Sequence[Fact]:
    """One of the chains, or a run of its facts."""
    chain = builder.rng.choice(chains)
    if builder.rng.random() < 0.5:
        return chain
    start = builder.rng.randrange(len(chain))
    return chain[start : builder.rng.randint(start + 1, len(chain))]


def _in_codes(builder: SceneBuilder, budget: int, count: Counter, n_queries: int, hops: int) -> Scene:
    """Lists of `key: value` pairs; a query asks for the value `hops` steps from a key."""

    def chain() -> list[Fact]:
        return [Fact(key, CODES, value) for key, value in pairwise([builder.code() for _ in range(hops + 1)])]

    def pairs(needle: Fact | None = None) -> Document:
        facts = [Fact(builder.code(), CODES, builder.code()) for _ in range(PAIRS - (needle is not None))]
        if needle is not None:
            facts.insert(builder.rng.randint(0, len(facts)), needle)
        return Document("List", tuple(
            Sentence(f"{fact.subject.name}: {fact.object.name}.", (fact,), ("value/pair/0",)) for fact in facts))

    chains = [chain()]
    while len(chains) < n_queries and hops * (len(chains) + 1) * 50 < budget:
        chains.append(chain())
    scene = Scene([pairs(fact) for one in chains for fact in one])
    fill(scene, pairs, budget, count)
    for one in chains[: max(1, n_queries)]:
        inner = "the value of " * len(one) + one[0].subject.name
        scene.queries.append(Query(f"What is {inner}?", one[-1].object.name, tuple(one)))
    return scene
