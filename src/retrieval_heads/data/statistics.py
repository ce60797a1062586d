"""What a set of examples is made of: its length, documents, needles and words, and what of a test set it never states.

How a needle is put is known from `Example.meta["forms"]`: `relation/form/variant` for each of its statements, where the
form and variant name the sentence (`statements.py`). A test statement is unseen when no needle of the training examples
puts the same relation in the same form; `unseen_forms` and `unseen_relations` ask for one of the two alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import DataError

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_DOCUMENT = re.compile(r"^Document \d+:", re.MULTILINE)


def describe(examples: Sequence[Example], tokenizer: Any) -> dict[str, float]:
    """Mean `tokens` (prompt and answer), `documents` and `needles` an example, and the size of the `vocabulary`.

    The vocabulary is the number of different words in all prompts, without regard to case; it grows with the number of
    examples, so compare sets of the same size.

    Raises:
        DataError: no examples.
    """
    if not examples:
        raise DataError("no examples", where="examples", remedy="Give at least one example to describe.")
    words = {word.lower() for example in examples for word in _WORD.findall(example.prompt)}
    return {
        "tokens": fmean(len(encoded.ids) for encoded in encode_all(examples, tokenizer)),
        "documents": fmean(len(_DOCUMENT.findall(example.prompt)) for example in examples),
        "needles": fmean(len(example.needles) for example in examples),
        "vocabulary": len(words),
    }


def stated_forms(examples: Sequence[Example]) -> list[str]:
    """`relation/form/variant` of every statement of a needle, in order.

    Raises:
        DataError: an example that does not say how its needles are put, as those of official files.
    """
    forms = []
    for example in examples:
        if "forms" not in example.meta:
            raise DataError(
                "it is not known how the needles are put", where=f"example {example.meta.get('id', '')}".strip(),
                remedy="Describe examples from `make_examples`.",
            )
        forms += example.meta["forms"]
    return forms


def unseen_shares(seen: Collection[str], wanted: Sequence[str]) -> dict[str, float]:
    """How much of the statements `wanted` (of a test set) never occurs in `seen` (of a training set).

    Args:
        seen: `stated_forms` of the training examples.
        wanted: `stated_forms` of the test examples; each occurrence counts.

    Returns:
        Fractions in [0, 1] called `unseen` (relation and form together), `unseen_forms`, `unseen_relations`.

    Raises:
        DataError: nothing is wanted, so no share exists.
    """
    if not wanted:
        raise DataError("no statement to look for", where="wanted", remedy="Give the forms of a test set with needles.")
    return {
        name: _unseen([part(form) for form in seen], [part(form) for form in wanted])
        for name, part in (("unseen", str), ("unseen_forms", _form), ("unseen_relations", _relation))
    }


def _unseen(seen: Collection[str], wanted: Sequence[str]) -> float:
    known = set(seen)
    return fmean(one not in known for one in wanted)


def _relation(statement: str) -> str:
    return statement.split("/", 1)[0]


def _form(statement: str) -> str:
    return statement.split("/", 1)[1]
