"""What a model is trained on: how real the needle and the haystack are (the paper's section on synthetic data).

A condition is named `CONCEPT_CONTEXT`; `real` is real in both, `real_limited` knows only a quarter of the relations,
`symbolic` replaces words by codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieval_heads.errors import ConfigError


@dataclass(frozen=True)
class Condition:
    """One kind of training data.

    Attributes:
        name: as it stands in profiles, tables and folders.
        concept: realism of the needle and the question: `real` (every form of statement), `high` (varied sentences, but
            no apposition, pronoun or joined facts), `low` (one template a relation), `symbolic`.
        context: realism of the haystack: `real` (documents with hard negatives), `high` (documents about other things),
            `low` (a few sentences repeated), `symbolic`.
        limited: draw the asked relations from the `LIMITED` quarter only.
    """

    name: str
    concept: str
    context: str
    limited: bool = False


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("real", "real", "real"),
        Condition("real_limited", "real", "real", limited=True),
        Condition("high_high", "high", "high"),
        Condition("high_low", "high", "low"),
        Condition("low_high", "low", "high"),
        Condition("low_low", "low", "low"),
        Condition("symbolic", "symbolic", "symbolic"),
    )
}


def get_condition(name: str) -> Condition:
    """The condition of that name; `ConfigError` names the known ones otherwise."""
    if name not in CONDITIONS:
        raise ConfigError(
            "unknown condition", where="condition", value=name, remedy=f"Use one of {', '.join(CONDITIONS)}."
        )
    return CONDITIONS[name]
