"""Trained adapters: those that come with the repository, and profiles that name a folder of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import paths
from retrieval_heads.config import config_hash, limited, load_profile
from retrieval_heads.data.example import TASKS
from retrieval_heads.errors import ConfigError, ModelError
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.select import select_heads
from retrieval_heads.keys import study_grid
from retrieval_heads.models.extension import fingerprint, read_extension
from retrieval_heads.models.load import load_model, swap_adapter
from retrieval_heads.settings import Profile
from retrieval_heads.stages import detect, finetune, patch
from retrieval_heads.stages.common import adapter_path, held_out, load_run, n_training_examples
from retrieval_heads.store import find_committed, load_table
from retrieval_heads.tables import read_table
from retrieval_heads.training.training_record import TIMING_FILE

RESULTS = Path(__file__).parents[1] / "results" / "report"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, Path]:
    """The base and the profile of a tiny study, with its trained adapters in a folder `adapters` beside them."""
    folder = tmp_path_factory.mktemp("study")
    base = save_tiny_base(folder / "tiny")
    trained = load_profile(write_profile(folder / "trained.yaml", base))
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setenv(paths.HOME_VARIABLE, str(folder / "home"))
        for key in study_grid(trained):
            finetune.train(trained, key, "cpu")
            shutil.copytree(key.adapter, folder / "adapters" / key.name)
            (folder / "adapters" / key.name / TIMING_FILE).unlink()
    return base, write_profile(folder / "live.yaml", base, adapters=str(folder / "adapters"))


@pytest.fixture
def profile(study, tmp_path, monkeypatch) -> Profile:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))

    def refuse(*_):
        raise AssertionError("an adapter was trained")

    monkeypatch.setattr("retrieval_heads.training.finetune.finetune", refuse)
    return load_profile(study[1])


def test_heads_are_scored_and_patched_without_training(profile, tmp_path) -> None:
    patch.run(profile)
    assert set(load_table("live", "head_scores").condition) == {"base", "rope", "real", "symbolic"}
    assert set(load_table("live", "patching").condition) == {"symbolic"}
    assert not (tmp_path / "runs" / "live" / "adapters").exists()
    assert not (tmp_path / "runs" / "live" / "tables" / "answers.csv").exists()


def test_the_tables_of_the_training_come_from_its_record(profile) -> None:
    finetune.run(profile)
    losses = load_table("live", "losses")
    for key in study_grid(profile):
        record = json.loads((adapter_path(profile, key) / "training.json").read_text(encoding="utf-8"))
        rows = losses[losses.condition == key.condition]
        assert rows.loss.tolist() == pytest.approx([entry["loss"] for entry in record["loss"]], rel=1e-4)


def test_adapters_that_are_not_there_or_of_other_settings_are_refused(profile, study) -> None:
    key = study_grid(profile)[0]
    missing = load_profile(study[1], seeds=[7])
    with pytest.raises(ConfigError, match=r"no trained adapter of the run mdqa__real__s7__tiny"):
        finetune.trained(missing, study_grid(missing)[0])
    with pytest.raises(ConfigError, match=r"trained with other settings than the profile's"):
        finetune.trained(load_profile(study[1], lora={"lr": 1e-4}), key)
    with pytest.raises(ConfigError, match=r"trained with other examples than the profile's, 3"):
        finetune.trained(load_profile(study[1], n_train=3), key)


def test_only_a_profile_that_names_adapters_has_another_hash() -> None:
    plain, named = load_profile("smoke"), load_profile("smoke", adapters="models/adapters")
    assert plain.adapters is None
    assert config_hash(load_profile("smoke", adapters=None), "detect") == config_hash(plain, "detect")
    for stage in ("finetune", "detect", "knockout", "patch", "lengths", None):
        assert config_hash(named, stage) != config_hash(plain, stage)
    for stage in ("base", "data"):
        assert config_hash(named, stage) == config_hash(plain, stage)


def test_live_is_a_part_of_the_report_on_fewer_examples() -> None:
    live, report = load_profile("live"), load_profile("report")
    for name in ("tasks", "conditions", "seeds", "bases"):
        assert set(getattr(live, name)) <= set(getattr(report, name))
    for name in ("base_length", "train_length", "eval_lengths", "rope_theta", "n_train", "lora", "detect"):
        assert getattr(live, name) == getattr(report, name)
    assert live.device == "cpu"
    for profile in (live, limited(live, 2)):
        for key in study_grid(profile):
            assert finetune.trained(profile, key)["examples"] == n_training_examples(profile, key)


def test_live_finds_the_heads_that_the_report_found() -> None:
    live = load_profile("live")
    key = study_grid(live, task="mdqa")[0]
    assert key.condition == "real"
    model, tokenizer = load_run(live, key, "cpu")
    with torch.inference_mode():
        found = score_heads(model, tokenizer, held_out(live, key.task, "probe"), ("copy",), "forced", batch_size=2)
    rows = pd.read_csv(RESULTS / "head_scores.csv.gz")
    rows = rows[(rows.kind == "copy") & (rows.score > live.detect.threshold)]
    for name, value in key.columns.items():
        rows = rows[rows[name] == value]
    known = set(zip(rows.layer, rows["head"], strict=True))
    heads = set(select_heads(found["copy"].scores, live.detect.threshold))
    assert len(heads & known) / len(heads | known) >= 0.8


def test_detection_and_training_agree_on_where_adapters_are(profile, monkeypatch) -> None:
    trained = profile.model_copy(update={"adapters": None})
    called = []
    monkeypatch.setattr(finetune, "run", lambda *_: called.append("finetune"))
    monkeypatch.setattr(detect, "_detect", lambda *_: [])
    detect.run(profile)
    assert not called
    detect.run(trained)
    assert called == ["finetune"]
    key = study_grid(trained)[0]
    assert adapter_path(trained, key) == key.adapter


MODELS = Path(__file__).parents[1] / "models"
BASE, ADAPTERS = MODELS / "base", MODELS / "adapters"
CONDITIONS = ("real", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
NAMES = sorted(f"{task}__{condition}__s1__base" for task in TASKS for condition in CONDITIONS)
FILES = {"adapter_config.json", "adapter_model.safetensors", "extension.json", "training.json"}


def test_one_seed_of_three_tasks_and_seven_conditions_in_less_than_15_mb() -> None:
    assert sorted(path.name for path in ADAPTERS.iterdir()) == sorted([*NAMES, "README.md"])
    assert sum(path.stat().st_size for path in ADAPTERS.rglob("*") if path.is_file()) < 15e6
    for name in NAMES:
        assert {path.name for path in (ADAPTERS / name).iterdir()} == FILES


def test_each_loads_on_the_base_beside_it_and_on_no_other(tmp_path: Path) -> None:
    # one base for all: loading an adapter checks its weights, and swapping that it was made for the same base
    model, _ = load_model(BASE, adapter=ADAPTERS / NAMES[0])
    for name in NAMES:
        assert read_extension(ADAPTERS / name).base_fingerprint == fingerprint(BASE)
        swap_adapter(model, ADAPTERS / name)
    changed = shutil.copytree(BASE, tmp_path / "base")
    config = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    (changed / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}), encoding="utf-8")
    with pytest.raises(ModelError, match="made for another base"):
        load_model(changed, adapter=ADAPTERS / NAMES[0])


def test_they_are_those_of_the_reports_tables_and_were_trained_as_its_profile_says() -> None:
    report = load_profile("report")
    training = read_table("training", find_committed("report", "training"))
    losses = training.set_index(["task", "condition", "seed", "base"]).final_loss
    wanted = json.loads(json.dumps(vars(report.lora_settings(seed=1))))
    for name in NAMES:
        record = json.loads((ADAPTERS / name / "training.json").read_text(encoding="utf-8"))
        assert (record["settings"], record["examples"]) == (wanted, report.n_train)
        task, condition, _, base = name.split("__")
        assert losses[task, condition, 1, base] == pytest.approx(record["loss"][-1]["loss"], abs=1e-6)
