"""`summhay`: insights recur in other words in several documents; given one, cite the documents that contain it.

The task follows the citation half of Summary of a Haystack (Laban et al. 2024), in the text world of this package. In
the condition `symbolic` documents are lists of codes, and the lists that hold a code are cited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from retrieval_heads.data.relations import CODES, Fact, draw_path
from retrieval_heads.data.scene import (
    Counter,
    Document,
    Query,
    Scene,
    SceneBuilder,
    Sentence,
    ask_citation,
    fill,
    state,
)
from retrieval_heads.data.task import CITATION_METRICS, Task, score_citation

REPEATS = (2, 5)
"""An asked insight stands in two to five documents."""
INSIGHTS = 3
"""Insights a document, at most."""
ITEMS = 10
"""Codes in a list of the condition `symbolic`."""


def build_summhay(builder: SceneBuilder, budget: int, count: Counter, n_queries: int = 1) -> Scene:
    """Numbered reports with recurring insights; each query asks for the reports that contain one of them."""
    if builder.condition.context == "symbolic":
        return _in_codes(builder, budget, count, n_queries)
    rng, condition = builder.rng, builder.condition
    low = condition.context == "low"
    targets = [_insight(builder, condition.limited)]
    while len(targets) < n_queries and len(targets) < 3:
        targets.append(_related(builder, rng.choice(targets)))
    contents = _dealt(builder, budget, targets, lambda fact: state(rng, fact, condition.concept))
    others = _stream(builder, targets)

    def report(content: list[Sentence]) -> Document:
        if low:
            return builder.grass(content)
        while len(content) < INSIGHTS - builder.compact:
            content.append(state(rng, next(others), "real"))
        rng.shuffle(content)
        return Document(f"Report from {builder.names.entity('city').name}", tuple(content))

    scene = Scene([report(content) for content in contents])
    fill(scene, builder.haystack(lambda: report([])), budget, count)
    asked = list(targets)
    if not low:
        asked += _recurring(scene, targets)[: max(0, n_queries - len(targets))]
    scene.queries = [Query(ask_citation(rng, fact, condition.concept), None, (fact,)) for fact in asked]
    return scene


SUMMHAY = Task(
    "summhay", build_summhay, score_citation, CITATION_METRICS, main_metric="citation_f1", head_score="insight",
    cites=True,
)


def _dealt(
    builder: SceneBuilder, budget: int, targets: list[Fact], put: Callable[[Fact], Sentence],
) -> list[list[Sentence]]:
    """What the documents begin with that are cited: each target stands in several of them, `put` in words each time."""
    fewest, most = (1, max(2, min(REPEATS[1], budget // 45))) if builder.compact else REPEATS
    contents: list[list[Sentence]] = [[] for _ in range(most)]
    for fact in targets:
        for content in builder.rng.sample(contents, builder.rng.randint(fewest, most)):
            content.append(put(fact))
    return contents


def _insight(builder: SceneBuilder, limited: bool = False) -> Fact:
    relation = draw_path(builder.rng, 1, limited)[0]
    return builder.fact(builder.names.entity(relation.subject), relation)


def _related(builder: SceneBuilder, fact: Fact) -> Fact:
    """A hard negative: the same relation on a namesake, or another relation of the same subject."""
    if builder.rng.random() < 0.5:
        side = builder.side_facts(fact.subject, 1, frozenset((fact.relation.name,)))
        if side:
            return side[0]
    return builder.fact(builder.names.entity(fact.relation.subject, fact.subject.word), fact.relation)


def _stream(builder: SceneBuilder, targets: list[Fact]) -> Iterator[Fact]:
    """Endless insights for the other reports, each handed out two to five times with others in between."""
    rng, waiting = builder.rng, []
    hard = builder.condition.context == "real"
    while True:
        while len(waiting) < 12:
            fact = _related(builder, rng.choice(targets)) if hard and rng.random() < 0.2 else _insight(builder)
            waiting += [fact] * rng.randint(*REPEATS)
        yield waiting.pop(rng.randrange(len(waiting)))


def _recurring(scene: Scene, targets: list[Fact]) -> list[Fact]:
    """Facts beside the targets that two to five documents state."""
    found: dict[Fact, int] = {}
    for document in scene.documents:
        for fact in dict.fromkeys(fact for sentence in document.sentences for fact in sentence.facts):
            found[fact] = found.get(fact, 0) + 1
    return [fact for fact, n in found.items() if REPEATS[0] <= n <= REPEATS[1] and fact not in targets]


def _in_codes(builder: SceneBuilder, budget: int, count: Counter, n_queries: int) -> Scene:
    """Lists of codes; a query asks for the two to five lists that hold one code."""

    def fact() -> Fact:
        code = builder.code()
        return Fact(code, CODES, code)

    def item(fact: Fact) -> Sentence:
        return Sentence(f"{fact.subject.name}.", (fact,), ("value/item/0",))

    def codes(content: list[Sentence]) -> Document:
        content += [item(fact()) for _ in range(ITEMS - len(content))]
        builder.rng.shuffle(content)
        return Document("List", tuple(content))

    targets = [fact() for _ in range(min(n_queries, 3))]
    scene = Scene([codes(content) for content in _dealt(builder, budget, targets, item)])
    fill(scene, lambda: codes([]), budget, count)
    scene.queries = [Query(f"Which documents contain {one.subject.name}?", None, (one,)) for one in targets]
    return scene
