"""Sentences: a fact put into words in one of the forms that a realism level allows, and questions about facts.

Eighteen forms a relation for `real`: two with the noun, three verb phrases each in an active sentence, after a
pronoun, in an apposition and joined with a second fact, and two inverted sentences (plus clauses for citation).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from retrieval_heads.data.relations import Fact

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
