"""Area between knock-out curves: closed forms, scipy's trapezoid rule, coverage on simulated examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import trapezoid

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.areas import area_between
from retrieval_heads.stats.resample import bootstrap_crossed, bootstrap_mean

K = [0, 1, 2, 4, 8, 16, 32, 64]
SETTINGS = {"k": K, "n_heads": 64, "n_resamples": 50}


def curve(values: np.ndarray | list[float], n: int = 3) -> np.ndarray:
    """The same scores for all of `n` examples."""
    return np.repeat(np.asarray(values, dtype=float)[:, None], n, axis=1)


def heights(curves: np.ndarray) -> np.ndarray:
    """The mean height of curves `[..., len(K), n]` over log(1 + k)."""
    return np.trapezoid(curves, np.log1p(K), axis=-2) / np.log1p(K[-1])


def answers(rng: np.random.Generator, rates: np.ndarray, n: int) -> np.ndarray:
    """Right and wrong answers `[K, n]`: an example is answered while its difficulty is below the rate."""
    return (rng.random(n) < rates[:, None]).astype(float)


@pytest.mark.parametrize("axis", ["log", "fraction"])
def test_area_is_that_of_scipy(axis):
    rng = np.random.default_rng(0)
    one, two = rng.random((2, len(K), 5))
    one[0] = two[0]
    x = np.log1p(K) if axis == "log" else np.array(K) / 64
    expected = trapezoid((one - two).mean(axis=1), x) / np.ptp(x)
    row = area_between(one, two, axis=axis, **SETTINGS)
    assert row["area"] == pytest.approx(expected)
    assert area_between(two, one, axis=axis, **SETTINGS)["area"] == pytest.approx(-expected)
    assert row["share"] == pytest.approx(expected / one[0].mean())
    assert (row["axis"], row["k_last"], row["n_k"], row["n"], row["reason"]) == (axis, 64, 8, 5, "")


def test_curves_that_are_straight_on_the_axis_have_their_integral():
    """Exact by the trapezoid rule: 1 - x / range against no loss is one half, on either axis."""
    log, fraction = np.log1p(K) / np.log1p(64), np.array(K) / 64
    for axis, x in (("log", log), ("fraction", fraction)):
        assert area_between(curve(x * 0 + 1), curve(1 - x), axis=axis, **SETTINGS)["area"] == pytest.approx(0.5)
    # one curve on both axes: the integral of 1 - k/64 over log(1 + k), within the rule's error
    exact = (64 / math.log(65) - 1) / 64
    found = area_between(curve(fraction * 0 + 1), curve(1 - fraction), **SETTINGS)["area"]
    assert found == pytest.approx(exact, abs=0.02)


def test_area_is_bounded_and_equal_curves_have_none():
    nothing, everything = curve([1.0] + [0.0] * 7), curve([1.0] * 8)
    row = area_between(everything, nothing, **SETTINGS)
    assert row["area"] == pytest.approx(1 - math.log(2) / (2 * math.log(65)))
    assert area_between(nothing, everything, **SETTINGS)["area"] == -row["area"]
    same = area_between(nothing, nothing, **SETTINGS)
    assert (same["area"], same["low"], same["high"]) == (0, 0, 0)


def test_doublings_weigh_the_same():
    k = [2**power - 1 for power in range(7)]
    for place, weight in enumerate([*[1 / 6] * 5, 1 / 12], start=1):
        dip = np.where(np.arange(7) == place, 0.0, 1.0)
        row = area_between(curve(np.ones(7)), curve(dip), k=k, n_heads=63, n_resamples=2)
        assert row["area"] == pytest.approx(weight)


def test_interval_pairs_the_examples():
    rng = np.random.default_rng(1)
    easy = rng.random(200)
    flat, falling = (np.clip(easy - loss, 0, 1) for loss in (np.zeros((8, 1)), np.linspace(0, 0.1, 8)[:, None]))
    row = area_between(flat, falling, k=K, n_heads=64, n_resamples=1000, seed=3)
    each = heights(flat - falling)
    width = np.ptp(bootstrap_mean(each, n_resamples=1000)[1:])
    assert (row["area"], row["low"], row["high"]) == pytest.approx(bootstrap_mean(each), abs=0.1 * width)
    unpaired = heights(falling)
    assert width < 0.2 * np.ptp(bootstrap_mean(unpaired, n_resamples=1000)[1:])


def test_draws_and_runs_are_crossed_with_examples():
    rng = np.random.default_rng(2)
    start = rng.random((2, 3, 1, 1, 30))  # base models, seeds, draws, counts, examples
    retrieval = start * np.linspace(1, 0, 8)[:, None]
    random = start * np.concatenate([np.ones((2, 3, 4, 1, 30)), rng.random((2, 3, 4, 7, 30))], axis=3)
    row = area_between(random, retrieval, k=K, n_heads=64, n_resamples=300, seed=7)
    each = heights(random - retrieval)
    expected = bootstrap_crossed(each, n_resamples=300, seed=7)
    assert (row["area"], row["low"], row["high"]) == pytest.approx(expected)
    one = area_between(random[0, 0], retrieval[0, 0, 0], **SETTINGS)
    assert one["area"] == pytest.approx(each[0, 0].mean())


def test_coverage_of_the_area_and_of_its_share():
    rng, trials, covered = np.random.default_rng(3), 200, []
    rates = 0.8 * np.array([np.full(8, 1.0), np.linspace(1, 0.1, 8) ** 2])
    [truth] = heights((rates[0] - rates[1])[:, None])
    for trial in range(trials):
        difficulty = rng.random(60)
        flat, falling = ((difficulty < rate[:, None]).astype(float) for rate in rates)
        row = area_between(flat, falling, k=K, n_heads=64, n_resamples=200, seed=trial)
        covered.append([row["low"] <= truth <= row["high"], row["share_low"] <= truth / 0.8 <= row["share_high"]])
    tolerance = 4 * math.sqrt(0.94 * 0.06 / trials)
    assert (np.mean(covered, axis=0) > 0.94 - tolerance).all()
    assert (np.mean(covered, axis=0) < 1).all()


def test_counts_without_a_control_end_the_area():
    rng = np.random.default_rng(4)
    retrieval = answers(rng, np.linspace(1, 0, 8), 20)
    random = np.ones((8, 20))
    random[6:] = np.nan
    row = area_between(random, retrieval, **SETTINGS)
    short = area_between(random[:6], retrieval[:6], K[:6], n_heads=64, n_resamples=50)
    assert row == short
    assert (row["k_last"], row["n_k"]) == (16, 6)
    assert area_between(retrieval, random, **SETTINGS)["area"] == pytest.approx(-row["area"])
    random[1:] = np.nan
    none = area_between(random, retrieval, **SETTINGS)
    assert math.isnan(none["area"])
    assert none["reason"] == "no k above 0 that both curves have"


def test_undefined_numbers_say_why():
    one = area_between(curve([1.0] * 8, 1), curve([1.0] + [0.0] * 7, 1), **SETTINGS)
    assert one["area"] > 0.9
    assert math.isnan(one["low"])
    assert one["reason"] == "no interval: one example"
    nothing = area_between(curve([0.0] * 8), curve([0.0] * 8), **SETTINGS)
    assert (nothing["area"], nothing["reason"]) == (0, "no share: nothing is right at k = 0")
    assert math.isnan(nothing["share"])


@pytest.mark.parametrize(("change", "message"), [
    ({"k": [1, *K[1:]]}, r"k: not rising numbers of heads from 0 to at most 64"),
    ({"k": [0, 2, 1, *K[3:]]}, "k: not rising"),
    ({"k": [0, 0.5, *K[2:]]}, "k: not rising"),
    ({"n_heads": 32}, "to at most 32"),
    ({"k": K[:4]}, r"reference: not scores at 4 numbers of heads \(got \(8, 3\)\)"),
    ({"axis": "linear"}, r"axis: unknown axis \(got 'linear'\)\. Use one of log, fraction"),
    ({"treated": 2 * curve([0.5] * 8)[:, :2]}, "curves of different examples"),
    ({"treated": curve([1.0] + [-0.5] * 7)}, "treated: scores outside 0 and 1"),
    ({"treated": curve([0.5] * 8)}, "curves that differ where no head is knocked out"),
    ({"treated": np.where(np.arange(3) == 0, np.nan, curve([1.0] * 8))}, "missing for some examples only"),
    ({"treated": np.ones((3, 8, 3)), "reference": np.ones((2, 8, 3))}, "leading axes that do not fit"),
    ({"level": 95}, "level"),
])
def test_bad_curves_are_named(change, message):
    given = {"reference": curve([1.0] * 8), "treated": curve([1.0] * 8)} | SETTINGS | change
    with pytest.raises(ConfigError, match=message):
        area_between(**given)
