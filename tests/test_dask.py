"""The grid over a Dask cluster: a scheduler and two workers as separate processes, one of which is killed."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from model_folders import digests
from tiny_study import save_tiny_base, write_profile

from retrieval_heads import cli, paths, workers
from retrieval_heads.errors import ConfigError, ResultError
from retrieval_heads.parallel import run_all
from retrieval_heads.workers import connected, current_cluster

distributed = pytest.importorskip("distributed")

TIMEOUT = 60


def dask_worker(arguments: list[str]) -> None:
    """What `dask worker` does, in a process that was forked after the imports."""
    from distributed.cli.dask_worker import main

    main(arguments, standalone_mode=False)


class Processes:
    """A scheduler and workers, by the commands that a user gives."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{port}"
        # the scheduler looks up the functions that pass through it, also those of this file
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        self.scheduler = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port,
             "--no-dashboard", "--no-jupyter"], stderr=subprocess.DEVNULL, cwd=folder, env=environment)

    def add_workers(self, number: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["retrieval_heads.stages.grid", "distributed.cli.dask_worker", "test_dask",
                                        "transformers.models.llama.modeling_llama"])
        for _ in range(number):
            arguments = [self.address, "--nthreads", "1", "--nworkers", "1", "--no-nanny", "--no-dashboard",
                         "--local-directory", str(self.folder)]
            self.workers.append(context.Process(target=dask_worker, args=(arguments,)))
            self.workers[-1].start()

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join(TIMEOUT)
        self.scheduler.kill()
        self.scheduler.wait(TIMEOUT)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    started = Processes(tmp_path_factory.mktemp("cluster"))
    started.add_workers(2)
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))


def kill_a_busy_worker(address: str, home: Path, after_parts: int, killed: list) -> None:
    """Kill a worker that has a run under way, once so many parts are there; notes what it was at."""
    deadline = time.monotonic() + TIMEOUT
    with distributed.Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        while time.monotonic() < deadline:
            busy = {worker: tasks for worker, tasks in client.processing().items() if tasks}
            if busy and len(list(home.glob("runs/*/parts/*/[!.]*.csv"))) >= after_parts:
                worker = next(iter(busy))
                os.kill(pids[worker], signal.SIGKILL)
                killed.append({"tasks": len(busy[worker]), "tables": list(home.glob("runs/*/tables/*.csv"))})
                return
            time.sleep(0.1)


def test_a_grid_that_loses_a_worker_gives_the_serial_tables(processes, tmp_path):
    profile = write_profile(tmp_path / "tiny.yaml", save_tiny_base(tmp_path / "base"))
    serial, spread = tmp_path / "serial", tmp_path / "spread"
    assert cli.main(["grid", "--profile", str(profile), "--home", str(serial)]) == 0
    killed: list = []
    killer = threading.Thread(target=kill_a_busy_worker, args=(processes.address, spread, 2, killed))
    killer.start()
    line = ["grid", "--profile", str(profile), "--home", str(spread), "--scheduler", processes.address]
    assert cli.main(line) == 0
    killer.join(TIMEOUT)
    assert len(killed) == 1
    assert killed[0]["tasks"] >= 1
    assert killed[0]["tables"] == []
    assert [worker.exitcode for worker in processes.workers].count(-signal.SIGKILL) == 1
    tables = sorted(path.relative_to(serial) for path in serial.glob("runs/*/tables/*.csv"))
    assert {path.stem for path in tables} >= {"performance", "head_scores", "knockout", "patching"}
    assert tables == sorted(path.relative_to(spread) for path in spread.glob("runs/*/tables/*.csv"))
    for path in tables:
        assert (spread / path).read_bytes() == (serial / path).read_bytes(), path
    for folder in serial.glob("runs/*/adapters/[!.]*"):
        assert digests(spread / folder.relative_to(serial)) == digests(folder)


def seen(key: str, device: str) -> dict:
    return {"key": key, "device": device, "home": str(paths.home()), "pid": os.getpid(),
            "threads": os.environ["OMP_NUM_THREADS"]}


def end_the_process(key: str, device: str) -> str:
    if key == "deadly":
        os._exit(1)
    return key


def test_workers_get_the_home_folder_and_resolve_the_device(processes, tmp_path):
    processes.add_workers(1)
    with connected(processes.address):
        found = run_all(seen, ["a", "b"], device="auto", threads=2)
    assert [one["key"] for one in found] == ["a", "b"]
    assert {(one["device"], one["home"], one["threads"]) for one in found} == {("cpu", str(tmp_path / "home"), "2")}
    assert os.getpid() not in {one["pid"] for one in found}
    assert current_cluster() is None


def test_a_run_that_ends_its_workers_is_named_and_others_are_kept(processes, monkeypatch):
    processes.add_workers(1)
    kept, submitted = [], []
    with connected(processes.address):
        client = current_cluster().executor._client
        # otherwise Dask gives up after the fourth worker
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
        submit = current_cluster().executor.submit

        def spy(function, *arguments):
            submitted.append(arguments[1])
            # the second trial needs a worker again
            processes.add_workers(len(submitted) > 3)
            return submit(function, *arguments)

        monkeypatch.setattr(current_cluster().executor, "submit", spy)
        with pytest.raises(ResultError, match="1 of 3 runs failed: deadly: the worker process died"):
            run_all(end_the_process, ["a", "deadly", "b"], device="cpu")
        kept += run_all(end_the_process, ["a", "b"], device="cpu")
    assert submitted.count("deadly") == 2
    assert kept == ["a", "b"]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "ftp://127.0.0.1:9"])
def test_no_scheduler(address, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.3)
    with pytest.raises(ConfigError, match="dask scheduler"), connected(address):
        pass


def test_workers_must_have_the_same_versions(processes, monkeypatch):
    processes.add_workers(1)
    own = workers._versions()
    monkeypatch.setattr(workers, "versions", lambda packages: dict.fromkeys(packages, "0"))
    with pytest.raises(ConfigError, match=re.escape(f"has other versions (python {own['python']}")), \
            connected(processes.address):
        pass


def test_no_worker_in_time(monkeypatch, tmp_path):
    lonely = Processes(tmp_path)
    try:
        distributed.Client(lonely.address, timeout=TIMEOUT, set_as_default=False).close()
        monkeypatch.setattr(workers, "PATIENCE", 0.3)
        with pytest.raises(ConfigError, match="no worker for"), connected(lonely.address):
            pass
    finally:
        lonely.close()


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"retrieval-heads\[dask\]"), connected("tcp://127.0.0.1:9"):
        pass
