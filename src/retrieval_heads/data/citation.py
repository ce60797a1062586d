"""`summhay`: insights recur in other words in several documents; given one, cite the documents that contain it.

The task follows the citation half of Summary of a Haystack (Laban et al. 2024), in the text world of this package.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval_heads.data.relations import Fact, draw_path
from retrieval_heads.data.scene import Counter, Document, Query, Scene, Stage, fill
from retrieval_heads.data.statements import Sentence, ask_citation, state

REPEATS = (2, 5)
"""An asked insight stands in two to five documents."""
INSIGHTS = 3
"""Insights a document, at most."""


def build_summhay(stage: Stage, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """Numbered reports with recurring insights; each query asks for the reports that contain one of them."""
    rng, condition = stage.rng, stage.condition
    low = condition.context == "low"
    targets = [_insight(stage, condition.limited)]
    while len(targets) < n_queries and len(targets) < 3:
        targets.append(_related(stage, rng.choice(targets)))
    fewest, most = (1, max(2, min(REPEATS[1], budget // 45))) if stage.compact else REPEATS
    contents: list[list[Sentence]] = [[] for _ in range(most)]
    for fact in targets:
        for content in rng.sample(contents, rng.randint(fewest, most)):
            content.append(state(rng, fact, condition.concept))
    others = _stream(stage, targets)

    def report(content: list[Sentence]) -> Document:
        if low:
            return stage.grass(content)
        while len(content) < INSIGHTS - stage.compact:
            content.append(state(rng, next(others), "real"))
        rng.shuffle(content)
        return Document(f"Report from {stage.names.entity('city').name}", tuple(content))

    scene = Scene([report(content) for content in contents])
    fill(scene, stage.haystack(lambda: report([])), budget, count)
    scene.queries = [_query(stage, fact) for fact in targets]
    if n_queries > len(targets) and not low:
        scene.queries += [_query(stage, fact) for fact in _recurring(scene, targets)[: n_queries - len(targets)]]
    return scene


def _query(stage: Stage, fact: Fact) -> Query:
    return Query(ask_citation(stage.rng, fact, stage.condition.concept), None, (fact,))


def _insight(stage: Stage, limited: bool = False) -> Fact:
    relation = draw_path(stage.rng, 1, limited)[0]
    return stage.fact(stage.names.entity(relation.subject), relation)


def _related(stage: Stage, fact: Fact) -> Fact:
    """A hard negative: the same relation on a namesake, or another relation of the same subject."""
    if stage.rng.random() < 0.5:
        side = stage.side_facts(fact.subject, 1, frozenset((fact.relation.name,)))
        if side:
            return side[0]
    return stage.fact(stage.names.entity(fact.relation.subject, fact.subject.word), fact.relation)


def _stream(stage: Stage, targets: list[Fact]) -> Iterator[Fact]:
    """Endless insights for the other reports, each handed out two to five times with others in between."""
    waiting: list[Fact] = []
    hard = stage.condition.context == "real"
    while True:
        while len(waiting) < 12:
            fact = _related(stage, stage.rng.choice(targets)) if hard and stage.rng.random() < 0.2 else _insight(stage)
            waiting += [fact] * stage.rng.randint(*REPEATS)
        yield waiting.pop(stage.rng.randrange(len(waiting)))


def _recurring(scene: Scene, targets: list[Fact]) -> list[Fact]:
    """Facts beside the targets that two to five documents state."""
    found: dict[Fact, int] = {}
    for document in scene.documents:
        for fact in dict.fromkeys(fact for sentence in document.sentences for fact in sentence.facts):
            found[fact] = found.get(fact, 0) + 1
    return [fact for fact, n in found.items() if REPEATS[0] <= n <= REPEATS[1] and fact not in targets]
