"""Two commands on one folder: the work of a study is shared, a second diagnosis or another request is refused."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from forked import exit_code, files, start
from model_folders import digests
from small_sets import diagnose_line, rank_line, write_sets
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import paths
from retrieval_heads.cli import main
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ResultError
from retrieval_heads.keys import study_grid
from retrieval_heads.locks import FILE, check_claim, claimed, clear, locked, on_record
from retrieval_heads.stages import finetune
from retrieval_heads.stages.provide import make_part_once
from retrieval_heads.store import Store


@pytest.mark.parametrize("verb", [["run", "patch"], ["grid"]])
def test_two_commands_share_a_study(verb: list[str], tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base"))
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert exit_code(start([*verb, "--profile", str(profile), "--home", str(whole)])) == 0
    both = [start([*verb, "--profile", str(profile), "--home", str(shared)]) for _ in range(2)]
    assert [exit_code(one) for one in both] == [0, 0]
    assert sorted(files(shared)) == sorted(files(whole))
    for path in files(whole):
        if path.suffix == ".csv":
            assert (shared / path).read_bytes() == (whole / path).read_bytes(), path
    for folder in whole.glob("runs/*/adapters/*"):
        assert digests(shared / folder.relative_to(whole)) == digests(folder)


def test_a_command_that_comes_to_the_work_of_another_one_waits_for_it(tmp_path: Path, monkeypatch) -> None:
    profile, home = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base")), tmp_path / "home"
    line = ["run", "finetune", "--profile", str(profile), "--home", str(home)]
    folder = home / "runs" / "tiny"
    with locked(folder / ".mdqa__real__s0__base.lock"):  # as if another command were at the real run
        second = start(line)
        deadline = time.monotonic() + 900
        while not list(folder.glob("parts/answers/mdqa__symbolic*.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        assert second.is_alive()
        assert not list(folder.glob("parts/*/mdqa__real__*"))
    assert exit_code(second) == 0
    assert list(folder.glob("parts/answers/mdqa__real__*.json"))
    assert not list(folder.glob(".*"))

    # who comes to a part when its lock is free finds that it is made
    monkeypatch.setenv(paths.HOME_VARIABLE, str(home))
    study = load_profile(profile)
    for key in study_grid(study):
        assert make_part_once(Store(study), finetune.TABLES, lambda *_: pytest.fail("again"), None, key, "cpu",
                              wait=True)


@pytest.mark.parametrize("line", [diagnose_line, rank_line])
def test_a_second_process_is_refused_while_the_first_one_lives(line, tmp_path: Path, capsys) -> None:
    write_sets(tmp_path)
    out = tmp_path / "out"
    first = start(line(tmp_path, out))
    try:
        deadline = time.monotonic() + 900
        while not (out / "request.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGSTOP)
        before = sorted(files(out))
        for more in ([], ["--epochs", "2"]):
            assert main([*line(tmp_path, out), *more]) == 2
            error = capsys.readouterr().err
            assert f"process {first.pid} " in error
            assert "is at work in the folder" in error
            assert "give another --out" in error
        assert sorted(files(out)) == before
        os.kill(first.pid, signal.SIGCONT)
        assert exit_code(first) == 0
    finally:
        first.kill()
    made = {path: (out / path).read_bytes() for path in files(out)}
    assert not [path for path in made if path.name.startswith(".")]
    assert main(line(tmp_path, out)) == 0
    assert {path: (out / path).read_bytes() for path in files(out)} == made


def test_what_a_call_leaves_that_is_killed_at_its_very_beginning(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for name in (".lock", ".request.json.99999999.tmp"):
        (out / name).touch()
    assert main(rank_line(tmp_path, out)) == 0
    assert not list(out.glob(".*"))


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".a.lock"
    with locked(path) as first:
        assert first
        with locked(path, seconds=0) as second:
            assert not second
        began = time.monotonic()
        with locked(path, seconds=0.3) as second:
            assert not second
        assert time.monotonic() - began >= 0.3
        assert path.is_file()
        clear(path.parent)
        assert path.is_file()
    assert not path.parent.exists()
    (tmp_path / ".left.lock").write_text("of a process that was killed")
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def make_and_fail(path: Path) -> None:
    path.write_text("result")
    raise ZeroDivisionError


def test_a_call_that_fails_before_it_made_anything_leaves_the_folder_to_others(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "out", {"model": "missing"}, "a trial"):
        raise ZeroDivisionError
    assert not (tmp_path / "out" / FILE).exists()
    with claimed(tmp_path / "out", {"model": "there"}, "a trial"):
        assert (tmp_path / "out" / FILE).is_file()


def test_a_call_that_fails_later_keeps_the_folder_and_what_it_made(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, {"model": "a"}, "a trial"):
        make_and_fail(tmp_path / "made")
    with claimed(tmp_path, {"model": "a"}, "a trial"):
        assert (tmp_path / "made").read_text() == "result"
    with pytest.raises(ResultError, match="another model"), claimed(tmp_path, {"model": "b"}, "a trial"):
        pass


def test_a_later_call_that_fails_leaves_an_earlier_request_as_it_was(tmp_path: Path) -> None:
    with claimed(tmp_path, {"model": "a"}, "a trial"):
        pass
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, {"model": "a"}, "a trial"):
        raise ZeroDivisionError
    assert (tmp_path / FILE).read_bytes() == before


def test_a_request_may_grow_where_it_is_allowed_to(tmp_path: Path) -> None:
    growing = ("train", "seeds", "real")

    def claim(**wanted):
        with claimed(tmp_path, {"model": "a", **wanted}, "a trial", growing):
            return on_record(tmp_path)

    claim(train={"A": "1"}, seeds=[1], real=None)
    both = {"model": "a", "train": {"A": "1", "B": "2"}, "seeds": [1, 2], "real": "r"}
    assert claim(train={"A": "1", "B": "2"}, seeds=[1, 2], real="r") == both
    assert claim(train={"B": "2"}, seeds=[2], real=None) == both  # a part of it forgets nothing
    check_claim(tmp_path, {"model": "a", "train": {"C": "3"}}, "a trial", growing)
    for wanted, name in (({"train": {"A": "9"}}, "train"), ({"real": "q"}, "real"), ({"model": "b"}, "model")):
        with pytest.raises(ResultError, match=f"another {name}"):
            check_claim(tmp_path, {"model": "a", **wanted}, "a trial", growing)
    assert on_record(tmp_path) == both
    assert on_record(tmp_path / "nowhere") == {}
