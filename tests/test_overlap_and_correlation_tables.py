"""The tables of overlap and correlation, from made-up head scores and performance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrieval_heads.config import load_profile
from retrieval_heads.stages import correlate
from retrieval_heads.stages.correlate import overlap_rows, same_seed
from retrieval_heads.tables import conform


def head_scores(
    matrices: dict[tuple[str, str, int], np.ndarray], kinds=("copy",), base: str = "tiny",
) -> pd.DataFrame:
    rows = [
        {"task": task, "condition": condition, "seed": seed, "base": base, "kind": kind, "score_mode": "forced",
         "layer": layer, "head": head, "score": matrix[layer, head], "chance": 0.0, "mass": 0.0, "query_mass": 0.0,
         "contribution": 0.0, "n_used": 4,
         **dict.fromkeys(("score_even", "score_odd", "score_few"), matrix[layer, head])}
        for (task, condition, seed), matrix in matrices.items() for kind in kinds
        for layer in range(matrix.shape[0]) for head in range(matrix.shape[1])
    ]
    return conform("head_scores", rows)


def study_of(recalls: dict[str, list[int]], seeds=(0, 1), task="mdqa") -> dict[tuple[str, str, int], np.ndarray]:
    """Runs whose retrieval heads are the listed ones of layer 0, the real run's being the first four."""
    made = {}
    for condition, own in {"real": [0, 1, 2, 3], **recalls}.items():
        for seed in (0,) if condition == "base" else seeds:
            matrix = np.zeros((2, 8))
            matrix[0, own] = 0.5
            made[task, condition, seed] = matrix
    return made


def test_overlap_rows_compare_runs_with_the_real_run_of_their_seed_and_real_ones_with_those_of_every() -> None:
    made = head_scores(study_of({"base": [0, 6], "symbolic": [0, 1, 7]}), ("copy", "insight"))
    table = conform("overlap", overlap_rows(made, (0.1, 0.6)))
    pairs = set(table[["condition", "seed", "reference_seed"]].itertuples(index=False, name=None))
    assert pairs == {("base", 0, 0), ("base", 0, 1), ("real", 0, 1), ("real", 1, 0), ("symbolic", 0, 0),
                     ("symbolic", 1, 1)}
    place = ["condition", "kind", "seed", "reference_seed"]
    one = table.set_index(place).loc[("symbolic", "copy", 0, 0)]
    at = one[one.threshold == 0.1].set_index("measure")
    assert at.loc["recall", "value"] == 0.5
    assert at.loc["precision", "value"] == pytest.approx(2 / 3)
    assert at.loc["recall", "chance"] == pytest.approx(3 / 16)
    assert at.loc["recall", "layer_chance"] == pytest.approx(3 / 8)
    assert at.loc["recall", ["n_reference", "n_heads", "n_common"]].tolist() == [4, 3, 2]
    assert one[one.threshold == 0.6].value.isna().all()
    cosine = one[one.measure == "cosine"]
    assert len(cosine) == 1
    assert cosine.threshold.isna().all()
    assert 0 < cosine.value.iloc[0] < 1
    kept = set(same_seed(table)[["condition", "seed", "reference_seed"]].itertuples(index=False, name=None))
    assert kept == {("base", 0, 0), ("symbolic", 0, 0), ("symbolic", 1, 1)}


def performance(values: dict[str, float], seeds=(0, 1), task="mdqa", base="tiny") -> pd.DataFrame:
    rows = [
        {"task": task, "condition": condition, "seed": seed, "base": base, "eval_length": length, "metric": metric,
         "value": value + 0.1 * seed - (length == 128), "low": value - 0.1, "high": value + 0.1, "n": 50}
        for condition, value in values.items() for seed in seeds for length in (128, 256)
        for metric in ("exact_match", "f1")
    ]
    return conform("performance", rows)


RECALLS = {"real_limited": [0, 1, 2], "high_high": [0, 1, 2, 3], "low_high": [0, 1], "low_low": [0, 7], "symbolic": [7]}
VALUES = {"real": 0.9, "real_limited": 0.7, "high_high": 0.8, "low_high": 0.6, "low_low": 0.5, "symbolic": 0.1}


def test_the_table_of_conditions_is_without_the_real_one_and_the_controls() -> None:
    profile = load_profile("smoke", seeds=[0, 1], bootstrap=200)
    made = head_scores(study_of({"base": [0], "real_short": [0, 1], "real_shuffled": [7], **RECALLS}))
    overlap = conform("overlap", overlap_rows(made, profile.detect.thresholds))
    scored = performance(VALUES | {"real_short": 0.3, "real_shuffled": 0.9})
    table = correlate.conditions_table(profile, overlap, scored)
    assert set(table.condition) == set(RECALLS)
    assert (set(table.n_seeds), set(table.n_bases)) == ({2}, {1})
    row = table.set_index("condition").loc["low_high"]
    assert (row.recall, row.n_heads) == (0.5, 2)
    assert row.f1 == pytest.approx(0.65)
    assert row.f1_low == pytest.approx(0.5)


def test_runs_are_compared_within_their_base_model_and_averaged_over_base_models() -> None:
    profile = load_profile("smoke", seeds=[0, 1], bases=["one", "two"], bootstrap=200)
    # the second base model has all its heads one place further on: recall over base models would be other numbers
    moved = {name: [head + 1 if head < 7 else 0 for head in own] for name, own in RECALLS.items()}
    second = study_of(moved) | {("mdqa", "real", seed): np.roll(study_of({})["mdqa", "real", seed], 1, axis=1)
                                for seed in (0, 1)}
    base = {"base": [0]}
    scores = pd.concat([head_scores(study_of(RECALLS | base), base="one"), head_scores(
        second | {("mdqa", "base", 0): study_of(base)["mdqa", "base", 0]}, base="two")])
    overlap = conform("overlap", overlap_rows(scores, profile.detect.thresholds))
    alone = conform("overlap", overlap_rows(scores[scores.base == "one"], profile.detect.thresholds))
    assert len(overlap) == 2 * len(alone)
    pd.testing.assert_frame_equal(overlap[overlap.base == "one"].reset_index(drop=True), alone)
    recall = overlap[(overlap.measure == "recall") & (overlap.threshold == 0.1)].set_index(["base", "condition"]).value
    assert recall["one", "low_high"].tolist() == recall["two", "low_high"].tolist() == [0.5] * 2
    assert set(same_seed(overlap[overlap.condition == "base"])["base"]) == {"one", "two"}
    scored = pd.concat([performance(VALUES, base="one"), performance(VALUES | {"low_high": 0.4}, base="two")])
    table = correlate.conditions_table(profile, overlap, scored).set_index("condition")
    assert (set(table.n_seeds), set(table.n_bases)) == ({2}, {2})
    assert table.loc["low_high", ["recall", "n_heads"]].tolist() == [0.5, 2]
    assert table.loc["low_high", "f1"] == pytest.approx((0.65 + 0.45) / 2)
