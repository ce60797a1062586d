"""C3: predictors of runs are those of pairs; a planted relation is found and none is not; each verdict is reached."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_tables import CONDITIONS, TASKS, head_scores, other_tables, planted, runs_table

from retrieval_heads.claims.prediction import (
    COMPARED,
    correlation_rows,
    error_rows,
    prediction_verdict,
)
from retrieval_heads.claims.questions import measures_verdict
from retrieval_heads.claims.run_predictors import PREDICTORS, run_predictors, run_recall
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED
from retrieval_heads.stats.overlap import overlap

FEW = {"n_resamples": 100, "n_permutations": 199}
TRAINED = [name for name in CONDITIONS if name != "real"]


def measured(**changes):
    rng = np.random.default_rng(0)
    shares = {name: 1.0 if name == "real" else 0.3 + 0.6 * rng.random() for name in CONDITIONS}
    masks = planted(rng, shares, outside=0.2, **changes)
    scores = head_scores(rng, masks, noise=0.05)
    performance = {run: shares[run[1]] for run in masks if run[1] not in ("base", "rope")}
    return scores, other_tables(rng, performance)


def runs(rng: np.random.Generator, tasks=TASKS, **settings) -> tuple[pd.DataFrame, np.ndarray]:
    """A table of runs whose predictors are noise, and the performance that their conditions were given."""
    level = {(task, condition): rng.random() for task in tasks for condition in TRAINED}
    table = runs_table(rng, level, PREDICTORS, **settings)
    return table, table["performance"].to_numpy()


def test_predictors_of_a_run_are_means_over_the_real_runs_of_other_seeds() -> None:
    scores, others = measured(tasks=("summhay",), seeds=(1, 2, 3), bases=("base",))
    table = run_predictors(scores, **others).set_index(["condition", "seed"])

    def matrix(condition: str, seed: int, column: str = "score") -> np.ndarray:
        rows = scores[(scores.condition == condition) & (scores.seed == seed)]
        return rows.pivot(index="layer", columns="head", values=column).to_numpy()

    run, row = matrix("low_low", 2), table.loc[("low_low", 2)]
    pairs = pd.DataFrame([overlap(matrix("real", seed), run, 0.1, n_permutations=1) for seed in (1, 3)]).mean()
    for name in ("recall", "precision", "cosine"):
        assert row[name] == pytest.approx(pairs[name])
    assert row["n_heads"] == (run > 0.1).sum()
    few = [overlap(*(matrix(*one, "score_few") for one in (("real", seed), ("low_low", 2))), 0.1, n_permutations=1)
           for seed in (1, 3)]
    assert row["recall_few"] == pytest.approx(np.mean([one["recall"] for one in few]))
    assert row["mean_strength"] == pytest.approx(np.mean([run[matrix("real", seed) > 0.1].mean() for seed in (1, 3)]))
    base = matrix("base", 0)
    assert row["base_overlap"] == pytest.approx(((run > 0.1) & (base > 0.1)).sum() / (base > 0.1).sum())
    tops = []
    for seed in (1, 3):
        n = (matrix("real", seed) > 0.1).sum()
        best = [set(np.argsort(-matrix(*one, "mass").ravel())[:n]) for one in (("real", seed), ("low_low", 2))]
        tops.append(len(best[0] & best[1]) / n)
    assert row["mass_top"] == pytest.approx(np.mean(tops))
    answers = others["answers"]
    assert row["performance"] == pytest.approx(answers[(answers.condition == "low_low")].score.mean())
    curve = run_recall(scores, [0.1, 0.3]).set_index(["condition", "seed", "threshold"])
    assert curve.loc[("low_low", 2, 0.1), "recall"] == pytest.approx(row["recall"])


def test_one_seed_or_no_real_run_leaves_overlaps_undefined_and_the_claim_undecided() -> None:
    for drop in ("seeds", "real"):
        scores, others = measured(tasks=("mdqa",), seeds=(1,) if drop == "seeds" else (1, 2), bases=("base",))
        if drop == "real":
            scores = scores[scores.condition != "real"]
        table = run_predictors(scores, **others)
        assert table["recall"].isna().all()
        trained = table[table.condition != "real"]
        assert trained[["n_heads", "training_loss", "ngram_overlap"]].notna().to_numpy().all()
        correlations, errors = correlation_rows(table, **FEW), error_rows(table)
        assert errors.empty
        assert prediction_verdict(correlations, errors).verdict == UNDECIDED
        assert measures_verdict(errors).verdict == UNDECIDED


def test_conditions_outside_the_claims_do_not_count() -> None:
    scores, others = measured(tasks=("mdqa",), bases=("base",))
    others["answers"] = pd.concat([others["answers"], others["answers"].assign(condition="real_4x")])
    assert "real_4x" not in set(run_predictors(scores, **others).condition)
    rng = np.random.default_rng(0)
    table, _ = runs(rng, tasks=("mdqa",))
    extra = table[table.condition == "low_low"].assign(condition="real_short", recall=9.0, performance=9.0)
    pd.testing.assert_frame_equal(correlation_rows(pd.concat([table, extra]), predictors=["recall"], **FEW),
                                  correlation_rows(table, predictors=["recall"], **FEW))


def verdict(table: pd.DataFrame, **settings):
    rows = correlation_rows(table, predictors=["recall", "cosine"], **FEW)
    return prediction_verdict(rows, **settings)


def test_recall_that_is_performance_is_supported_and_better_than_noise() -> None:
    table, performance = runs(np.random.default_rng(1))
    table = table.assign(recall=performance)
    errors = error_rows(table, [("recall", "mean"), ("recall", "training_loss")], n_resamples=200)
    found = verdict(table, errors=errors)
    assert found.verdict == SUPPORTED
    assert (found.effect, found.n) == (1.0, 14)
    assert "better than the training loss (" in found.detail
    pooled = errors[(errors.task == "all") & (errors.conditions == "all")].set_index("reference")
    assert pooled.loc["training_loss", "error"] == pytest.approx(0, abs=1e-9)
    assert (pooled.finding == "better").all()
    assert (pooled.bases_better == 2).all()


def test_the_other_verdicts() -> None:
    rng = np.random.default_rng(2)
    table, performance = runs(rng)
    constant = verdict(table.assign(recall=0.5))
    assert constant.verdict == UNDECIDED
    assert "Recall is constant" in constant.detail
    assert "cosine" in constant.detail
    assert verdict(table.assign(recall=1 - performance)).verdict == NOT
    assert verdict(table).verdict in (NOT, UNDECIDED)
    # a relation in one base model, its contrary in the other
    sign = np.where(table.base == "base", 3, -1)
    assert verdict(table.assign(recall=sign * performance)).verdict not in (SUPPORTED, IN_PART)


def test_a_task_whose_real_runs_have_no_heads_is_left_out_and_said_beside() -> None:
    table, performance = runs(np.random.default_rng(7))
    # in two tasks recall is performance, in the third it is its contrary, and the real runs have no heads there
    barren = table.task == "summhay"
    table = table.assign(recall=np.where(barren, 1 - performance, performance))
    real = table.drop_duplicates(["task", "base", "seed"]).assign(condition="real")
    real["n_heads"] = np.where(real.task == "summhay", 0.3, 20.0)
    found = verdict(pd.concat([table.assign(n_heads=20.0), real]))
    assert (found.verdict, found.effect) == (SUPPORTED, 1.0)
    assert "over every task, as was fixed beforehand, it is 0.3" in found.detail
    errors = error_rows(pd.concat([table.assign(n_heads=20.0), real]), [("recall", "mean")], n_resamples=50)
    assert {"all", "every", "mdqa", "musique", "summhay"} == set(errors.task)
    assert errors[(errors.task == "all") & (errors.conditions == "all")].error.iloc[0] == pytest.approx(0, abs=1e-9)


def test_what_recall_shares_with_another_quantity_is_taken_out() -> None:
    table, performance = runs(np.random.default_rng(8))
    noise = np.random.default_rng(9).normal(0, 0.02, len(table))
    table = table.assign(recall=performance + noise, base_overlap=performance)
    rows = correlation_rows(table, predictors=["recall", "base_overlap", "probe_loss"], **FEW)
    rows = rows[(rows.task == "all") & (rows.base == "all") & (rows.conditions == "all") & (rows.method == "spearman")]
    of_recall = rows[rows.predictor == "recall"].set_index("given").estimate
    assert of_recall["nothing"] > 0.9
    assert abs(of_recall.get("base_overlap", 0) or 0) < 0.7 or np.isnan(of_recall["base_overlap"])
    assert of_recall["probe_loss"] > 0.9


def test_in_part_is_significant_with_a_low_end_that_is_low() -> None:
    rows = correlation_rows(runs(np.random.default_rng(3))[0], predictors=["recall"], **FEW)
    for estimate, low, high, p, expected in (
        (0.6, 0.2, 0.8, 0.01, IN_PART), (0.6, 0.45, 0.8, 0.01, SUPPORTED), (0.3, -0.1, 0.6, 0.2, NOT),
        (0.4, -0.1, 0.8, 0.2, UNDECIDED), (-0.6, -0.8, -0.2, 0.01, NOT), (0.5, 0.2, 0.65, 0.01, IN_PART),
    ):
        given = rows.assign(estimate=estimate, low=low, high=high, p=p)
        assert prediction_verdict(given).verdict == expected
    assert "not strong" in prediction_verdict(rows.assign(estimate=0.5, low=0.2, high=0.65, p=0.01)).detail


def test_without_a_relation_p_is_about_uniform() -> None:
    rng, found = np.random.default_rng(4), []
    for _ in range(60):
        table, _ = runs(rng, tasks=("mdqa",), bases=("base",), seeds=(1,))
        rows = correlation_rows(table, predictors=["recall"], n_resamples=2, n_permutations=99)
        found.append(rows[(rows.conditions == "all") & (rows.base == "all") & (rows.method == "spearman")].p.iloc[0])
    assert 0.35 < np.mean(found) < 0.65
    assert np.mean(np.array(found) < 0.1) < 0.25


def test_a_better_measure_is_found() -> None:
    table, performance = runs(np.random.default_rng(5))
    def judged(**columns):
        return measures_verdict(error_rows(
            table.assign(**columns), [("recall", "mass_top"), ("recall", "contribution_top")], n_resamples=200))
    assert judged(mass_top=performance, contribution_top=performance).verdict == SUPPORTED
    assert judged(mass_top=performance).verdict == IN_PART
    assert judged(recall=performance).verdict == NOT
    assert judged(recall=performance, mass_top=performance).verdict == UNDECIDED
    assert judged(mass_top=performance, contribution_top=np.nan).verdict == IN_PART


def test_a_predictor_that_is_not_defined_everywhere_is_compared_where_it_is() -> None:
    table, performance = runs(np.random.default_rng(6), tasks=("mdqa",))
    table = table.assign(recall=performance, precision=performance, query_mass_top=np.nan)
    table.loc[table.condition == "low_low", "precision"] = np.nan
    errors = error_rows(table, COMPARED, n_resamples=20)
    errors = errors[errors.conditions == "all"].set_index(["predictor", "reference"])
    assert errors.loc[("recall", "precision"), "n_conditions"] == 13
    assert errors.loc[("recall", "training_loss"), "n_conditions"] == 14
    assert "query_mass_top" not in errors.index.get_level_values("predictor")
