"""What a set of examples is made of: its length, documents, needles and words, and what a test set shares with it.

How a needle is put is known from `Example.meta["forms"]`: `relation/form/variant` for each of its statements, where the
form and variant name the sentence (`scene.py`). A test statement is unseen when no needle of the training examples
puts the same relation in the same form; `unseen_forms` and `unseen_relations` ask for one of the two alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ConfigError, DataError

DEFAULT_N = 2
"""Of 2, 3, 4, 5, 6 and 8 words, pairs tell most conditions apart: 91 of 105 pairs of conditions differ by more than
twice the error of three seeds (`mdqa`, 100 examples of 2048 tokens; 80 with 8 words). With 5 words nothing is left of
a `symbolic` haystack, with 8 next to nothing of a `low` one."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_DOCUMENT = re.compile(r"^Document \d+:", re.MULTILINE)


def describe(examples: Sequence[Example], tokenizer: Any) -> dict[str, float]:
    """Mean `tokens` (prompt and answer), `documents` and `needles` per example, and the size of the `vocabulary`.

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
        DataError: an example that does not say how its needles are worded, such as one of an official file.
    """
    forms = []
    for example in examples:
        if "forms" not in example.meta:
            raise DataError(
                "it is not known how the needles are worded", where=example.place,
                remedy="Describe examples from `make_examples`.",
            )
        forms += example.meta["forms"]
    return forms


def unseen_shares(seen: Collection[str], wanted: Sequence[str]) -> dict[str, float]:
    """What share of the statements `wanted` (of a test set) never occurs in `seen` (of a training set).

    Args:
        seen: `stated_forms` of the training examples.
        wanted: `stated_forms` of the test examples; each occurrence counts.

    Returns:
        Fractions in [0, 1] called `unseen` (relation and form together), `unseen_forms`, `unseen_relations`.

    Raises:
        DataError: `wanted` is empty, so there is no share.
    """
    if not wanted:
        raise DataError("no statement to look for", where="wanted", remedy="Give the forms of a test set with needles.")
    shares = {}
    for name, part in (("unseen", slice(None)), ("unseen_forms", slice(1, None)), ("unseen_relations", slice(1))):
        known = {tuple(form.split("/", 1)[part]) for form in seen}
        shares[name] = fmean(tuple(form.split("/", 1)[part]) not in known for form in wanted)
    return shares


def ngram_overlap(train: Sequence[Example], target: Sequence[Example], n: int = DEFAULT_N) -> float:
    """Share of the different word n-grams in the target's prompts that also occur in a training prompt.

    Overlap of n-grams is the usual measure of how alike two sets of texts are, as in the checks of training data for
    test data (Brown et al. 2020, arXiv 2005.14165, appendix C). Prompts are nearly all haystack, so it distinguishes
    haystacks, but hardly needles. It grows with the number of training examples, so compare sets of the same size.

    Words are runs of letters and digits, with apostrophes and hyphens inside, without regard to case and punctuation.
    No n-gram reaches from one prompt to the next.

    Args:
        train: what a model is trained on; without any the share is 0.
        target: what it is tested on.
        n: words of an n-gram.

    Returns:
        A fraction in [0, 1]; 1 for a set and itself.

    Raises:
        ConfigError: n-grams of less than one word.
        DataError: no prompt of the target has n words, so no share exists.
    """
    if n < 1:
        raise ConfigError("n-grams have at least one word", where="n", value=n, remedy="Use a whole number from 1.")
    wanted = _ngrams(target, n)
    if not wanted:
        raise DataError(f"no prompt has {n} words", where="target", value=f"{len(target)} examples",
                        remedy="Give longer examples, or use a smaller n.")
    return len(wanted & _ngrams(train, n)) / len(wanted)


def _ngrams(examples: Sequence[Example], n: int) -> set[int]:
    """Hashes of the n-grams, which take less memory; among a million, two are equal by chance in 1 of 1e7 cases."""
    found: set[int] = set()
    for example in examples:
        words = _WORD.findall(example.prompt.casefold())
        found.update(map(hash, zip(*(words[start:] for start in range(n)), strict=False)))
    return found
