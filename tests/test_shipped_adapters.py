"""The adapters that come with the repository: complete, small, made for the base beside them, and loadable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from retrieval_heads.config import load_profile
from retrieval_heads.data.example import TASKS
from retrieval_heads.errors import ModelError
from retrieval_heads.models.extension import fingerprint, read_extension
from retrieval_heads.models.load import load_model, swap_adapter
from retrieval_heads.store import find_committed
from retrieval_heads.tables import read_table

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
