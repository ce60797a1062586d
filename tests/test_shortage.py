"""Out of memory, a full disk, a read-only folder: one clear line, nothing half there, and what was finished is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from limits import no_file_above, read_only
from model_folders import ADAPTER_FILES, save_model, settings
from tiny_study import save_tiny_base, write_profile
from transformers import Trainer

from retrieval_heads import files
from retrieval_heads.cli import main
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.diagnose import Request, diagnose, work
from retrieval_heads.errors import ResultError
from retrieval_heads.files import shortage, write_whole
from retrieval_heads.training.finetune import finetune


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny base, two training sets, real examples."""
    folder = tmp_path_factory.mktemp("shortage")
    save_tiny_base(folder / "base")
    for name, which in (("high", {"n": 3}), ("low", {"n": 3}), ("eval", {"n": 6, "split": "test"})):
        condition = {"high": "high_high", "low": "low_low", "eval": "real"}[name]
        made = make_examples(task="mdqa", condition=condition, length=200, seed=0, **which)
        # called citations, so that heads are scored by where they look: a random model copies nothing
        write_examples(folder / f"{name}.jsonl", [
            replace(one, task="summhay", answer="[1]", answers=("[1]",)) for one in made
        ])
    return folder


def line(verb: str, folder: Path, out: Path) -> list[str]:
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


def assert_nothing_half_there(place: Path) -> None:
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
    assert_nothing_half_there(tmp_path / "home")
    assert main(command) == 0


@pytest.mark.parametrize("verb", ["diagnose", "rank"])
def test_a_command_without_memory_keeps_what_was_finished(verb: str, folder: Path, tmp_path, capsys, monkeypatch):
    command, out = line(verb, folder, tmp_path / "out"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", on_call(2, out_of_memory, Trainer.training_step))
        assert main(command) == 2
    assert_told(capsys.readouterr().err, "out of memory on the device", "Tried to allocate 2.00 GiB", "--batch-size",
                "gradient checkpointing")
    assert len(list(out.glob("measured/*"))) == 2
    assert_nothing_half_there(out)


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
def test_an_adapter_that_does_not_fit_leaves_nothing(save_steps, tiny_model, tiny_tokenizer, tiny_examples, tmp_path):
    """Adapter and checkpoint are written by other libraries, in Rust and in C++."""
    base = save_model(tmp_path / "base", tiny_model("llama"), tiny_tokenizer)
    encoded, wanted = encode_all(tiny_examples, tiny_tokenizer), settings(batch_size=2, save_steps=save_steps)
    with no_file_above(4000), pytest.raises(ResultError, match=r"adapter.*cannot be written.*MB are free there"):
        finetune(base, encoded, tmp_path / "adapter", wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    finetune(base, encoded, tmp_path / "adapter", wanted)


def test_a_report_that_does_not_fit_leaves_the_tables(folder: Path, tmp_path, capsys):
    command, out = line("diagnose", folder, tmp_path / "out"), tmp_path / "out"
    with no_file_above(70_000):
        assert main(command) == 2
    assert_told(capsys.readouterr().err, "report.html", "cannot be written", "MB are free there", "Make room")
    assert (out / "tables" / "summary.csv").is_file()
    assert not (out / "report.html").exists()
    assert_nothing_half_there(out)


@pytest.mark.parametrize("verb", ["diagnose", "rank"])
def test_a_read_only_folder_is_told_and_left_as_it_was(verb: str, folder: Path, tmp_path, capsys):
    (tmp_path / "shut").mkdir()
    with read_only(tmp_path / "shut"):
        assert main(line(verb, folder, tmp_path / "shut" / "out")) == 2
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

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(ResultError, match=r"Read-only file system.*Give a place that can be written to"):
        write_whole(tmp_path / "a.csv", b"new")
    assert not list(tmp_path.iterdir())
