"""A scene: facts put into sentences, sentences into documents, and the questions that can be asked of them.

A level of realism says which forms a sentence may have. There are eighteen forms a relation for `real`: two with the
noun, three verb phrases each in an active sentence, after a pronoun, in an apposition and joined with a second fact,
and two inverted sentences (plus clauses for citation). The tasks build scenes; `examples.py` writes them as prompts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from retrieval_heads.data.conditions import Condition
from retrieval_heads.data.relations import Entity, Fact, Names, Relation, by_subject
from retrieval_heads.errors import DataError

GRASS = (
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.",
)
POOL = 4
"""Different documents without a needle in a prompt of the `mid` context; the same at every length, as with grass."""
Counter = Callable[[Sequence[str]], list[int]]
"""Counts the tokens of each text."""

NOUN = ("The {noun} of {s} is {o}.", "{s}'s {noun} is {o}.")
PERSON_ASIDES = (
    "gave a short speech last week", "rarely travels", "was in the news this spring", "is known to rise early",
    "collects old stamps", "likes to talk about the weather",
)
THING_ASIDES = (
    "was in the news this spring", "is older than it looks", "has many friends", "drew attention last year",
    "is often mentioned", "has seen better days",
)
CITE_QUESTIONS = (
    "Which documents say that {c}?", "List the documents that say that {c}.",
    "In which documents does it say that {c}?", "Where can one read that {c}?",
)

# (form, variant) pairs; `phrase` 0 to 2 and `inverted` 0 and 1 refer to the lists in relations.yaml
_PLAIN = (("noun", 0), ("noun", 1), ("phrase", 0), ("phrase", 1), ("phrase", 2), ("inverted", 0), ("inverted", 1))
FORMS = {
    "real": _PLAIN + tuple((form, k) for form in ("pronoun", "apposition", "joined") for k in range(3)),
    "high": (("noun", 0), ("phrase", 0), ("phrase", 1), ("inverted", 0)),
    "mid": (("noun", 0), ("phrase", 0)),
    "low": (("noun", 0),),
}
CLAUSES = {"real": _PLAIN, "high": FORMS["high"], "mid": FORMS["mid"], "low": FORMS["low"]}
# which of a relation's questions, nested noun phrases and citation questions a level may use
QUESTIONS = {"real": (0, 1, 2, 3), "high": (0, 2), "mid": (0, 2), "low": (0,)}
NESTED = {"real": (0, 1), "high": (0,), "mid": (0,), "low": (0,)}


class Sentence(NamedTuple):
    """Text that states `facts`; `forms` names how each was stated (`relation/form/variant`)."""

    text: str
    facts: tuple[Fact, ...] = ()
    forms: tuple[str, ...] = ()


class Document(NamedTuple):
    """A titled document as a list of sentences."""

    title: str
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)


class Query(NamedTuple):
    """A question; `answer` is None where the answer is the numbers of the documents that state the facts."""

    text: str
    answer: str | None
    facts: tuple[Fact, ...]


@dataclass
class Scene:
    """Documents and the questions that they answer; the first question is the one an example asks."""

    documents: list[Document] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)


class SceneBuilder:
    """What the tasks share while they build one scene, with the names of one split, at a condition's realism.

    A compact one has fewer facts a document and shorter padding, for the short scenes that the base model learns from.
    """

    def __init__(self, rng: random.Random, split: str, condition: Condition, compact: bool = False) -> None:
        self.rng, self.condition, self.compact = rng, condition, compact
        self.names = Names(rng, split)

    def code(self) -> Entity:
        """A new code, for the condition `symbolic`."""
        return self.names.entity("code")

    def fact(self, subject: Entity, relation: Relation) -> Fact:
        """A fact with a new object."""
        return Fact(subject, relation, self.names.entity(relation.object))

    def side_facts(self, subject: Entity, n: int, avoid: frozenset[str] = frozenset()) -> list[Fact]:
        """Up to `n` further facts of a subject, of relations not in `avoid`."""
        open_relations = _open(avoid).get(subject.kind, ())
        return [self.fact(subject, r) for r in self.rng.sample(open_relations, min(n, len(open_relations)))]

    def document(self, facts: Sequence[Fact], needle: Fact | None = None) -> Document:
        """A document about the facts' subject; the needle is stated at the condition's realism, the rest as `real`."""
        facts = list(facts)
        self.rng.shuffle(facts)
        sentences: list[Sentence] = []
        while facts:
            fact = facts.pop()
            level = self.condition.concept if fact is needle else "real"
            second = facts[-1] if facts and facts[-1] is not needle else None
            sentence = state(self.rng, fact, level, second, opened=bool(sentences))
            if len(sentence.facts) > 1:
                facts.pop()
            sentences.append(sentence)
        return Document(sentences[0].facts[0].subject.name, tuple(sentences))

    def other_document(self, avoid: frozenset[str]) -> Document:
        """A document about something else, with no fact of the relations in `avoid`."""
        subject = self.names.entity(self.rng.choice(tuple(_open(avoid))))
        return self.document(self.side_facts(subject, self.rng.randint(1, 2) + (not self.compact), avoid))

    def haystack(self, make: Callable[[], Document]) -> Callable[[], Document]:
        """What fills the prompt: new documents of `make` each time, or in the `mid` context always one of a few."""
        if self.condition.context != "mid":
            return make
        pool = [make() for _ in range(POOL)]
        return lambda: self.rng.choice(pool)

    def grass(self, needles: Sequence[Sentence] = ()) -> Document:
        """A document of the repeated sentences with needles among them."""
        sentences = [Sentence(text) for text in GRASS * (1 if self.compact else 2)]
        for needle in needles:
            sentences.insert(self.rng.randint(0, len(sentences)), needle)
        return Document("Notes", tuple(sentences))


@lru_cache(maxsize=4096)
def _open(avoid: frozenset[str]) -> dict[str, tuple[Relation, ...]]:
    """The relations that are not in `avoid`, by the type of their subject; no type without one."""
    left = {kind: tuple(r for r in members if r.name not in avoid) for kind, members in by_subject().items()}
    return {kind: members for kind, members in left.items() if members}


def fill(scene: Scene, make: Callable[[], Document], budget: int, count: Counter) -> None:
    """Add documents from `make` until no more fit into the budget; `DataError` where those that are there do not."""
    used = sum(count_documents(scene.documents, count))
    if used > budget:
        raise DataError(
            f"the documents that the task needs are {used} tokens long, more than this length leaves for them",
            where="length", value=budget,
            remedy=f"Allow {used - budget} tokens more; a length of 450 has room for every task (our own tokenizer).",
        )
    misses = 0
    while misses < 2:
        n = max(1, (budget - used) // 60)
        fresh = [make() for _ in range(n)]
        for document, tokens in zip(fresh, count_documents(fresh, count), strict=True):
            if used + tokens <= budget:
                scene.documents.append(document)
                used += tokens
            else:
                misses += 1


def count_documents(documents: Sequence[Document], count: Counter) -> list[int]:
    """Tokens of each document with its heading and the blank line after it."""
    return count([f"Document 10: {document.title}\n{document.text}\n\n" for document in documents])


def state(rng: random.Random, fact: Fact, level: str, second: Fact | None = None, opened: bool = False) -> Sentence:
    """One sentence that states `fact` at a level of realism.

    A joined one may take in `second`, another fact of the same subject. Where the subject is named just before
    (`opened`), a pronoun can stand alone.
    """
    form, variant = rng.choice(FORMS[level])
    if form == "joined" and second is None:
        form = "phrase"
    subject, relation, value = fact
    label = f"{relation.name}/{form}/{variant}"
    if form in ("noun", "phrase", "inverted"):
        return Sentence(_plain(fact, form, variant), (fact,), (label,))
    phrase = relation.phrases[variant].format(o=value.name)
    asides, who = (PERSON_ASIDES, "who") if subject.kind == "person" else (THING_ASIDES, "which")
    if form == "pronoun":
        text = f"{subject.pronoun} {phrase}."
        if not opened:
            text = f"{subject.name} {rng.choice(asides)}. {text}"
    elif form == "apposition":
        text = f"{subject.name}, {who} {phrase}, {rng.choice(asides)}."
    else:
        other = rng.randrange(3)
        text = f"{subject.name} {phrase} and {second.relation.phrases[other].format(o=second.object.name)}."
        return Sentence(text, (fact, second), (label, f"{second.relation.name}/joined/{other}"))
    return Sentence(text, (fact,), (label,))


def _plain(fact: Fact, form: str, variant: int) -> str:
    subject, relation, value = fact
    if form == "noun":
        return NOUN[variant].format(noun=relation.noun, s=subject.name, o=value.name)
    if form == "phrase":
        return f"{subject.name} {relation.phrases[variant].format(o=value.name)}."
    return relation.inverted[variant].format(s=subject.name, o=value.name)


def ask(rng: random.Random, chain: list[Fact], level: str) -> str:
    """A question for the object of the last fact of a chain, which names only the subject of the first."""
    inner = chain[0].subject.name
    for fact in chain[:-1]:
        inner = fact.relation.nested[rng.choice(NESTED[level])].format(s=inner)
    return chain[-1].relation.questions[rng.choice(QUESTIONS[level])].format(s=inner)


def ask_citation(rng: random.Random, fact: Fact, level: str) -> str:
    """A question for the documents that state a fact, the fact itself given as a clause."""
    form, variant = rng.choice(CLAUSES[level])
    clause = _plain(fact, form, variant)[:-1]
    template = {"noun": NOUN, "phrase": ("{",) * 3, "inverted": fact.relation.inverted}[form][variant]
    if not template.startswith("{"):
        clause = clause[0].lower() + clause[1:]
    return CITE_QUESTIONS[rng.choice(QUESTIONS[level])].format(c=clause)
