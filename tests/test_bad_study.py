"""A study that cannot be run: one line that says what is wrong, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import cli, paths


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    """A copy that a test may damage, in a folder of its own."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """`command(stage, profile)`: the exit status and the lines on standard error that are no log lines."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))

    def run(stage: str, profile: Path) -> tuple[int, list[str]]:
        capfd.readouterr()
        status = cli.main(["run", stage, "--profile", str(profile), "--home", str(tmp_path / "home")])
        lines = capfd.readouterr().err.splitlines()
        return status, [line for line in lines if not line[:2].isdigit()]

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def delete(*names: str):
    def damage(base: Path) -> None:
        for name in names:
            (base / name).unlink()
    return damage


def write(name: str, text: str):
    return lambda base: (base / name).write_text(text)


DAMAGES = {
    "no tokenizer": (delete("tokenizer.json", "tokenizer_config.json"), "the model folder has no tokenizer. Add"),
    "no config": (delete("config.json"), "the model folder has no config.json. Give"),
    "no weights": (delete("model.safetensors"), "the model folder lacks weights (got 'no *.safetensors'). Complete"),
    "broken config": (write("config.json", "{"), "the config cannot be loaded (got 'JSONDecodeError"),
    "config that is a list": (write("config.json", "[1]"), "the config cannot be loaded (got 'TypeError"),
    "broken tokenizer": (write("tokenizer.json", "{"), "the tokenizer cannot be loaded (got "),
    "no folder": (shutil.rmtree, "base model base: no such folder (got "),
}


@pytest.mark.parametrize("stage", ["base", "data", "finetune", "knockout"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_base_model_that_cannot_be_used_is_one_line(base, command, tmp_path, damage, stage) -> None:
    harm, message = DAMAGES[damage]
    harm(base)
    status, lines = command(stage, write_profile(tmp_path / "tiny.yaml", base))
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert lines[0].count(message) == 1  # told once, however many runs stumble over it
    assert str(base) in lines[0]
    assert contents(tmp_path / "home") == {}


@pytest.mark.parametrize(("changes", "message"), [
    ({"tasks": ["mdaq"]}, "unknown value for `tasks.0` (got 'mdaq'). Did you mean `mdqa`?"),
    ({"conditions": ["real", "hihg_low"]}, "`conditions.1` (got 'hihg_low'). Did you mean `high_low`?"),
    ({"n_trian": 4}, "unknown key `n_trian` (got 4). Did you mean `n_train`?"),
    ({"train_length": 20}, "length: "),
])
def test_settings_that_cannot_be_used_are_one_line(base, command, tmp_path, changes, message) -> None:
    status, lines = command("finetune", write_profile(tmp_path / "tiny.yaml", base, **changes))
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert contents(tmp_path / "home") == {}


@pytest.fixture
def trained(base, command, tmp_path) -> Path:
    profile = write_profile(tmp_path / "tiny.yaml", base)
    assert command("finetune", profile)[0] == 0
    return profile


def test_adapters_of_another_base_or_theta_are_refused_and_kept(trained, base, command, tmp_path) -> None:
    made = contents(tmp_path / "home")
    assert any(name.endswith("adapter_model.safetensors") for name in made)

    write_profile(trained, base, rope_theta=40_000)
    for stage in ("finetune", "detect"):
        status, lines = command(stage, trained)
        assert (status, len(lines)) == (2, 1)
        assert "made with other settings" in lines[0]
        assert "--home DIR" in lines[0]

    write_profile(trained, base)
    weights = load_file(base / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    for stage in ("finetune", "detect"):
        status, lines = command(stage, trained)
        assert (status, len(lines)) == (2, 1)
        assert "made from another base model" in lines[0]
    assert contents(tmp_path / "home") == made


def test_an_adapter_put_in_by_hand_is_refused(trained, command, tmp_path) -> None:
    [record] = (tmp_path / "home").rglob("mdqa__real__*/extension.json")
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"base_fingerprint": "0" * 64}))
    made = contents(tmp_path / "home")
    status, lines = command("detect", trained)
    assert status == 2
    assert lines[-1].startswith("error: ")
    assert "another base" in lines[-1]
    assert made.items() <= contents(tmp_path / "home").items()
    assert not list((tmp_path / "home").rglob("head_scores/mdqa__real__*"))
