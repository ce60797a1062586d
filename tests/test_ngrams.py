"""Overlap of word n-grams: counted by hand, and how it goes with the realism of the haystack."""

from __future__ import annotations

import pytest

from retrieval_heads.data import make_examples
from retrieval_heads.data.example import Example
from retrieval_heads.data.statistics import ngram_overlap
from retrieval_heads.errors import ConfigError, DataError


def written(*prompts: str) -> list[Example]:
    return [Example("mdqa", prompt, "x") for prompt in prompts]


TRAIN = written("The cat sat on the mat.", "A dog barks")
TARGET = written("the CAT sat; the dog barks, the cat sat")
"""Six different pairs: the cat, cat sat, sat the, the dog, dog barks, barks the."""


@pytest.mark.parametrize(("n", "share"), [
    (1, 5 / 5),  # the cat sat dog barks
    (2, 3 / 6),  # the cat, cat sat, dog barks
    (3, 1 / 6),  # the cat sat
    (4, 0.0),
])
def test_different_ngrams_by_hand(n: int, share: float) -> None:
    assert ngram_overlap(TRAIN, TARGET, n) == pytest.approx(share)


def test_no_ngram_reaches_into_the_next_prompt() -> None:
    assert ngram_overlap(written("mat", "a dog"), written("mat a"), 2) == 0.0
    assert ngram_overlap(written("mat a", "dog"), written("mat a"), 2) == 1.0


def test_a_set_has_all_of_itself_and_nothing_has_none() -> None:
    made = make_examples(task="mdqa", condition="real", length=300, n=3, seed=0)
    assert ngram_overlap(made, made, 8) == 1.0
    assert ngram_overlap([], made) == 0.0


def test_more_examples_never_have_less() -> None:
    test = make_examples(task="mdqa", condition="real", length=512, n=5, seed=0, split="test")
    train = make_examples(task="mdqa", condition="real", length=512, n=40, seed=0)
    shares = [ngram_overlap(train[:count], test) for count in (0, 10, 20, 40)]
    assert shares == sorted(set(shares))


@pytest.mark.parametrize("task", ["mdqa", "musique", "summhay"])
@pytest.mark.parametrize("n", [2, 4])
def test_a_more_real_haystack_has_more_of_the_words_of_real_prompts(task: str, n: int) -> None:
    test = make_examples(task=task, condition="real", length=1024, n=20, seed=0, split="test")
    shares = [
        ngram_overlap(make_examples(task=task, condition=name, length=1024, n=20, seed=0), test, n)
        for name in ("symbolic", "low_low", "low_mid", "low_high")
    ]
    assert shares == sorted(set(shares))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="at least one word"):
        ngram_overlap(TRAIN, TARGET, 0)
    with pytest.raises(DataError, match=r"no prompt has 20 words.*smaller n"):
        ngram_overlap(TRAIN, TARGET, 20)
    with pytest.raises(DataError, match="no prompt has 2 words"):
        ngram_overlap(TRAIN, [])
