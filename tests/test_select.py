"""Sets of heads: order, thresholds, and controls that never touch what they are compared with."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_heads.errors import HeadError
from retrieval_heads.heads.select import (
    bottom_heads,
    group_heads,
    group_mismatch,
    groups_filled,
    layer_mismatch,
    random_heads,
    select_heads,
    weakest_heads,
)
from retrieval_heads.models.layout import head_layout

SCORES = [[0.0, 0.5, 0.1], [0.5, 0.9, 0.2]]


@st.composite
def sets_in_models(draw):
    n_layers, n_heads = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    order = draw(st.permutations(every))
    cut = draw(st.integers(0, len(every)))
    return (n_layers, n_heads), order[:cut], order[cut : cut + draw(st.integers(0, len(every) - cut))]


def layers_of(heads):
    return Counter(layer for layer, _ in heads)


@given(case=sets_in_models(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_a_control_is_disjoint_in_bounds_layer_matched_and_seeded(case, seed):
    (n_layers, n_heads), heads, exclude = case
    free = Counter({layer: n_heads for layer in range(n_layers)}) - layers_of(heads) - layers_of(exclude)
    if any(count > free[layer] for layer, count in layers_of(heads).items()):
        with pytest.raises(HeadError, match=r"free heads.*match='nearest'"):
            random_heads(heads, (n_layers, n_heads), seed, exclude)
        return
    drawn = random_heads(heads, (n_layers, n_heads), seed, exclude)
    assert not set(drawn) & (set(heads) | set(exclude))
    assert all(0 <= layer < n_layers and 0 <= head < n_heads for layer, head in drawn)
    assert layers_of(drawn) == layers_of(heads)
    assert len(set(drawn)) == len(drawn)
    assert layer_mismatch(heads, drawn) == 0
    assert drawn == random_heads(heads[::-1], (n_layers, n_heads), seed, set(exclude)) == sorted(drawn)
    assert drawn == random_heads(heads, (n_layers, n_heads), seed, exclude, match="nearest")  # no need to move


@given(case=sets_in_models(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_nearest_moves_no_more_heads_than_it_must_and_says_how_many(case, seed):
    (n_layers, n_heads), heads, exclude = case
    free = Counter({layer: n_heads for layer in range(n_layers)}) - layers_of(heads) - layers_of(exclude)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if sum(free.values()) < len(heads):
            with pytest.raises(HeadError, match="free heads"):
                random_heads(heads, (n_layers, n_heads), seed, exclude, match="nearest")
            return
        drawn = random_heads(heads, (n_layers, n_heads), seed, exclude, match="nearest")
    assert len(set(drawn)) == len(heads)
    assert not set(drawn) & (set(heads) | set(exclude))
    lacking = sum((layers_of(heads) - free).values())
    assert layer_mismatch(heads, drawn) == lacking
    assert [str(warning.message) for warning in caught] == (
        [f"random control: {lacking} of {len(drawn)} heads come from another layer"] if lacking else []
    )


def test_nearest_takes_from_the_neighbouring_layers():
    full = [(3, head) for head in range(4)]
    with pytest.warns(UserWarning, match="4 of 4"):
        drawn = random_heads(full, (6, 4), seed=0, exclude=[(2, 0), (2, 1)], match="nearest")
    assert layers_of(drawn) == {2: 2, 4: 2}


def test_seeds_give_different_controls_and_every_free_head_can_be_drawn():
    heads = [(0, 0), (1, 5)]
    draws = [tuple(random_heads(heads, (2, 8), seed)) for seed in range(200)]
    free = {(layer, head) for layer in range(2) for head in range(8)} - set(heads)
    assert {head for draw in draws for head in draw} == free
    assert len(set(draws)) > 30


def test_a_layout_gives_the_bounds_of_its_model(tiny_model):
    layout = head_layout(tiny_model("llama"))
    assert random_heads([(2, 0), (2, 2)], layout, seed=1) == [(2, 1), (2, 3)]
    with pytest.raises(HeadError, match=r"layers 0 to 2.*\(3, 0\)"):
        random_heads([(3, 0)], layout, seed=1)
    with pytest.raises(HeadError, match=r"heads 0 to 3.*\(0, 4\)"):
        random_heads([(0, 0)], layout, seed=1, exclude=[(0, 4)])


def test_an_unknown_way_of_matching_is_refused():
    with pytest.raises(HeadError, match="layer or nearest"):
        random_heads([(0, 0)], (2, 2), seed=0, match="model")


@pytest.mark.parametrize("scores", [SCORES, np.array(SCORES, np.float32), torch.tensor(SCORES, dtype=torch.float64)])
def test_heads_strictly_above_the_threshold_best_first(scores):
    assert select_heads(scores, threshold=0.5) == [(1, 1)]
    assert select_heads(scores, threshold=0.15) == [(1, 1), (0, 1), (1, 0), (1, 2)]
    assert select_heads(scores, threshold=0.9) == []


def test_a_score_at_the_default_threshold_is_not_above_it():
    assert (0, 2) not in select_heads(SCORES)
    assert (0, 2) in select_heads(SCORES, threshold=0.09)
    assert (0, 2) not in select_heads(np.array(SCORES, np.float32))
    assert (0, 2) not in select_heads(torch.tensor(SCORES))
    assert (0, 2) in select_heads(torch.tensor(SCORES) + 1e-3)
    assert (0, 1) in select_heads(torch.tensor(SCORES, dtype=torch.bfloat16))


def test_the_k_best_and_the_k_worst():
    assert select_heads(SCORES, k=2) == [(1, 1), (0, 1)]
    with pytest.warns(UserWarning, match=r"of the 6 heads have a score of 0"):
        assert select_heads(SCORES, k=6)[-2:] == [(0, 2), (0, 0)]
    assert bottom_heads(SCORES, 3) == [(0, 0), (0, 2), (1, 2)]
    assert select_heads(SCORES, k=0) == bottom_heads(SCORES, 0) == []
    assert all(type(part) is int for head in select_heads(SCORES) for part in head)
    for k in (7, -1, 1.5):
        with pytest.raises(HeadError, match="0 to 6"):
            select_heads(SCORES, k=k)


@pytest.mark.parametrize("scores", [[0.1, 0.2], [[]], [[0.1, float("nan")]], np.zeros((2, 2, 2))])
def test_what_is_no_finite_table_is_refused(scores):
    with pytest.raises(HeadError, match=r"layers x heads"):
        select_heads(scores)


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
