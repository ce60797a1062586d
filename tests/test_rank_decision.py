"""Of two sets, which is better: said of sets that differ, never of what another seed or longer training could turn."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_heads.rank.decide import Comparison, compared, further_seed

N = 40
PLACES = [f"document {number % 3 + 1}" for number in range(N)]
UNTUNED = 3.6


def runs(rng: np.random.Generator, mean: float, spread: float, n_seeds: int = 3, noise: float = 0.3) -> np.ndarray:
    """Probe losses `[n_seeds, N]`: hard and easy examples alike for all, a part of the run, and one of each answer."""
    hard = np.linspace(-1, 1, N)
    return mean + hard + rng.normal(0, spread, (n_seeds, 1)) + rng.normal(0, noise, (n_seeds, N))


def decide(first: np.ndarray, second: np.ndarray, **more) -> Comparison:
    [found] = compared({"A": first, "B": second}, np.full(N, UNTUNED), PLACES, **more)
    return found


def test_sets_that_differ_by_more_than_their_seeds_are_told_apart():
    found = [decide(runs(np.random.default_rng(seed), 1.3, 0.05), runs(np.random.default_rng(seed + 99), 1.9, 0.05))
             for seed in range(20)]
    assert all(one.first == "A" for one in found)
    assert sum(one.told_apart for one in found) >= 18
    assert "A is better than B by probe loss: by 0." in found[0].text()


def test_equal_sets_are_hardly_ever_told_apart():
    wrong = sum(
        decide(runs(np.random.default_rng([seed, 0]), 1.5, 0.1), runs(np.random.default_rng([seed, 1]), 1.5, 0.1)
               ).told_apart for seed in range(200))
    assert wrong <= 2  # by a plain test over means of three seeds it would be ten


def test_a_few_steps_that_only_moved_style_decide_nothing():
    """The case of a real model after six steps: 3.122 and 3.117, and hardly any spread over seeds."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = decide(runs(rng, 3.122, 0.0005, noise=0.001), runs(rng, 3.117, 0.0005, noise=0.001))
        assert not found.told_apart
        assert "small beside what training moved (0.48" in found.text()


def test_one_seed_tells_nothing_apart():
    rng = np.random.default_rng(0)
    found = decide(runs(rng, 1.0, 0, 1), runs(rng, 2.0, 0, 1))
    assert found.against == ("one seed shows no spread (--seeds 0 1 2)",)
    assert np.isnan(found.swap)


def test_a_gain_at_one_place_is_none():
    rng = np.random.default_rng(0)
    at_first = np.array([place == "document 1" for place in PLACES])
    winner = runs(rng, 1.6, 0.02) - 2.0 * at_first + 0.3 * ~at_first
    found = decide(runs(rng, 1.6, 0.02), winner)
    assert found.first == "B"
    assert found.against == ("B is ahead only where the needle stands in document 1",)


def test_a_set_that_one_place_solves_is_never_called_better():
    rng = np.random.default_rng(0)
    flaw = {"B": "48 of 48 needles stand in the first document"}
    won = decide(runs(rng, 1.9, 0.02), runs(rng, 1.3, 0.02), flaws=flaw)
    assert (won.first, won.told_apart) == ("B", False)
    assert "B is ahead by 0." in won.text()
    assert decide(runs(rng, 1.3, 0.02), runs(rng, 1.9, 0.02), flaws=flaw).told_apart  # behind, it may be called worse


def test_training_that_made_it_worse_decides_nothing():
    rng = np.random.default_rng(0)
    found = decide(runs(rng, 4.0, 0.01), runs(rng, 5.0, 0.01))
    assert "small beside what training moved (-0.4" in found.text()


def test_the_interval_of_a_further_seed_has_its_coverage():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        first, second, new = rng.normal(0, 1, 3), rng.normal(0, 1, 3), rng.normal(0, 1, 2)
        inside += abs((first.mean() - second.mean()) - (new[0] - new[1])) <= further_seed(first, second)
    assert 0.93 <= inside / 2000 <= 0.99
    assert further_seed(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == 0
    assert np.isnan(further_seed(np.array([1.0]), np.array([2.0, 3.0])))


def test_differences_and_intervals_are_those_of_the_losses():
    found = decide(np.full((2, N), 1.0), np.full((2, N), 1.5))
    assert (found.difference, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.probability, found.swap) == (1, 0)
    same = decide(np.full((2, N), 1.0), np.full((2, N), 1.0))
    assert same.probability == 0.5
    assert not same.told_apart
