"""Q1: choosing a training set by heads on a few examples, against chance and cheaper choices."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_tables import MIXTURES, SYNTHETIC, TASKS, runs_table

from retrieval_heads.claims.choice import PREDICTORS, choice_rows, choice_verdict
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED
from retrieval_heads.errors import ResultError

FEW = {"n_resamples": 200}


def runs(seed: int = 0, tasks=TASKS, **columns) -> pd.DataFrame:
    """Conditions that differ in performance; a column is performance itself ("good"), its contrary ("bad") or noise."""
    rng = np.random.default_rng(seed)
    level = {(task, condition): rng.random() for task in tasks for condition in (*SYNTHETIC, *MIXTURES, "real")}
    table = runs_table(rng, level, PREDICTORS)
    value = table["performance"]
    return table.assign(**{name: value if kind == "good" else -value for name, kind in columns.items()})


@pytest.mark.parametrize(("columns", "verdict"), [
    ({"recall_few": "good"}, SUPPORTED),
    ({"recall_few": "good", "training_loss": "bad"}, IN_PART),  # a low loss is as good a guide
    ({"recall_few": "bad"}, NOT),
    ({}, UNDECIDED),
])
def test_each_verdict(columns: dict, verdict: str) -> None:
    found = choice_verdict(choice_rows(runs(**columns), **FEW))
    assert found.verdict == verdict
    assert found.claim == "Q1"


def test_the_best_set_is_taken_without_regret_among_the_candidates_only() -> None:
    table = runs(recall_few="good")
    table.loc[table.condition == "real", "performance"] = 5.0  # no candidate
    rows = choice_rows(table, **FEW)
    own = rows[rows.predictor == "recall_few"]
    assert (own.regret == 0).all()
    assert (own.hits == 1).all()
    assert (own.agreement == 1).all()
    assert set(zip(own.candidates, own.n_candidates, strict=True)) == {("synthetic", 10), ("with_mixtures", 13)}
    pooled = rows[(rows.candidates == "synthetic") & (rows.task == "all")].set_index("predictor")
    worth = table[table.condition.isin(SYNTHETIC)].groupby(["task", "condition"]).performance.mean().unstack()
    assert pooled.loc["recall_few", "gain"] == pytest.approx((worth.max(axis=1) - worth.mean(axis=1)).mean())
    assert pooled.loc["recall_few", "behind_recall_few"] == 0
    noise = pooled.loc["training_loss"]
    assert noise["behind_recall_few"] == pytest.approx(noise["regret"])
    assert noise["behind_recall_few_low"] <= noise["behind_recall_few"] <= noise["behind_recall_few_high"]
    assert (noise["n_choices"], noise["n_bases"], noise["bases_behind"]) == (30, 2, 2)


def test_a_gain_in_one_base_model_alone_is_not_enough() -> None:
    table = runs(recall_few="good")
    table.loc[table.base == "base-1", "recall_few"] *= -1
    rows = choice_rows(table, **FEW)
    own = rows[(rows.predictor == "recall_few") & (rows.task == "all") & (rows.candidates == "synthetic")].iloc[0]
    assert (own.bases_gaining, own.n_bases) == (1, 2)
    assert choice_verdict(rows).verdict not in (SUPPORTED, IN_PART)


def test_undefined_predictors_and_missing_columns() -> None:
    table = runs(recall_few="good").assign(cosine_few=np.nan)
    assert "cosine_few" not in set(choice_rows(table, **FEW).predictor)
    nothing = choice_rows(table.assign(recall_few=np.nan), **FEW)
    assert nothing.empty
    assert choice_verdict(nothing).verdict == UNDECIDED
    with pytest.raises(ResultError, match="recall_few"):
        choice_rows(table.drop(columns="recall_few"))
    with pytest.raises(ResultError, match="gain"):
        choice_verdict(pd.DataFrame(columns=["task"]))
