"""The sets of heads that are knocked out and patched, and the rows made of their scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.config import load_profile
from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.scores import HeadScores
from retrieval_heads.heads.select import groups_filled
from retrieval_heads.heads.sweeps import patch_sweep, source_answers
from retrieval_heads.keys import RunKey
from retrieval_heads.stages import knockout, patch
from retrieval_heads.stages.detect import hit_rows
from retrieval_heads.stages.head_sets import (
    CONTROLS,
    NONE,
    HeadSet,
    RunHeads,
    controls,
    score_kind,
    score_mode,
)
from retrieval_heads.stages.sweeps import METRICS, Resamples, loss
from retrieval_heads.stats.resample import bootstrap_difference, bootstrap_mean, bootstrap_two_level
from retrieval_heads.tables import conform

KEY = RunKey("toy", "mdqa", "symbolic", 0, "tiny")
SHAPE = (3, 4)


def heads_of(retrieval, seed=0, threshold=0.1) -> RunHeads:
    """A run with these retrieval heads, the first the strongest; the others score 0."""
    scores = np.zeros(SHAPE)
    for place, (layer, head) in enumerate(retrieval):
        scores[layer, head] = 0.9 - 0.05 * place
    return RunHeads(scores, np.random.default_rng(seed).random(SHAPE), threshold)


def test_equal_scores_are_ordered_by_mass_and_not_by_layer() -> None:
    heads = heads_of([(2, 1), (0, 3)])
    assert heads.retrieval == [(0, 3), (2, 1)]
    assert heads.top(2) == [(2, 1), (0, 3)]
    others = [(layer, head) for layer in range(3) for head in range(4) if (layer, head) not in heads.retrieval]
    by_mass = sorted(others, key=lambda place: heads.mass[place])
    assert heads.top(12)[2:] == by_mass[::-1]


def test_random_controls_are_matched_disjoint_seeded_and_count_what_moved() -> None:
    top, exclude = [(0, 0), (0, 1), (2, 3)], [(0, 0), (0, 1), (0, 2), (2, 3)]
    run = heads_of([])
    one, two = controls("random", top, run, exclude, 2, "here")
    assert (one.draw, two.draw) == (1, 2)
    for drawn in (one, two):
        assert len(set(drawn.heads)) == 3
        assert not set(drawn.heads) & set(exclude)
        assert drawn.moved == 1  # layer 0 has one free head for two
    assert controls("random", top[::-1], run, exclude, 2, "here") == [one, two]
    assert controls("random", top, run, exclude, 8, "there") != controls("random", top, run, exclude, 8, "here")
    every = [(layer, head) for layer in range(3) for head in range(4)]
    assert controls("random", every[:7], run, [], 2, "here") == []
    assert controls("random", [], run, [], 2, "here") == []


def test_knockout_sets_have_k_heads_even_beyond_the_retrieval_heads() -> None:
    heads = heads_of([(1, 0), (1, 1), (2, 2)])
    sets = knockout.knockout_sets(heads, (1, 5), 2, "here", group_size=2)
    assert [(one.name, len(one.heads), one.draw) for one in sets] == [
        (name, k, draw) for k in (1, 5) for name, draw in
        (("retrieval", 0), *((control, draw) for control in CONTROLS for draw in (1, 2)))
    ]
    assert sets[0].heads == ((1, 0),)
    assert (sets[0].groups, sets[7].groups) == (1, groups_filled(sets[7].heads, 2))
    assert set(heads.retrieval) < set(sets[7].heads)
    for one in sets:
        if one.name in CONTROLS:
            assert not set(one.heads) & {*heads.retrieval, *heads.top(len(one.heads))}
            assert one.groups == groups_filled(one.heads, 2)
    assert len({one.label for one in sets}) == len(sets)
    fewer = knockout.knockout_sets(heads, (1,), 2, "here", wanted=("random",))
    assert [one.name for one in fewer] == ["retrieval", "random", "random"]
    assert [one.heads for one in fewer[1:]] == [one.heads for one in sets[1:3]]


def test_bottom_heads_are_the_weakest_of_the_same_layers_and_any_of_equal_scores() -> None:
    scores = np.zeros((4, 8))
    scores[2, :4], scores[2, 4:] = 0.9, [0.02, 0.0, 0.0, 0.0]
    heads = RunHeads(scores, np.zeros((4, 8)), 0.1)
    drawn = [one.heads for one in controls("bottom", heads.top(2), heads, heads.retrieval, 60, "here", 4)]
    assert {layer for one in drawn for layer, _ in one} == {2}, "of the whole model they would be in layer 0"
    assert {head for one in drawn for _, head in one} == {5, 6, 7}, "head 4 is stronger, and the ties are all drawn"
    moved = controls("bottom", [*heads.retrieval, (2, 4)], heads, heads.retrieval, 1, "here", 4)[0]
    assert moved.moved == 2
    assert controls("bottom", heads.retrieval * 8, heads, heads.retrieval, 0, "here", 4) == []


def test_patching_sets_follow_their_definitions() -> None:
    source, target = heads_of([(0, 0), (0, 1), (1, 2)]), heads_of([(0, 1), (2, 3)])
    sets = patch.patching_sets(source, target, ("intersection", "complement", "random", "all"), 2, "here")
    by_name = {(one.name, one.draw): one for one in sets}
    assert by_name["intersection", 0].heads == ((0, 1),)
    assert by_name["complement", 0].heads == ((0, 0), (1, 2))
    assert len(by_name["all", 0].heads) == 12
    for name, size in (("random", 1), ("random_complement", 2)):
        for draw in (1, 2):
            drawn = by_name[name, draw].heads
            assert len(drawn) == size
            assert not set(drawn) & {*source.retrieval, *target.retrieval}
    only = patch.patching_sets(source, heads_of([(2, 3)]), ("intersection", "random"), 1, "here")
    assert [(one.name, len(one.heads)) for one in only] == [("intersection", 0), ("random_complement", 3)]


def test_the_kind_of_score_fits_the_task_and_must_be_detected() -> None:
    profile = load_profile("smoke")
    assert [score_kind(profile, task) for task in ("mdqa", "musique", "summhay")] == ["copy", "copy", "insight"]
    assert score_mode(profile) == "forced"
    with pytest.raises(ConfigError, match=r"detect\.kinds: the task summhay needs the insight score.*Add `insight`"):
        score_kind(load_profile("smoke", detect={"kinds": ["copy"]}), "summhay")


def test_shared_resamples_agree_with_the_bootstrap_of_each_mean() -> None:
    rng = np.random.default_rng(0)
    values, other = rng.random((3, 40)), rng.random((1, 40))
    resamples = Resamples(40, 20_000)
    one = bootstrap_mean(values[0], n_resamples=20_000, seed=5)
    assert resamples.interval(values[:1]) == pytest.approx(one, abs=0.01)
    two = bootstrap_two_level(list(values), n_resamples=20_000, seed=5)
    assert resamples.interval(values) == pytest.approx(two, abs=0.01)
    pair = bootstrap_difference(values[0], other[0], n_resamples=20_000, seed=5)
    assert resamples.interval(values[:1] - other) == pytest.approx(pair, abs=0.01)
    assert resamples.interval(other - other) == (0, 0, 0)
    assert np.isnan(Resamples(1, 10).interval(np.array([[0.5]]))[1:]).all()


def test_a_loss_is_positive_where_it_is_worse() -> None:
    good, bad = np.array([[1.0]]), np.array([[0.25]])
    assert loss("forced_exact_match", good, bad) == 0.75
    assert loss("nll", bad, good) == 0.75


def scores(n: int, right: float, draws: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores in which a fixed share of the examples is right, the first ones."""
    hits = np.tile((np.arange(n) < right * n).astype(float), (draws, 1))
    return {"forced_exact_match": hits, "token_accuracy": (1 + hits) / 2, "nll": 2 - hits}


def test_rows_of_a_knockout_and_its_effects() -> None:
    heads, resamples = heads_of([(1, 0), (1, 1)]), Resamples(20, 200)
    retrieval, *random, one, two = knockout.knockout_sets(heads, (2,), 2, "here", 2, ("random", "bottom"))
    found = {retrieval: scores(20, 0.1), one: scores(20, 0.9), two: scores(20, 0.9)}
    found |= {one: scores(20, right) for one, right in zip(random, (0.8, 0.6), strict=True)}
    place = {**KEY.columns, "mode": "zero", "scope": "answer"}
    table = conform("knockout", knockout.knockout_rows(place, found, heads, resamples))
    exact = table[table.metric == "forced_exact_match"].set_index(["set", "draw"])
    assert exact.loc[("random", 0), "value"] == pytest.approx(0.7)
    assert exact.loc[("random", 0), "low"] < 0.6 < 0.8 < exact.loc[("random", 0), "high"]
    assert set(table.k) == {2}
    assert set(table[table.set == "bottom"].moved_group) <= {0, 1, 2}
    assert set(table.n_retrieval) == {2}
    assert set(table.n) == {20}
    effects = conform("knockout_effects", knockout.effect_rows(place, 2, scores(20, 0.9), found, resamples))
    wide = effects.pivot(index="metric", columns="contrast", values="value")
    assert wide.loc["forced_exact_match"].to_dict() == pytest.approx(
        {"bottom": 0.0, "random": 0.2, "retrieval": 0.8, "retrieval_over_random": 0.6, "retrieval_over_bottom": 0.8})
    assert (wide.loc["nll"] >= 0).all()
    without = knockout.effect_rows(place, 2, scores(20, 0.9), {retrieval: scores(20, 0.1)}, resamples)
    assert {row["contrast"] for row in without} == {"retrieval"}


def test_shares_of_the_gap_are_given_where_there_is_a_gap() -> None:
    resamples = Resamples(40, 500)
    inter, empty = HeadSet("intersection", ((0, 1),)), HeadSet("complement", ())
    random = [HeadSet("random", ((0, 2),), 1), HeadSet("random", ((0, 3),), 2)]
    found = {NONE: scores(40, 0.2), patch.SOURCE: scores(40, 0.8), inter: scores(40, 0.5),
             empty: scores(40, 0.2), random[0]: scores(40, 0.2), random[1]: scores(40, 0.3)}
    table = conform("patching", patch.patching_rows(KEY, found, resamples))
    exact = table[(table.metric == "forced_exact_match") & (table.draw == 0)].set_index("set")
    assert exact.loc["source", "change"] == pytest.approx(0.6)
    assert pd.isna(exact.loc["source", "closed"])
    assert exact.loc["intersection", "closed"] == pytest.approx(0.5)
    assert 0.2 < exact.loc["intersection", "closed_low"] < 0.5 < exact.loc["intersection", "closed_high"] < 0.8
    assert exact.loc["intersection", "over_random"] == pytest.approx(0.25)
    assert exact.loc["random", "value"] == pytest.approx(0.25)
    assert pd.isna(exact.loc["complement", "over_random"])
    assert exact.loc["complement", "n_heads"] == 0
    values = exact[["value", "low", "high"]]
    assert values.loc["complement"].tolist() == values.loc["none"].tolist()
    assert (table[table.metric == "nll"].set_index("set").loc["intersection", "change"]) == pytest.approx(0.3)
    found[patch.SOURCE] = found[NONE]
    table = conform("patching", patch.patching_rows(KEY, found, resamples))
    assert table.closed.isna().all()
    assert table[table.set == "intersection"].reason.str.contains("not better").all()


def test_kept_answers_of_the_source_give_the_same_patches(tiny_model, tiny_tokenizer, tiny_examples) -> None:
    source, target = tiny_model("llama", 1), tiny_model("llama", 2)
    sets = {"none": [], "two": [(0, 1), (2, 3)]}
    answers = source_answers(source, tiny_tokenizer, tiny_examples)
    kept = patch_sweep(target, source, tiny_tokenizer, tiny_examples, sets, answers=answers)
    assert kept == patch_sweep(target, source, tiny_tokenizer, tiny_examples, sets)
    assert all(set(answer.metrics) == set(METRICS) for answer in answers)
    with pytest.raises(ConfigError, match=r"there are 5 examples \(got 4\)"):
        patch_sweep(target, source, tiny_tokenizer, tiny_examples, sets, answers=answers[1:])


def scored(each: np.ndarray, chance: np.ndarray) -> HeadScores:
    nothing = np.zeros(each.shape[1:], dtype=np.float32)
    return HeadScores(each.mean(axis=0), np.nanmean(chance, axis=0), nothing, nothing, nothing, each, chance, each,
                      tuple(range(3, 3 + len(each))), {}, "copy", "forced")


def test_means_of_single_scores_over_all_examples_are_the_scores() -> None:
    rng = np.random.default_rng(0)
    each = (rng.random((6, 3, 4)) * (rng.random((6, 3, 4)) > 0.6)).astype(np.float32)
    chance = (0.1 * each[::-1]).astype(np.float32)
    rows = conform("head_hits", hit_rows(KEY, scored(each, chance)))
    assert len(rows) == ((each > 0) | (chance > 0)).sum() < each.size
    assert set(rows["example"]) == set(range(3, 9))  # indices in the probe set, not places among those used
    for column, values in (("score", each), ("chance", chance)):
        sums = rows.groupby(["layer", "head"])[column].sum().reindex(
            pd.MultiIndex.from_product([range(3), range(4)]), fill_value=0).to_numpy().reshape(3, 4)
        np.testing.assert_allclose(sums / 6, values.mean(axis=0), atol=1e-4)


def test_an_example_without_room_has_the_chance_level_0_and_no_row_without_a_score() -> None:
    each = np.zeros((2, 1, 2), dtype=np.float32)
    each[0, 0, 1] = 0.5
    rows = pd.DataFrame(hit_rows(KEY, scored(each, np.full_like(each, np.nan))))
    assert rows[["example", "layer", "head", "score", "chance"]].to_numpy().tolist() == [[3, 0, 1, 0.5, 0.0]]
