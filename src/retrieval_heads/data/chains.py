"""`mdqa` and `musique`: one fact in one document, or a chain of facts in different documents.

mdqa follows Liu et al. 2023 (Lost in the Middle), musique Trivedi et al. 2022 (MuSiQue), in the text world of this
package.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval_heads.data.relations import Fact, Relation, draw_path
from retrieval_heads.data.scene import Counter, Document, Query, Scene, Stage, fill
from retrieval_heads.data.statements import ask, state

HOP_SHARES = {2: 0.65, 3: 0.25, 4: 0.10}
"""Shares of the chain lengths in `musique`: close to those of the official training set."""
LESSON_SHARES = {2: 0.40, 3: 0.35, 4: 0.25}
"""The same for scenes with several questions, from which the base model learns: long chains take longest to learn."""


def build_mdqa(stage: Stage, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """One fact in one document; further queries ask for other facts of the same documents."""
    return _build(stage, budget, count, n_queries, hops=1)


def build_musique(stage: Stage, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """A chain of two to four facts in as many documents; further queries ask for parts of the chains."""
    shares = HOP_SHARES if n_queries == 1 else LESSON_SHARES
    hops = stage.rng.choices(tuple(shares), tuple(shares.values()))[0]
    if stage.compact and hops * 90 > budget:
        hops = 2
    return _build(stage, budget, count, n_queries, hops)


def _build(stage: Stage, budget: int, count: Counter, n_queries: int, hops: int) -> Scene:
    rng, condition = stage.rng, stage.condition
    path = draw_path(rng, hops, condition.limited)
    chains = [_chain(stage, path)]
    asked = frozenset(relation.name for relation in path)
    if condition.context == "low":
        while len(chains) < n_queries and hops * (len(chains) + 1) * 80 < budget:
            chains.append(_chain(stage, draw_path(rng, hops, condition.limited)))
        documents = [stage.grass([state(rng, fact, condition.concept)]) for chain in chains for fact in chain]
        scene = Scene(documents)
        fill(scene, stage.grass, budget, count)
    else:
        if condition.context == "real":
            chains += [_hard_negative(stage, chains[0]) for _ in range(_hard_negatives(stage, hops, budget, n_queries))]
        scene = Scene([_about(stage, fact, asked) for chain in chains for fact in chain])
        avoid = frozenset() if condition.context == "real" else asked
        fill(scene, stage.haystack(lambda: stage.other_document(avoid)), budget, count)
    scene.queries = [_query(stage, chains[0])]
    known = {chains[0][-1]}
    for _ in range(3 * (n_queries - 1)):  # some draws repeat an answer
        if len(scene.queries) == n_queries:
            break
        part = _stated(stage, scene) if hops == 1 and condition.context != "low" else _part(stage, chains)
        if part[-1] not in known:  # an answer that is already in the prompt could be copied from there
            known.add(part[-1])
            scene.queries.append(_query(stage, part))
    return scene


def _query(stage: Stage, chain: Sequence[Fact]) -> Query:
    return Query(ask(stage.rng, chain, stage.condition.concept), chain[-1].object.name, tuple(chain))


def _chain(stage: Stage, path: Sequence[Relation], word: str | None = None) -> list[Fact]:
    """A chain of new facts along `path`; its first subject carries `word` if one is given."""
    chain: list[Fact] = []
    for relation in path:
        subject = chain[-1].object if chain else stage.names.entity(relation.subject, word)
        chain.append(stage.fact(subject, relation))
    return chain


def _hard_negatives(stage: Stage, hops: int, budget: int, n_queries: int) -> int:
    """One misleading chain; where several questions are asked, up to three if they fit."""
    tokens = hops * (32 if stage.compact else 50)
    return 1 if n_queries == 1 else max(1, min(stage.rng.randint(1, 3), budget // tokens - 1))


def _hard_negative(stage: Stage, chain: Sequence[Fact]) -> list[Fact]:
    """The same relations from another subject, which half of the time shares the asked one's surname or word."""
    word = chain[0].subject.word if stage.rng.random() < 0.5 else None
    return _chain(stage, [fact.relation for fact in chain], word)


def _about(stage: Stage, fact: Fact, asked: frozenset[str]) -> Document:
    """A document about the fact's subject with one or two facts beside the needle."""
    sides = stage.rng.randint(0, 1) + (not stage.compact)
    return stage.document([fact, *stage.side_facts(fact.subject, sides, asked)], needle=fact)


def _stated(stage: Stage, scene: Scene) -> list[Fact]:
    """Any fact that the scene states, as a chain of one."""
    sentence = stage.rng.choice(stage.rng.choice(scene.documents).sentences)
    return [stage.rng.choice(sentence.facts)]


def _part(stage: Stage, chains: Sequence[Sequence[Fact]]) -> Sequence[Fact]:
    """One of the chains, or a run of its facts."""
    chain = stage.rng.choice(chains)
    if stage.rng.random() < 0.5:
        return chain
    start = stage.rng.randrange(len(chain))
    return chain[start : stage.rng.randint(start + 1, len(chain))]
