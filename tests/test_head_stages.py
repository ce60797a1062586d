"""Knock-out, patching and correlation as stages, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_study import save_tiny_base

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.keys import Options, RunKey, part_path, study_grid, table_path
from retrieval_heads.settings import Profile
from retrieval_heads.stages import correlate, knockout, patch
from retrieval_heads.stages.head_sets import run_heads
from retrieval_heads.store import load_table


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
