"""Intervals of the second study with known answers, and the analysis on permuted labels: its table and its page."""

from __future__ import annotations

import re
from pathlib import Path

import false_positives
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from retrieval_heads.claims.pretrained.sampled import (
    Sampled,
    at_least,
    both,
    compared,
    holm,
    lies_above,
    lies_below,
    none_of,
    resampled_means,
    share,
    significant,
)
from retrieval_heads.claims.verdict import first_that_holds

N = 20_000


def constant(*of_seeds: float, n: int = 4) -> np.ndarray:
    """`[seeds, examples, 1]` without any difference between examples."""
    return np.repeat(np.array(of_seeds)[:, None], n, axis=1)[..., None]


def half_width(means, name: str = "a") -> float:
    cells = means.of(lambda one: one[name][..., 0]).cells()
    return (cells["high"] - cells["low"]) / 2


def test_with_chance_of_seeds_alone_the_interval_is_students() -> None:
    one = resampled_means({"a": constant(-1.0, 0.0, 1.0)}, n_resamples=N)
    assert half_width(one) == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3), rel=0.05)
    three = resampled_means({name: constant(-1.0, 0.0, 1.0) for name in "abc"}, n_resamples=N)
    assert half_width(three) == pytest.approx(stats.t.ppf(0.975, 6) / np.sqrt(3), rel=0.05)
    difference = three.of(lambda means: means["a"][..., 0] - means["b"][..., 0]).cells()
    assert difference["high"] == pytest.approx(stats.t.ppf(0.975, 6) * np.sqrt(2 / 3), rel=0.05)


def test_a_set_with_more_spread_keeps_its_own_and_theta_alone_has_none() -> None:
    means = resampled_means({"a": constant(-2.0, 0.0, 2.0), "b": constant(0.0, 0.0, 0.0), "rope": constant(5.0)},
                            n_resamples=N)
    assert half_width(means) == pytest.approx(stats.t.ppf(0.975, 4) * 2 / np.sqrt(3), rel=0.05)
    assert half_width(means, "b") == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(2) / np.sqrt(3), rel=0.05)
    assert half_width(means, "rope") == 0


def test_with_chance_of_examples_alone_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(size=(1, 400, 1)).repeat(3, axis=0)
    means = resampled_means({"a": values}, n_resamples=N)
    assert half_width(means) == pytest.approx(1.96 * values[0].std() / 20, rel=0.05)
    two = resampled_means({"a": values, "b": values + 1}, n_resamples=N)
    paired = two.of(lambda one: one["b"][..., 0] - one["a"][..., 0])
    assert (paired.cells()["low"], paired.cells()["high"]) == pytest.approx((1.0, 1.0))
    assert half_width(resampled_means({"a": values[:1]}, with_seeds=False, n_resamples=N)) == pytest.approx(
        half_width(means), rel=0.05)


def test_two_outcomes_keep_their_correlation_over_seeds() -> None:
    both_equal = np.repeat(constant(-1.0, 0.0, 1.0), 2, axis=-1)
    means = resampled_means({"a": both_equal}, n_resamples=N)
    assert np.ptp(means.of(lambda one: one["a"][..., 0] - one["a"][..., 1]).samples) < 1e-12


def test_an_end_within_its_monte_carlo_error_decides_nothing() -> None:
    samples = np.random.default_rng(0).normal(size=N)
    found = Sampled(0.0, samples)
    low, error = found.end(0.025)
    # the standard error of a quantile: sqrt(p (1 - p) / n) over the density there
    assert error == pytest.approx(np.sqrt(0.025 * 0.975 / N) / stats.norm.pdf(1.96), rel=0.5)
    assert [compared(low, error, bound) for bound in (low, low - 4 * error, low + 4 * error)] == [None, True, False]
    cells = found.cells()
    assert (lies_above(cells, -3.0), lies_above(cells, 0.0), lies_below(cells, 3.0)) == (True, False, True)
    assert lies_above({"low": None, "low_error": None}, 0.0) is None
    assert compared(np.inf, np.inf, 1.0) is True


def test_p_values() -> None:
    samples = np.random.default_rng(0).normal(size=N)
    assert Sampled(1.0, samples + 1).p_zero()[0] == pytest.approx(2 * stats.norm.sf(1), abs=0.01)
    assert Sampled(0.0, samples / 10).p_equivalent(0.2)[0] == pytest.approx(stats.norm.sf(2), abs=0.005)
    assert Sampled(9.0, samples + 9).p_zero() == (pytest.approx(2 / N), pytest.approx(2 / N, rel=0.01))
    assert (significant(0.04, 0.001), significant(0.049, 0.001), significant(0.06, 0.001)) == (True, None, False)
    # 3 x .01, then at least that, then the largest
    assert [p for p, _ in holm([(0.04, 0.0), (0.01, 0.0), (0.012, 0.0)])] == pytest.approx([0.04, 0.03, 0.03])


def test_shares_are_infinite_where_there_is_no_whole() -> None:
    assert share([1.0, 1.0, -1.0], [2.0, 0.0, -1.0]).tolist() == [0.5, np.inf, -np.inf]
    cells = Sampled(0.5, np.concatenate([np.full(10, np.inf), np.full(90, 0.5)])).cells()
    assert (cells["low"], cells["high"]) == (0.5, None)


def test_what_is_not_known_is_carried_through_the_rules() -> None:
    assert (both(True, None), both(False, None), both(True, True)) == (None, False, True)
    assert (none_of([False, None]), none_of([True, None])) == (None, False)
    assert (at_least(1, [True, None]), at_least(2, [True, None]), at_least(2, [True, False])) == (True, None, False)
    assert first_that_holds({"a": False, "b": True}, "none") == "b"
    assert first_that_holds({"a": None, "b": True}, "none") == "none"
    assert first_that_holds({"a": False}, "none") == "none"


ROOT = Path(__file__).resolve().parents[1]
TABLE = pd.read_csv(ROOT / "results/benchmarks/false_positives.csv")
PAGE = (ROOT / "book/preregistration_pretrained.md").read_text(encoding="utf-8")


def test_the_page_gives_the_numbers_of_the_table() -> None:
    rows = re.findall(r"^\| (C\d) \| (\w+) \| ([^|]+) \| (\d+) of (\d+) \|", PAGE.replace("`", ""), re.MULTILINE)
    assert len(rows) == len(TABLE)
    given = {
        (claim, data, finding.strip()): (int(count), int(possible)) for claim, data, finding, count, possible in rows
    }
    assert given == {(row.claim, row.data, row.finding): (row.count_, row.possible)
                     for row in TABLE.rename(columns={"count": "count_"}).itertuples()}


def test_no_verdict_is_found_more_often_than_one_time_in_twenty_where_it_is_false() -> None:
    verdicts = TABLE[TABLE["finding"].str.match(r"C\d ")]
    assert set(verdicts["claim"]) == {"C1", "C2", "C3", "C4", "C5"}
    assert (verdicts["rate"] <= 0.05).all()


@pytest.mark.parametrize("claim", ["C3", "C5"])
def test_it_can_be_made_again(claim) -> None:
    rows = pd.DataFrame(false_positives.rates(0.004, claim))
    known = TABLE[TABLE["claim"] == claim]
    assert list(rows["finding"]) == list(known["finding"])
    assert (rows["count"] <= rows["possible"]).all()
