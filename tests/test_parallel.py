"""Runs are mapped over this process or worker processes, and one failing run does not lose the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from retrieval_heads import workers
from retrieval_heads.errors import DataError, ModelError, ResultError
from retrieval_heads.parallel import kept_workers, resolve_device, run_all
from retrieval_heads.workers import begin_imports, limit_threads, visible_gpus


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


def process(key: int, device: str) -> int:
    return os.getpid()


def gpu_of_process(n: int, folder: Path, key: int, device: str) -> tuple[int, str | None]:
    """Waits until `n` processes have one key each, so that none of them gets two."""
    (folder / f"{device}-{key}").touch()
    _wait_until(lambda: len(list(folder.glob(f"{device}-*"))) >= n)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def dies_at_first(folder: Path, key: int, device: str) -> int:
    """Key 2 kills its process once, after which all are told apart by the process that they are made in."""
    if key == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / str(key)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def sleeps(folder: Path, key: int, device: str) -> None:
    for one in (os.getpid(), os.getppid()):  # that which it is forked from has to end, too
        (folder / str(one)).touch()
    time.sleep(60)


def libraries_and_home(key: int, device: str) -> tuple[bool, str]:
    return "torch" in sys.modules, os.environ["RETRIEVAL_HEADS_HOME"]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_keys(workers: int) -> None:
    assert run_all(square, [3, 1, 2], workers, "cpu") == [(9, "cpu"), (1, "cpu"), (4, "cpu")]
    assert run_all(square, [], workers) == []


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker process imports the libraries itself")
def test_workers_begin_with_the_libraries_and_the_environment_of_the_moment(monkeypatch) -> None:
    for home in ("one", "another"):
        monkeypatch.setenv("RETRIEVAL_HEADS_HOME", home)
        assert run_all(libraries_and_home, range(2), 2) == [(True, home)] * 2


def test_what_is_set_for_the_libraries_of_workers_is_not_left_behind(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    begin_imports("cpu", 1)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_kept_workers_serve_one_call_after_the_other(tmp_path: Path) -> None:
    with kept_workers(2, threads=3):
        found = [set(run_all(process, range(6), 2, threads=3)) for _ in range(3)]
        other = set(run_all(process, range(6), 2, threads=1))
        with pytest.raises(ResultError):
            run_all(partial(fails_on_odd, tmp_path), range(4), 2, threads=3)
        last = set(run_all(process, range(6), 2, threads=3))
    everyone = set.union(*found, last)
    assert len(everyone) <= 2
    assert os.getpid() not in everyone
    assert not everyone & other
    _wait_until(lambda: not any(map(_runs, everyone)))


def test_kept_workers_are_not_started_without_need() -> None:
    with kept_workers(2):
        assert run_all(square, [], 2) == []
        assert run_all(process, [1], 2) == [os.getpid()]
        assert not multiprocessing.active_children()


def test_kept_workers_are_replaced_after_one_has_died(tmp_path: Path) -> None:
    with kept_workers(2):
        first = set(run_all(process, range(6), 2))
        assert len(run_all(partial(dies_at_first, tmp_path), [1, 2, 3], 2)) == 3
        last = set(run_all(process, range(6), 2))
        assert set(run_all(process, range(6), 2)) <= last
    assert not first & last


def test_only_what_was_under_way_is_tried_in_processes_of_its_own(tmp_path: Path) -> None:
    keys = list(range(12))
    assert len(run_all(partial(dies_at_first, tmp_path), keys, 2)) == len(keys)
    made_in = [(tmp_path / str(key)).read_text().split()[-1] for key in keys]
    # the one that killed its process, and perhaps what the other process was at and another that it finished meanwhile
    assert made_in.count(made_in[2]) == 1
    assert len(set(made_in)) <= 6


@pytest.mark.parametrize(("given", "gpus"), [(None, ["0", "1"]), ("5, 3", ["5", "3"]), ("GPU-a,GPU-b,-1", None)])
def test_worker_processes_are_spread_evenly_over_the_gpus(given, gpus, monkeypatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    found = run_all(partial(gpu_of_process, 4, tmp_path), range(4), 4, "cuda")
    assert len({process for process, _ in found}) == 4
    assert sorted(gpu for _, gpu in found) == sorted((gpus or ["GPU-a", "GPU-b"]) * 2)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given


@pytest.mark.parametrize(("device", "names"), [("cuda", ["7"]), ("cuda:1", ["7", "8"]), ("cpu", ["7", "8"])])
def test_a_single_gpu_or_one_chosen_by_its_number_is_left_alone(device, names, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    monkeypatch.setattr(workers, "visible_gpus", lambda: names)
    found = run_all(partial(gpu_of_process, 2, tmp_path), range(2), 2, device)
    assert [gpu for _, gpu in found] == ["all", "all"]


def test_without_gpus_none_is_visible() -> None:
    import torch

    if not torch.cuda.is_available():
        assert visible_gpus() == []


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("sign", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_workers_do_not_outlive_a_killed_or_interrupted_parent(
    sign: int, status: int, kept: bool, tmp_path: Path,
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import functools, pathlib, signal, test_parallel as t\n"
        # a test run in the background ignores Ctrl-C, and so would everything that it starts
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run():\n"
        f"    t.run_all(functools.partial(t.sleeps, pathlib.Path({str(tmp_path)!r})), [1, 2], workers=2)\n"
        "def run_kept():\n"
        "    with t.kept_workers(2): run()\n"
        f"try: {'run_kept' if kept else 'run'}()\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_until(lambda: len(list(tmp_path.iterdir())) == 3, 120)  # the imports take long on a busy machine
    parent.send_signal(sign)
    assert parent.wait(timeout=30) == status
    workers = [int(path.name) for path in tmp_path.iterdir()]
    _wait_until(lambda: not any(_runs(process) for process in workers))


def _wait_until(condition, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds} s"
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


def test_why_a_run_failed_is_told_at_once(caplog, tmp_path: Path) -> None:
    def fails_on_odd_then_counts(key: int, device: str) -> None:
        told.append(caplog.text.count("odd (got 1). Use even ones."))
        fails_on_odd(tmp_path, key, device)

    told: list[int] = []
    with pytest.raises(ResultError):
        run_all(fails_on_odd_then_counts, [0, 1, 2])
    assert told == [0, 0, 1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


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
