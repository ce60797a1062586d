"""Names of the text world: the splits share no syllables of invented words and no codes."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads.data.relations import CONSONANTS, LINKS, SPLITS, STEMS, TAILS, TYPES, Names, codes, word_ends
from retrieval_heads.errors import ConfigError

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("drawn", [word_ends, codes])
def test_splits_are_disjoint_and_together_all_there_is(drawn):
    for one, other in combinations(SPLITS, 2):
        assert not set(drawn(one)) & set(drawn(other)), (one, other)
    every = [item for split in SPLITS for item in drawn(split)]
    whole = {word_ends: len(set(STEMS)) * len(set(TAILS)), codes: 90 * len(CONSONANTS) ** 2}
    assert len(every) == len(set(every)) == whole[drawn]
    assert all(len(drawn(split)) > 1000 for split in SPLITS)


def test_the_shares_of_the_splits_cover_every_hash_once():
    assert sorted(place for places in SPLITS.values() for place in places) == list(range(16))


def ends_of(word: str) -> set[tuple[str, str]]:
    """Every way to read a word as first and last syllables, with or without a link between them."""
    found = set()
    for stem in STEMS:
        if word.startswith(stem):
            rest = word[len(stem) :]
            found |= {(stem, rest)} & {(stem, tail) for tail in TAILS}
            found |= {(stem, rest[len(link) :]) for link in LINKS
                      if rest.startswith(link) and rest[len(link) :] in TAILS}
    return found


@settings(deadline=None, max_examples=50)
@given(split=st.sampled_from(sorted(SPLITS)), kind=st.sampled_from(TYPES), seed=SEEDS)
def test_an_entity_is_named_by_a_word_of_its_split(split, kind, seed):
    entity = Names(random.Random(seed), split).entity(kind)
    assert entity.word in entity.name
    assert ends_of(entity.word) & set(word_ends(split))


@settings(deadline=None, max_examples=20)
@given(split=st.sampled_from(sorted(SPLITS)), seed=SEEDS)
def test_codes_come_from_their_split_and_none_twice(split, seed):
    names = Names(random.Random(seed), split)
    drawn = [names.entity("code").name for _ in range(200)]
    assert len(set(drawn)) == 200
    assert set(drawn) <= set(codes(split))


def test_an_unknown_split_names_the_choices():
    with pytest.raises(ConfigError, match=r"split: unknown split \(got 'dev'\)\. Use one of base, train, probe,"):
        Names(random.Random(0), "dev")
