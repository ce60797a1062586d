"""What a model is trained on: how real the needle and the haystack are (the paper's section on synthetic data).

- `CONCEPT_CONTEXT`, each `high`, `mid` or `low`: synthetic needles in a synthetic haystack. The paper has no `mid`.
- `real` is real in both, `real_limited` knows only a quarter of the relations, `symbolic` replaces words by codes.
- `A-B` is a mixture: its examples are those of the conditions A and B in turn.
- `real_short` and `real_shuffled` are controls: what training does without long context, or without right answers.
- `NAME_quarter` and `NAME_4x` are sizes: the condition NAME with a quarter of its examples, or four times as many.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieval_heads.errors import ConfigError

LEVELS = ("high", "mid", "low")
"""Realism of a synthetic needle or haystack, from the most real."""


@dataclass(frozen=True)
class Condition:
    """One kind of training data.

    Attributes:
        name: as in profiles, tables and folders.
        concept: realism of the needle and the question: `real` (every form of statement), `high` (varied sentences, but
            no apposition, pronoun or joined facts), `mid` (two templates per relation, one with its noun and one with
            a verb, so that a statement can be reworded, but only in one way), `low` (one template per relation),
            `symbolic`; `mixed` for a mixture.
        context: realism of the haystack: `real` (documents with hard negatives), `high` (documents about other things),
            `mid` (as `high`, but a prompt has only a few different ones, repeated: the words are of the same kind and
            fewer), `low` (a few sentences repeated), `symbolic`; `mixed` for a mixture.
        limited: draw the asked relations from the `LIMITED` quarter only.
        members: the conditions whose examples it takes in turn, by index; none for a condition with its own.
        short: its training examples have the base model's length, so that no long context is seen.
        shuffled: the answers are swapped among the examples of a set (`examples.swap_answers`).
        scale: number of training examples, as a multiple of the profile's.
    """

    name: str
    concept: str
    context: str
    limited: bool = False
    members: tuple[str, ...] = ()
    short: bool = False
    shuffled: bool = False
    scale: float = 1

    def source(self, index: int) -> str:
        """The condition whose examples hold the `index`-th example of this one: itself, or one of its members."""
        return self.members[index % len(self.members)] if self.members else self.name

    @property
    def control(self) -> bool:
        """Whether nobody would train on such data, so that no claim is about it."""
        return self.short or self.shuffled

    @property
    def sized(self) -> bool:
        """Whether it differs from another condition only in the number of examples; the claims are about one number."""
        return self.scale != 1

    @property
    def dissected(self) -> bool:
        """Whether heads are knocked out of its runs and patched into them, which is all that a claim is about."""
        return not (self.control or self.sized)

    @property
    def synthetic(self) -> bool:
        """Whether no example has real needles in a real haystack; false for `real...` and for mixtures with it."""
        return all(CONDITIONS[name].synthetic for name in self.members) if self.members else self.concept != "real"


def _mixture(*members: str) -> Condition:
    # a hyphen, as run keys and file names allow no plus sign and part their components by `__`
    return Condition("-".join(members), "mixed", "mixed", members=members)


def _sizes(concept: str, context: str, name: str) -> list[Condition]:
    return [
        Condition(f"{name}_{size}", concept, context, members=(name,), scale=scale)
        for size, scale in (("quarter", 0.25), ("4x", 4))
    ]


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("real", "real", "real"),
        Condition("real_limited", "real", "real", limited=True),
        *(Condition(f"{concept}_{context}", concept, context) for concept in LEVELS for context in LEVELS),
        Condition("symbolic", "symbolic", "symbolic"),
        _mixture("real_limited", "high_high"),
        _mixture("real_limited", "low_low"),
        _mixture("high_high", "symbolic"),
        _mixture("high_low", "low_high"),
        Condition("real_short", "real", "real", members=("real",), short=True),
        Condition("real_shuffled", "real", "real", members=("real",), shuffled=True),
        *_sizes("real", "real", "real"),
        *_sizes("high", "high", "high_high"),
        *_sizes("low", "low", "low_low"),
    )
}
"""All conditions by name, real ones first, then from more to less real, mixtures, controls, sizes.

Tables and figures have this order.
"""


def kind_of(name: str) -> Condition:
    """The condition of that name, or one of the user's own, whose examples come from a file."""
    return CONDITIONS.get(name) or Condition(name, "own", "own")


def get_condition(name: str) -> Condition:
    """The condition of that name; `ConfigError` names the known ones otherwise."""
    if name not in CONDITIONS:
        raise ConfigError(
            "unknown condition", where="condition", value=name, remedy=f"Use one of {', '.join(CONDITIONS)}."
        )
    return CONDITIONS[name]
