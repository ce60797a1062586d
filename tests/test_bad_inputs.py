"""Bad inputs of every surface, and studies that cannot be run: an error of ours with a remedy, nothing half-made."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from pathlib import Path

import bad_inputs
import pytest
from bad_commands import VERBS
from bad_files import Valid
from bad_inputs import SURFACES, Case, cases, table
from safetensors.torch import load_file, save_file
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import cli, paths
from retrieval_heads.cli import main
from retrieval_heads.data.official.records import JsonStream

PER_SURFACE = 5


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return list(cases(PER_SURFACE * len(SURFACES), seed=77))


def test_the_command_lines_are_valid_before_they_are_spoilt(tmp_path: Path, capsys):
    valid = Valid.make(tmp_path / "valid")
    with bad_inputs.nothing_begins():
        for verb in sorted(set(VERBS) - {"fetch", "pretrain", "publish"}):  # network, training, results/
            with contextlib.suppress(bad_inputs.BegunError):
                assert main([verb, *VERBS[verb][0](valid, tmp_path / verb)]) == 0, verb


def test_every_surface_is_tried(found: list[Case]):
    assert Counter(case.surface for case in found) == dict.fromkeys(SURFACES, PER_SURFACE)
    assert len({(case.surface, case.fault) for case in found}) > len(found) / 2
    assert sum(row["n"] for row in table(found)) == len(found)


def test_no_other_librarys_error(found: list[Case]):
    assert [f"{case.surface}, {case.fault}: {case.told}" for case in found if case.outcome == "other"] == []


def test_each_error_has_a_remedy(found: list[Case]):
    assert sum(case.outcome == "ours" for case in found) > 0.8 * len(found)
    assert [case for case in found if case.outcome == "ours" and not case.remedy] == []


def test_no_file_is_left(found: list[Case]):
    assert [case for case in found if case.left] == []


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_values_do_not_depend_on_how_the_text_comes(piece: int):
    text = '\n [ {"a": "\\u00e9 ]}"},\n12345, -1.5e3,\n"x\\n", null, [[]], true ] \n'
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    assert list(JsonStream(pieces).values()) == [
        (2, {"a": "é ]}"}), (3, 12345), (3, -1500.0), (4, "x\n"), (4, None), (4, [[]]), (4, True)]


def test_no_more_is_held_than_the_longest_value():
    record = '{"a": "' + "x" * 1000 + '"}'
    stream = JsonStream(iter(["[", *[record + ", "] * 2000, record, "]"]))
    assert max(len(stream.text) for _ in stream.values()) < 2**17 < 2000 * len(record)


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
