"""Run keys: names and paths from one object, and back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ConfigError
from retrieval_heads.keys import RunKey, part_path, study_grid, table_path

KEY = RunKey("quick", "mdqa", "low_high", 0, "base")


@pytest.mark.parametrize("component", ["", "..", "a/b", "a b", "a__b", "_a", "a_", "é"])
def test_a_component_that_cannot_be_a_file_name_is_refused(component: str) -> None:
    with pytest.raises(ConfigError, match="run key, condition"):
        RunKey("quick", "mdqa", component, 0, "base")


def test_paths_are_below_home_and_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))
    monkeypatch.chdir("/")
    name = "mdqa__low_high__s0__base"
    assert KEY.adapter == tmp_path / "runs" / "quick" / "adapters" / name
    folder = tmp_path / "runs" / "quick" / "parts"
    assert part_path("quick", "performance", KEY) == folder / "performance" / f"{name}.csv"
    assert part_path("quick", "base", "mdqa") == folder / "base" / "mdqa.csv"
    assert table_path("quick", "performance") == tmp_path / "runs" / "quick" / "tables" / "performance.csv"
    assert paths.results_folder("quick").parent.parent == paths.checkout()


def test_home_is_the_checkout_unless_named(monkeypatch) -> None:
    monkeypatch.delenv(paths.HOME_VARIABLE, raising=False)
    assert paths.home() == paths.checkout() == Path(__file__).resolve().parents[1]
    monkeypatch.setenv(paths.HOME_VARIABLE, "somewhere/else")
    with pytest.raises(ConfigError, match=r"RETRIEVAL_HEADS_HOME.*absolute.*'somewhere/else'"):
        paths.home()


def test_models_are_found_from_the_checkout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir("/")
    assert paths.resolve_model("tests") == str(Path(__file__).resolve().parent)
    assert paths.resolve_model(str(tmp_path)) == str(tmp_path)
    assert paths.resolve_model("meta-llama/Meta-Llama-3-8B-Instruct") == "meta-llama/Meta-Llama-3-8B-Instruct"


def test_the_grid_is_tasks_by_seeds_by_conditions() -> None:
    profile = load_profile("report")
    grid = study_grid(profile)
    sizes = [len(values) for values in (profile.tasks, profile.seeds, profile.base_names, profile.conditions)]
    assert len(grid) == len(set(grid)) == math.prod(sizes)
    assert {key.task for key in study_grid(profile, task="musique")} == {"musique"}
    assert {key.seed for key in study_grid(profile, seed=1)} == {1}
    assert {key.base for key in study_grid(profile, base="base-1")} == {"base-1"}
    assert [key.base for key in grid[::sizes[-1]]][:3] == ["base", "base-1", "base"]
    assert grid[1].to("real") == grid[0]
    assert grid[0].columns == {"task": "mdqa", "condition": "real", "seed": profile.seeds[0], "base": "base"}


def test_a_task_seed_or_base_outside_the_profile_is_refused() -> None:
    profile = load_profile("report")
    with pytest.raises(ConfigError, match=r"task: .*\(got 'mdaq'\)\. Did you mean `mdqa`"):
        study_grid(profile, task="mdaq")
    with pytest.raises(ConfigError, match=r"seed: .*\(got 777\)\..*Allowed: 1"):
        study_grid(profile, seed=777)
    with pytest.raises(ConfigError, match=r"base: .*\(got 'base-2'\)\. Did you mean `base-1`"):
        study_grid(profile, base="base-2")


def test_a_hub_id_gives_its_last_component() -> None:
    paper = load_profile("paper")
    assert paper.base_names == ("Meta-Llama-3-8B-Instruct",)
    assert paper.base_of(paper.base_names[0]) == "meta-llama/Meta-Llama-3-8B-Instruct"
