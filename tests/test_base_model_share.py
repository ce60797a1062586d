"""What two runs share beyond their base model: against matrix formulas, enumeration and simulated heads."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.base_model import gained_overlap, partial_score_correlation

BASE = np.array([[0.9, 0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0]])
REAL = np.array([[0.9, 0.5, 0.2, 0.0, 0.0], [0.4, 0.0, 0.0, 0.0, 0.0]])  # gains 01 02 10, keeps 00 of 00 11
SYNTHETIC = np.array([[0.8, 0.5, 0.0, 0.3, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0]])  # gains 01 03, keeps both


def test_partial_is_that_of_the_inverse_rank_correlation_matrix():
    rng = np.random.default_rng(0)
    base = rng.random((6, 8))
    first, second = base + rng.random((2, 6, 8))
    row = partial_score_correlation(first, second, base, n_permutations=20)
    table = stats.spearmanr(np.stack([first.ravel(), second.ravel(), base.ravel()], axis=1)).statistic
    inverse = np.linalg.inv(table)
    assert row["partial"] == pytest.approx(-inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert (row["correlation"], row["base_first"], row["base_second"]) == pytest.approx(
        (table[0, 1], table[0, 2], table[1, 2]))
    assert (row["n_heads"], row["reason"]) == (48, "")


def test_what_is_inherited_alone_leaves_nothing():
    """Two runs that only share their base: correlated, and not once the base is given."""
    rng, trials, plain, partial = np.random.default_rng(1), 60, [], []
    for trial in range(trials):
        base = rng.normal(size=(6, 8))
        first, second = base + rng.normal(size=(2, 6, 8))
        row = partial_score_correlation(first, second, base, n_permutations=99, seed=trial)
        plain.append(row["correlation"])
        partial.append((row["partial"], row["p"] <= 0.05))
    assert np.mean(plain) > 0.35
    assert abs(np.mean([value for value, _ in partial])) < 4 / math.sqrt(48 * trials) + 0.02
    assert np.mean([decided for _, decided in partial]) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)


def test_layers_alone_are_no_agreement_within_layers():
    rng, over, within = np.random.default_rng(2), [], []
    for _ in range(40):
        layer = np.array([0.0, 0.0, 3.0, 3.0])[:, None]
        base, first, second = rng.normal(size=(4, 8)), layer + rng.normal(size=(4, 8)), layer + rng.normal(size=(4, 8))
        over.append(partial_score_correlation(first, second, base, n_permutations=1)["partial"])
        within.append(partial_score_correlation(first, second, base, within_layers=True, n_permutations=1)["partial"])
    assert np.mean(over) > 0.5
    assert abs(np.mean(within)) < 4 / math.sqrt(32 * 40)


def test_a_run_that_is_its_base_has_no_partial_correlation():
    row = partial_score_correlation(BASE, SYNTHETIC, BASE, n_permutations=20)
    assert math.isnan(row["partial"])
    assert math.isnan(row["p"])
    assert row["reason"] == "x is determined by the covariate"
    assert row["base_first"] == pytest.approx(1)


def test_gained_heads_of_a_worked_example():
    row = gained_overlap(REAL, SYNTHETIC, BASE)
    assert (row["n_heads"], row["n_base"], row["n_real"], row["n_synthetic"], row["n_common"]) == (8, 2, 3, 2, 1)
    assert (row["recall"], row["precision"], row["jaccard"], row["subset"]) == (1 / 3, 1 / 2, 1 / 4, 0)
    assert (row["kept_real"], row["kept_synthetic"]) == (1 / 2, 1)
    assert (row["inherited_real"], row["inherited_synthetic"]) == (1 / 4, 2 / 4)
    assert row["reason"] == ""


def test_chance_of_gained_heads_is_that_of_all_sets_outside_the_base():
    row = gained_overlap(REAL, SYNTHETIC, BASE)
    free = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 2), (1, 3), (1, 4)]
    real = {(0, 1), (0, 2), (1, 0)}
    every = [len(real & set(drawn)) for drawn in itertools.combinations(free, 2)]
    in_layer = [len(real & set(drawn)) for drawn in itertools.combinations(free[:4], 2)]
    for level, common in (("", np.array(every)), ("layer_", np.array(in_layer))):
        assert row[f"recall_{level}chance"] == pytest.approx(common.mean() / 3)
        assert row[f"precision_{level}chance"] == pytest.approx(common.mean() / 2)
        assert row[f"jaccard_{level}chance"] == pytest.approx((common / (5 - common)).mean())
        assert row[f"overlap_{level}p"] == pytest.approx((common >= 1).mean())
        assert row[f"subset_{level}chance"] == pytest.approx((common == 2).mean())


def test_inherited_heads_make_an_overlap_and_no_gained_one():
    """Runs that keep five heads of the base and gain three at random each."""
    rng, excess = np.random.default_rng(3), []
    for _ in range(200):
        base = np.zeros((4, 8))
        base[1, :5] = 1
        runs = np.stack([base, base])
        for run in runs:
            run.flat[rng.choice(np.flatnonzero(base.ravel() == 0), 3, replace=False)] = 1
        row = gained_overlap(*runs, base)
        excess.append(row["recall"] - row["recall_chance"])
        assert row["recall_chance"] == pytest.approx(3 / 27)
    assert abs(np.mean(excess)) < 4 * np.std(excess) / math.sqrt(200)


def test_runs_without_a_gain_say_so():
    row = gained_overlap(BASE, SYNTHETIC, BASE)
    assert math.isnan(row["recall"])
    assert row["precision"] == 0
    assert row["reason"] == "the real run gained no head"
    assert math.isnan(gained_overlap(REAL, np.zeros_like(REAL), np.zeros_like(REAL))["kept_real"])


@pytest.mark.parametrize("measure", [partial_score_correlation, gained_overlap])
@pytest.mark.parametrize(("base", "message"), [(BASE[:1], "different models"), (BASE * np.nan, "finite scores")])
def test_bad_base_is_named(measure, base, message):
    with pytest.raises(ConfigError, match=message):
        measure(REAL, SYNTHETIC, base)
