"""Run keys and the grid: names and paths, each run through all its stages, from parts without their adapters."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import paths
from retrieval_heads.cli import main
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.keys import Options, RunKey, part_path, study_grid, table_path
from retrieval_heads.stages import grid, patch
from retrieval_heads.stages.common import untuned_keys
from retrieval_heads.store import Store, load_table


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    path = write_profile(
        tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "model"),
        conditions=["real", "symbolic", "real_shuffled", "real_4x"], lengths={
            "conditions": ["real"], "eval_lengths": [250], "n": 2,
        },
    )
    return load_profile(path)


def parts(profile, table: str) -> set[str]:
    return {path.stem for path in (paths.runs_folder(profile.name) / "parts" / table).glob("*.csv")}


def key(profile, condition: str) -> RunKey:
    return RunKey(profile.name, "mdqa", condition, 0, profile.base_names[0])


def test_every_run_has_its_own_stages_and_a_second_call_computes_nothing(tiny, monkeypatch) -> None:
    made = {path.stem for path in grid.run(tiny)}
    assert {"performance", "head_scores", "knockout", "patching", "lengths", "shortfall", "overlap"} <= made
    named = {one.name for one in study_grid(tiny)}
    assert parts(tiny, "performance") == named
    assert parts(tiny, "head_scores") == named | {key(tiny, name).name for name in ("base", "rope")}
    assert parts(tiny, "knockout") == {key(tiny, name).name for name in ("real", "symbolic")}
    assert parts(tiny, "patching") == {key(tiny, "symbolic").name}
    assert parts(tiny, "lengths") == {key(tiny, name).name for name in ("real", "rope")}
    assert set(load_table("tiny", "text_loss").condition) == {"real"}
    training = load_table("tiny", "training").set_index("condition").steps
    assert training["real_4x"] == 4 * training["real"]
    monkeypatch.setattr(grid, "make_part", lambda *arguments: pytest.fail("computed again"))
    assert {path.stem for path in grid.run(tiny)} == made


def test_real_runs_come_first_and_other_sizes_last() -> None:
    order = [(one.seed, one.condition) for one in grid.ordered(study_grid(load_profile("report"), "mdqa", base="base"))]
    assert order[0] == (1, "real")
    assert order[1][0] == 1
    sized = [place for place, (_, name) in enumerate(order) if name.endswith(("_4x", "_quarter"))]
    assert sized == list(range(len(order) - len(sized), len(order)))
    for seed in (1, 2, 5):
        assert next(name for one, name in order if one == seed) == "real"


def test_time_that_is_over_begins_nothing(tiny) -> None:
    assert grid.run(tiny, seconds=0) == []
    assert parts(tiny, "performance") == set()


def test_rows_of_a_lost_adapter_are_made_again_only_where_the_adapter_is_needed(tiny) -> None:
    grid.run(tiny)
    store = Store(tiny)
    for name in ("real", "symbolic", "real_4x"):
        shutil.rmtree(key(tiny, name).adapter)
    assert [grid.unfinished(store, key(tiny, name)) for name in ("real", "symbolic", "real_4x")] == [[], [], []]
    store.forget("patching", key(tiny, "symbolic"))
    assert grid.unfinished(store, key(tiny, "symbolic")) == [grid.FINETUNE, grid.DETECT, grid.KNOCKOUT, grid.PATCH]
    assert grid.unfinished(store, key(tiny, "real"))[0] == grid.FINETUNE, "symbolic is to be patched from it"
    assert grid.unfinished(store, key(tiny, "real_4x")) == []
    scores = part_path("tiny", "head_scores", key(tiny, "real"))
    before = scores.read_bytes()
    grid.run(tiny)
    assert parts(tiny, "patching") == {one.name for one in patch.targets(study_grid(tiny))}
    assert scores.read_bytes() == before, "on a CPU training gives the same bytes again"


def test_the_command_takes_a_time_limit_and_its_tables_can_be_published(tiny, tmp_path, monkeypatch, capsys) -> None:
    profile = str(tmp_path / "tiny.yaml")
    assert main(["grid", "--profile", profile, "--seconds", "600"]) == 0
    assert "grid: " in capsys.readouterr().out
    monkeypatch.setattr(paths, "results_folder", lambda name: tmp_path / "results" / name)
    assert main(["publish", "--profile", profile]) == 0
    assert (tmp_path / "results" / "tiny" / "verdicts.csv").is_file()
    assert untuned_keys(tiny, Options(task="musique")) == []


def test_a_failed_real_run_is_not_waited_for(tiny, monkeypatch) -> None:
    def fail_on_real(profile, run_key, device):
        if run_key.condition == "real":
            raise DataError("no heads today", where="test")
        return scores_of_run(profile, run_key, device)

    scores_of_run = grid.DETECT.function
    monkeypatch.setattr(grid, "LOOKS", 1)
    monkeypatch.setattr(grid, "DETECT", replace(grid.DETECT, function=fail_on_real))
    with pytest.raises(ResultError, match=r"no heads today.*not finished"):
        grid.run(tiny)
    assert key(tiny, "symbolic").name in parts(tiny, "knockout")  # what needs no real run is kept
    assert not parts(tiny, "patching")


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
