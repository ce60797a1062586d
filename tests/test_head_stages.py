"""Knock-out, patching, overlap and correlation as stages: of a tiny model, and of made-up tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import save_tiny_base

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.keys import Options, RunKey, part_path, study_grid, table_path
from retrieval_heads.settings import Profile
from retrieval_heads.stages import correlate, knockout, patch
from retrieval_heads.stages.correlate import overlap_rows, same_seed
from retrieval_heads.stages.head_sets import run_heads
from retrieval_heads.store import load_table
from retrieval_heads.tables import conform


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("models") / "tiny")


def toy(base: Path) -> Profile:
    return load_profile(
        "smoke", bases=[str(base)], conditions=["real", "symbolic"], n_train=2, n_probe=2, n_test=3,
        detect={"kinds": ["copy", "insight"], "threshold": 0.02}, lora={"batch_size": 2}, bootstrap=50,
        knockout={"modes": ["zero", "mean", "uniform"], "scopes": ["answer", "all"], "k": [1, 3], "draws": 2, "n": 2},
        patch={"draws": 2, "n": 3},
    )


def run_stages(profile: Profile) -> dict[str, bytes]:
    made = [path for stage in (knockout, patch, correlate) for path in stage.run(profile, Options())]
    return {path.name: path.read_bytes() for path in made}


@pytest.fixture(scope="module")
def first_run(tiny_base, tmp_path_factory):
    """The home folder and the tables of an undisturbed run."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setenv(paths.HOME_VARIABLE, str(home))
        yield home, run_stages(toy(tiny_base))


def test_the_stages_write_tables_that_hold_together(first_run, tiny_base, monkeypatch) -> None:
    home, made = first_run
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home))
    profile = toy(tiny_base)
    assert set(made) == {
        f"{name}.csv" for name in (*knockout.TABLES, "patching", "overlap")
    }
    table = load_table("smoke", "knockout")
    assert set(table["mode"]) == {"none", "zero", "mean", "uniform"}
    assert set(table.scope) == {"none", "answer", "all"}
    assert set(table.condition) == {"real", "symbolic"}
    assert set(table.n) == {2}
    for condition in ("real", "symbolic"):
        heads = run_heads(profile, RunKey("smoke", "mdqa", condition, 0, "tiny"))
        assert set(table[table.condition == condition].n_retrieval) == {len(heads.retrieval)}
    patched = load_table("smoke", "patching")
    assert set(patched.condition) == {"symbolic"}
    assert set(patched["set"]) >= {"none", "source", "all", "intersection", "complement"}
    own = table[(table.set == "none") & (table.metric == "nll")].set_index("condition").value
    # the patched run as it is, and the source, are the runs that were knocked out; there on two of the three examples
    several = patched[(patched.metric == "nll") & patched.set.isin(["none", "source"])].set_index("set").value
    assert set(several.index) == {"none", "source"}
    assert np.isfinite(several).all()
    assert np.isfinite(own).all()


def test_a_second_run_computes_nothing_and_another_one_gives_the_same_bytes(
    first_run, tiny_base, tmp_path, monkeypatch
) -> None:
    home, made = first_run
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home))

    def never(*arguments):
        raise AssertionError("computed again")

    with monkeypatch.context() as blocked:
        blocked.setattr(knockout, "knock_out_run", never)
        blocked.setattr(patch, "patch_run", never)
        assert run_stages(toy(tiny_base)) == made
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    assert run_stages(toy(tiny_base)) == made


def test_an_interrupted_stage_goes_on_with_what_is_missing(first_run, tiny_base, monkeypatch) -> None:
    home, made = first_run
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home))
    profile = toy(tiny_base)
    _, second = study_grid(profile)
    for table in knockout.TABLES:
        # as a kill between the rows and their manifest leaves it
        part_path(second.profile, table, second).with_suffix(".json").unlink()
        table_path("smoke", table).unlink()
    real, calls = knockout.knock_out_run, []

    def killed(profile, key, device):
        raise MemoryError("killed")

    monkeypatch.setattr(knockout, "knock_out_run", killed)
    with pytest.raises(ResultError, match="1 of 1 runs failed: smoke/mdqa__symbolic__s0__tiny"):
        knockout.run(profile)
    assert not table_path("smoke", "knockout").exists()
    monkeypatch.setattr(knockout, "knock_out_run", lambda *given: calls.append(given[1]) or real(*given))
    again = {path.name: path.read_bytes() for path in knockout.run(profile)}
    assert calls == [second]
    assert again == {name: made[name] for name in again}


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
