"""Commands that are killed, or lack memory, disk or rights: one clear line, nothing half-made, the same at last."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import exit_code, files, kill_in_the_middle, start
from limits import no_file_above, read_only
from model_folders import ADAPTER_FILES, digests, settings
from small_sets import diagnose_line, write_sets
from tiny_study import save_tiny_base, write_profile
from transformers import Trainer

from retrieval_heads.cli import main
from retrieval_heads.diagnose import Request, diagnose, work
from retrieval_heads.errors import ResultError
from retrieval_heads.files import shortage, write_whole
from retrieval_heads.manifest import sha256
from retrieval_heads.training.finetune import finetune

STAGE = "knockout"  # which makes what it rests on: fine-tuning, head detection, knock-out
KILLS = 6


def line(profile: Path, home: Path, workers: int = 1) -> list[str]:
    return ["run", STAGE, "--profile", str(profile), "--limit", "3", "--home", str(home), "--workers", str(workers)]


def assert_nothing_is_half_there(home: Path) -> None:
    """What can be seen is whole: rows are those that their manifest describes, and adapters have all their files."""
    for path in home.rglob("[!.]*.json"):
        if path.parent.parent.name == "parts" or path.parent.name == "tables":
            assert json.loads(path.read_text())["sha256"] == sha256(path.with_suffix(".csv").read_bytes())
    for folder in home.glob("runs/*/adapters/[!.]*"):
        assert {path.name for path in folder.iterdir()} == ADAPTER_FILES


def test_a_study_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(start(line(profile, whole))) == 0
    made = sorted(files(whole))
    rng, stages = random.Random(0), []
    for kill in range(KILLS):
        # one moment in each part of the way, by the number of files, so that a slow machine is killed there too
        moment = rng.randint(1 + kill * len(made) // KILLS, (kill + 1) * len(made) // KILLS - 1)
        workers = 2 if kill == KILLS // 2 else 1
        if kill_in_the_middle(line(profile, killed, workers), killed, moment, rng.uniform(0, 0.15)):
            tables = {path.stem for path in killed.glob("runs/*/tables/[!.]*.json")}
            stages.append("knockout" if "head_scores" in tables else "detect" if "training" in tables else "finetune")
        assert_nothing_is_half_there(killed)
    assert len(stages) >= KILLS - 1
    assert set(stages) >= {"finetune", "knockout"}

    done = subprocess.run([sys.executable, "-m", "retrieval_heads", *line(profile, killed)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(files(killed)) == made
    tables = [path for path in made if path.suffix == ".csv"]
    assert {path.stem for path in tables if path.parent.name == "tables"} >= {"training", "head_scores", "knockout"}
    for path in tables:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
    for folder in whole.glob("runs/*/adapters/*"):
        assert digests(killed / folder.relative_to(whole)) == digests(folder)


DIAGNOSIS_KILLS = 5


def test_a_diagnosis_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_sets(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_code(start(diagnose_line(tmp_path, whole))) == 0
    made = sorted(files(whole))
    rng, hit = random.Random(0), 0
    for kill in range(DIAGNOSIS_KILLS):
        moment = rng.randint(1 + kill * len(made) // DIAGNOSIS_KILLS, (kill + 1) * len(made) // DIAGNOSIS_KILLS - 1)
        hit += kill_in_the_middle(diagnose_line(tmp_path, killed), killed, moment, rng.uniform(0, 0.15))
    assert hit >= DIAGNOSIS_KILLS - 1
    assert exit_code(start(diagnose_line(tmp_path, killed))) == 0
    assert sorted(files(killed)) == made
    assert {path.name for path in made} >= {"report.html", "patching.csv", "summary.csv"}
    for path in made:
        if path.name != "timing.json":
            assert (killed / path).read_bytes() == (whole / path).read_bytes(), path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("shortage"))


def verb_line(verb: str, folder: Path, out: Path) -> list[str]:
    """A command of each verb that trains on two sets."""
    common = [verb, "--model", str(folder / "base"), "--train", f"high={folder / 'high.jsonl'}", "--train",
              f"low={folder / 'low.jsonl'}", "--length", "256", "--epochs", "1", "--device", "cpu", "--threshold", "0",
              "--out", str(out)]
    return [*common, *(["--probe", str(folder / "eval.jsonl")] if verb == "rank" else
                       ["--eval", str(folder / "eval.jsonl"), "--draws", "1"])]


def assert_told(err: str, *parts: str) -> None:
    """One line of error, with the parts in it."""
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in errors[0]


def assert_nothing_hidden(place: Path) -> None:
    """No hidden file or folder, and adapters with all their files."""
    assert not list(place.rglob(".*"))
    for adapter in place.glob("**/adapters/*"):
        assert {path.name for path in adapter.iterdir()} == ADAPTER_FILES


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB free.")


def on_call(number: int, function: Callable, real: Callable) -> Callable:
    """`real`, but `function` the so manieth time."""
    calls = []

    def either(*args, **kwargs):
        calls.append(1)
        return (function if len(calls) == number else real)(*args, **kwargs)

    return either


@pytest.mark.parametrize(("raised", "told"), [
    (torch.OutOfMemoryError("CUDA is full.\nMore"), r"^out of memory on the device \(CUDA is full\)\. Lower"),
    (MemoryError(), "out of memory .*Lower the batch size"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to "
                  "allocate 8 bytes"), "out of memory .*8 bytes.*Lower"),
    (OSError(28, "No space left on device", "a.csv"), "a.csv: the file cannot be written.*Make room"),
])
def test_what_a_shortage_is(raised: Exception, told: str):
    assert re.search(told, str(shortage(raised)))


@pytest.mark.parametrize("raised", [RuntimeError("a fault"), FileNotFoundError(2, "x"), ResultError("ours")])
def test_what_no_shortage_is(raised: Exception):
    assert shortage(raised) is None


def test_a_run_without_memory_does_not_stop_the_others(folder: Path, tmp_path, capsys, monkeypatch):
    profile = write_profile(tmp_path / "tiny.yaml", folder / "base")
    command = ["run", "finetune", "--profile", str(profile), "--home", str(tmp_path / "home")]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", on_call(1, out_of_memory, Trainer.training_step))
        assert main(command) == 2
    assert_told(capsys.readouterr().err, "1 of 2 runs failed", "tiny/mdqa__real__s0", "out of memory",
                "Lower the batch size", "The others are kept")
    assert [path.name for path in tmp_path.glob("home/runs/tiny/adapters/*")] == ["mdqa__symbolic__s0__base"]
    assert len(list(tmp_path.glob("home/runs/tiny/parts/performance/*.csv"))) == 1
    assert_nothing_hidden(tmp_path / "home")
    assert main(command) == 0


@pytest.mark.parametrize("verb", ["diagnose", "rank"])
def test_a_command_without_memory_keeps_what_was_finished(verb: str, folder: Path, tmp_path, capsys, monkeypatch):
    command, out = verb_line(verb, folder, tmp_path / "out"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", on_call(2, out_of_memory, Trainer.training_step))
        assert main(command) == 2
    assert_told(capsys.readouterr().err, "out of memory on the device", "Tried to allocate 2.00 GiB", "--batch-size",
                "gradient checkpointing")
    assert len(list(out.glob("measured/*"))) == 2
    assert_nothing_hidden(out)


def test_python_gets_our_error_too(folder: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "evaluate_each", out_of_memory)
    request = Request(str(folder / "base"), {"high": folder / "high.jsonl"}, folder / "eval.jsonl", tmp_path / "out")
    with pytest.raises(ResultError, match="out of memory on the device"):
        diagnose(request, "cpu")


def test_a_full_disk_leaves_the_old_file_and_no_folder(tmp_path: Path):
    write_whole(tmp_path / "a.csv", b"old")
    with no_file_above(5000):
        for path in (tmp_path / "a.csv", tmp_path / "new" / "deep" / "b.csv"):
            with pytest.raises(ResultError, match=rf"{path.name}: the file cannot be written \(.*MB are free there"):
                write_whole(path, bytes(3_000_000))
        write_whole(tmp_path / "small.csv", b"fits")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.csv", "small.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"old"


@pytest.mark.parametrize("save_steps", [None, 1])
def test_an_adapter_that_does_not_fit_leaves_nothing(save_steps, base, encoded, tmp_path):
    """Adapter and checkpoint are written by other libraries, in Rust and in C++."""
    wanted = settings(batch_size=2, save_steps=save_steps)
    with no_file_above(4000), pytest.raises(ResultError, match=r"adapter.*cannot be written.*MB are free there"):
        finetune(base, encoded, tmp_path / "adapter", wanted)
    assert list(tmp_path.iterdir()) == []
    finetune(base, encoded, tmp_path / "adapter", wanted)


def test_a_report_that_does_not_fit_leaves_the_tables(folder: Path, tmp_path, capsys):
    command, out = verb_line("diagnose", folder, tmp_path / "out"), tmp_path / "out"
    with no_file_above(70_000):
        assert main(command) == 2
    assert_told(capsys.readouterr().err, "report.html", "cannot be written", "MB are free there", "Make room")
    assert (out / "tables" / "summary.csv").is_file()
    assert not (out / "report.html").exists()
    assert_nothing_hidden(out)


@pytest.mark.parametrize("verb", ["diagnose", "rank"])
def test_a_read_only_folder_is_told_and_left_as_it_was(verb: str, folder: Path, tmp_path, capsys):
    (tmp_path / "shut").mkdir()
    with read_only(tmp_path / "shut"):
        assert main(verb_line(verb, folder, tmp_path / "shut" / "out")) == 2
    assert_told(capsys.readouterr().err, "shut/out: ", "cannot be written (Permission denied",
                "Give a place that can be written to")
    assert not list((tmp_path / "shut").iterdir())


def test_a_study_in_a_read_only_folder(folder: Path, tmp_path, capsys):
    profile, home = write_profile(tmp_path / "tiny.yaml", folder / "base"), tmp_path / "home"
    command = ["run", "base", "--profile", str(profile), "--home", str(home)]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with read_only(home):
        assert main(["run", "finetune", *command[2:]]) == 2
    assert_told(capsys.readouterr().err, "cannot be written (Permission denied")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_read_only_file_system_is_told_as_such(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("retrieval_heads.files.os.replace", refuse)
    with pytest.raises(ResultError, match=r"Read-only file system.*Give a place that can be written to"):
        write_whole(tmp_path / "a.csv", b"new")
    assert not list(tmp_path.iterdir())
