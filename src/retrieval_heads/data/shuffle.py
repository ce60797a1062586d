"""Examples whose answers belong to other examples of the set: training on them can teach the format and nothing else.

A control that shows what a run gains, in heads and in performance, without any link from needle to answer. Random
labels as a control for what a model learns: Zhang et al. 2017, Understanding Deep Learning Requires Rethinking
Generalization.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from retrieval_heads.data.example import Example
from retrieval_heads.errors import DataError

TRIES = 1000
"""Orders that are tried; about one of three leaves no answer in its place."""


def swap_answers(examples: Sequence[Example], condition: str, rng: random.Random) -> list[Example]:
    """The same prompts with the same answers, but no example with its own.

    Args:
        examples: a whole set, at least two; the order in which answers are dealt depends on all of them.
        condition: stands in the examples' ids in the place of their own condition.
        rng: draws the order; every order that moves all answers is equally likely.

    Returns:
        Examples with the prompts, needles and `meta` of the given ones, so the needles are those of the prompt and the
        answer is as a rule in none of them; `meta["answer_of"]` is the id of the example that the answer belongs to.

    Raises:
        DataError: too few different answers to give every example another one.
    """
    answers = [example.answer for example in examples]
    order = list(range(len(examples)))
    for _ in range(TRIES):
        rng.shuffle(order)
        # by text and not only by place: two examples may cite the same documents
        if all(answers[other] != answer for other, answer in zip(order, answers, strict=True)):
            return [
                _answered(example, examples[other], condition)
                for example, other in zip(examples, order, strict=True)
            ]
    raise DataError(
        "the answers cannot be swapped so that no example keeps its own", where=condition, value=len(examples),
        remedy="Make more examples, at least two with different answers.",
    )


def _answered(example: Example, other: Example, condition: str) -> Example:
    task, rest = example.task, example.meta["id"].split("-")[-3:]  # split, seed and index
    meta = {**example.meta, "id": "-".join([task, condition, *rest]), "answer_of": other.meta["id"]}
    return replace(example, answer=other.answer, answers=other.answers, meta=meta)
