"""Strength-weighted measures of the small study: known answers on simulated tables, and the committed table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_tables import head_scores, planted

from retrieval_heads.claims.strengths import strength_rows
from retrieval_heads.tables import conform


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    masks = planted(rng, {"real": 1.0, "high_high": 0.5, "symbolic": 0.0}, n_real=16, n_base=4, outside=0.0,
                    tasks=("mdqa",), seeds=(1, 2, 3))
    return head_scores(rng, masks, noise=0.0)


def test_shares_of_planted_heads_come_back(table) -> None:
    table = table[table["condition"] != "rope"]
    rows = conform("strengths", strength_rows(table, n_resamples=100, n_permutations=20)).set_index("condition")
    assert set(rows["heads"]) == {"all"}  # the base model at its own length is no measure of what was gained
    # strengths: .51 of a head, .01 elsewhere (192 heads); the sums are 20 and 12 heads of .5 and 192 x .01
    assert rows.loc["real", "recall"] == pytest.approx(1.0)
    assert rows.loc["high_high", "recall"] == pytest.approx((12 * 0.5 + 1.92) / (20 * 0.5 + 1.92))
    assert rows.loc["symbolic", "recall"] == pytest.approx((4 * 0.5 + 1.92) / (20 * 0.5 + 1.92))
    assert rows["precision"].to_numpy() == pytest.approx(1.0)
    assert (rows["chance_high"] < 0.9).all()
    assert rows.loc["real", "rank_biased_overlap"] == pytest.approx(1.0)
    assert (rows["n_pairs"] == 2 * 6).all()


def test_what_is_gained_is_told_of_where_the_base_was_scored_at_the_same_length(table) -> None:
    rows = strength_rows(table, n_resamples=100, n_permutations=20)
    gained = rows[rows["heads"] == "gained"].set_index("condition")
    assert gained.loc["high_high", "recall"] == pytest.approx(0.5)  # 8 of the 16 that real runs gain
    assert gained.loc["high_high", "precision"] == pytest.approx(1.0)
    assert np.isnan(gained.loc["symbolic", "precision"])  # gains nothing
    assert gained.loc["symbolic", "recall"] == 0
