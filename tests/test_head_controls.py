"""Controls of heads that are matched by key/value group, and the weakest heads of the same layers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads.errors import HeadError
from retrieval_heads.heads.controls import group_heads, group_mismatch, groups_filled, weakest_heads

SHAPE, SIZE = (4, 12), 3
EVERY = [(layer, head) for layer in range(SHAPE[0]) for head in range(SHAPE[1])]


@st.composite
def sets(draw):
    order = draw(st.permutations(EVERY))
    cut = draw(st.integers(0, len(EVERY) // 2))
    return order[:cut], order[cut : cut + draw(st.integers(0, len(EVERY) - 2 * cut))]


def by_group(heads):
    return Counter((layer, head // SIZE) for layer, head in heads)


@given(case=sets(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_group_control_takes_from_the_same_groups_as_far_as_these_have_free_heads(case, seed):
    heads, exclude = case
    drawn = group_heads(heads, SHAPE, SIZE, seed, exclude)
    assert len(drawn) == len(set(drawn)) == len(heads)
    assert not set(drawn) & {*heads, *exclude}
    assert drawn == sorted(drawn) == group_heads(heads[::-1], SHAPE, SIZE, seed, exclude[::-1])
    free = by_group([head for head in EVERY if head not in {*heads, *exclude}])
    wanted, found = by_group(heads), by_group(drawn)
    lacking = sum(max(0, count - free[group]) for group, count in wanted.items())
    assert group_mismatch(heads, drawn, SIZE) <= lacking
    for group, count in wanted.items():
        assert found[group] >= min(count, free[group])


def test_missing_heads_come_from_the_layer_and_first_from_groups_of_the_set():
    heads = [(1, 0), (1, 1), (1, 3)]  # two of the first group, one of the second
    for seed in range(20):
        drawn = group_heads(heads, SHAPE, SIZE, seed, exclude=[(1, 2)])
        assert by_group(drawn) == {(1, 1): 2, (1, 2): 1} or by_group(drawn)[1, 1] == 2
        assert {layer for layer, _ in drawn} == {1}
    full = [(1, head) for head in range(12)]
    assert {abs(layer - 1) for layer, _ in group_heads(full, SHAPE, SIZE, 0)} == {1}, "then from the nearest layers"


def test_all_that_the_rule_leaves_open_is_drawn():
    drawn = {tuple(group_heads([(2, 0)], SHAPE, SIZE, seed)) for seed in range(60)}
    assert drawn == {((2, 1),), ((2, 2),)}


def test_weakest_heads_are_of_the_same_layers_with_ties_at_random():
    scores = np.zeros(SHAPE)
    scores[2, 6:] = 0.5
    drawn = [weakest_heads(scores, [(2, 10), (2, 11)], seed) for seed in range(80)]
    assert {layer for one in drawn for layer, _ in one} == {2}
    assert {head for one in drawn for _, head in one} == set(range(6))
    assert weakest_heads(scores, [(2, 0)], 0, exclude=[(2, head) for head in range(1, 8)])[0][1] >= 8
    assert weakest_heads(scores + np.arange(12) / 100, [(0, 11), (3, 11)], 5) == [(0, 0), (3, 0)]


def test_numbers_of_groups():
    assert groups_filled([(0, 0), (0, 2), (0, 3), (1, 0)], SIZE) == 3
    assert group_mismatch([(0, 0), (0, 3)], [(0, 1), (1, 4)], SIZE) == 1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: group_heads([(0, 0)], SHAPE, 5, 0), "groups do not divide the 12 heads"),
    (lambda: group_heads([(0, 0)], SHAPE, SIZE, 0, EVERY), "0 free heads, 1 are wanted"),
    (lambda: weakest_heads(np.zeros(SHAPE), EVERY[:30], 0), "18 free heads, 30 are wanted"),
    (lambda: group_heads([(4, 0)], SHAPE, SIZE, 0), "the model has layers 0 to 3"),
])
def test_what_cannot_be_drawn_is_an_error(call, message):
    with pytest.raises(HeadError, match=message):
        call()
