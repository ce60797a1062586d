"""Runs are mapped over this process or worker processes, and one failing run does not lose the others."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from retrieval_heads.errors import DataError, ModelError, ResultError
from retrieval_heads.executor import limit_threads, resolve_device, run_all


def square(key: int, device: str) -> tuple[int, str]:
    return key * key, device


def process_and_threads(key: int, device: str) -> tuple[int, str]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def fails_on_odd(folder: Path, key: int, device: str) -> None:
    if key % 2:
        raise DataError("odd", where=f"key {key}", value=key, remedy="Use even ones.")
    (folder / str(key)).touch()


def fails_alike(key: int, device: str) -> None:
    if key % 2 == 0:
        raise DataError("the base is gone", remedy="Get it back.")
    if key == 3:
        raise DataError("another fault")


def has_a_bug(key: int, device: str) -> float:
    return 1 / key


def dies_on_two(folder: Path, key: int, device: str) -> int:
    if key == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(key)).touch()
    return key


def sleeps(folder: Path, key: int, device: str) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_keys(workers: int) -> None:
    assert run_all(square, [3, 1, 2], workers, "cpu") == [(9, "cpu"), (1, "cpu"), (4, "cpu")]
    assert run_all(square, [], workers) == []


def test_any_executor_serves() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert run_all(square, [3, 1, 2], executor=pool) == [(9, "cpu"), (1, "cpu"), (4, "cpu")]


def test_one_worker_is_this_process_and_two_are_others_with_their_threads_limited(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    assert run_all(process_and_threads, [0]) == [(os.getpid(), "7")]
    for process, threads in run_all(process_and_threads, [0, 1], workers=2, threads=3):
        assert process != os.getpid()
        assert threads == "3"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_others_finish_and_one_error_names_the_failed_with_their_messages(workers: int, tmp_path: Path) -> None:
    with pytest.raises(ResultError) as caught:
        run_all(partial(fails_on_odd, tmp_path), [0, 1, 2, 3, 4], workers)
    message = str(caught.value)
    assert message.startswith("2 of 5 runs failed: 1: key 1: odd (got 1). Use even ones.; 3: key 3: odd (got 3).")
    assert "same command again" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "4"]


def test_what_several_runs_stumble_over_is_told_once() -> None:
    with pytest.raises(ResultError) as caught:
        run_all(fails_alike, [0, 1, 2, 3, 4, 5])
    assert str(caught.value).startswith(
        "4 of 6 runs failed: 0, 2, 4: the base is gone. Get it back.; 3: another fault. The others are kept")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_of_the_program_keeps_its_traceback(workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"1 of 3 runs failed: 0\n(.|\n)*in has_a_bug\n(.|\n)*ZeroDivisionError"):
        run_all(has_a_bug, [1, 0, 2], workers)


def test_a_dying_worker_costs_only_its_own_run(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"1 of 4 runs failed: 2: the worker process died.*fewer --workers"):
        run_all(partial(dies_on_two, tmp_path), [1, 2, 3, 4], workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4"]


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_workers_do_not_outlive_a_killed_or_interrupted_parent(sign: int, status: int, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import functools, pathlib, signal, test_executor as t\n"
        # a test run in the background ignores Ctrl-C, and so would everything that it starts
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"try: t.run_all(functools.partial(t.sleeps, pathlib.Path({str(tmp_path)!r})), [1, 2], workers=2)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.send_signal(sign)
    assert parent.wait(timeout=30) == status
    workers = [int(path.name) for path in tmp_path.iterdir()]
    _wait_until(lambda: not any(_runs(process) for process in workers))


def _wait_until(condition) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited for 15 s"
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        # a zombie without a parent that collects it counts as ended
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_log_line_a_run_and_no_bar_outside_a_terminal(caplog, capsys) -> None:
    with caplog.at_level(logging.INFO, "retrieval_heads"):
        run_all(square, [3, 1], description="squares")
    assert [record.getMessage().rpartition(",")[0] for record in caplog.records] == [
        "squares 1/2: 3 done", "squares 2/2: 1 done",
    ]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_threads_are_limited_after_torch_is_imported(monkeypatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        limit_threads(2)
        assert torch.get_num_threads() == 2
        limit_threads(None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(ModelError, match=r"device.*'cuda:99'.*cpu"):
        resolve_device("cuda:99")
