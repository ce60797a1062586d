"""Where runs are made beside this process: in worker processes, or on the workers of a Dask cluster.

    dask scheduler                                                              # prints its address
    CUDA_VISIBLE_DEVICES=0 dask worker tcp://host:8786 --nthreads 1 --nworkers 1   # one per GPU, on every machine
    python -m retrieval_heads grid --profile report --scheduler tcp://host:8786 --home /shared/study

Results are files: the folder of `--home` and the checkout (or the base models' folders, by absolute paths) are to be
seen under the same paths on all machines. Scheduler and workers need this package with its extra `dask`.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any

from retrieval_heads.errors import ConfigError
from retrieval_heads.files import drop_begun
from retrieval_heads.manifest import versions

SAME_VERSIONS = ("retrieval-heads", "torch", "transformers", "peft", "distributed")
"""Packages on which results, or what is sent to a worker, depend."""

PATIENCE = 30
"""Seconds to wait for the scheduler and a first worker."""

IMPORTED = ("evaluation", "heads.ablate", "heads.scores", "heads.sweeps", "training.finetune")
"""Modules of this package whose imports, of torch and the model libraries, take seconds."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Workers:
    """At most so many worker processes, started when first needed; a failure of the `with` block ends them at once."""

    def __init__(self, number: int, threads: int | None) -> None:
        self.number, self.threads = number, threads
        self.device: str | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()

    def pool(self, device: str) -> ProcessPoolExecutor:
        """The pool, started anew where there is none; for `cuda` each process sees one of the GPUs, in turn."""
        if self._pool is None:
            context = begin_imports(device, self.threads)
            self.device, self._before = device, set(multiprocessing.active_children())
            gpus = visible_gpus() if device == "cuda" else []
            given = (dict(os.environ), self.threads, gpus, context.Value("q", 0))
            self._pool = ProcessPoolExecutor(self.number, context, _start, given)
        return self._pool

    def close(self) -> None:
        """Let the processes end, also where some have died."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def kill(self) -> None:
        """End the processes at once, whatever they have under way."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            for child in set(multiprocessing.active_children()) - self._before:
                child.terminate()


def begin_imports(device: str, threads: int | None) -> BaseContext:
    """How worker processes for a device are started, after what can be done for all of them in the background.

    Those that compute on a CPU are forked from one process, which the first call starts: it imports the libraries, once
    for all and while this process does something else, and then has neither threads nor anything under way.
    """
    # forked processes cannot use CUDA where the one they come from has looked at it; macOS cannot fork its libraries
    if device != "cpu" or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"retrieval_heads.{name}" for name in IMPORTED])
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process alone
    try:
        if threads is not None:  # numpy reads it when it is imported
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return context


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count()  # makes no context, which would take memory of the first GPU
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if given is None else given.split(",")
    return [name.strip() for name in names][:count]


def limit_threads(threads: int | None) -> None:
    """Let this process compute with so many CPU threads; works before and after torch is imported."""
    if threads is None:
        return
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _start(environment: dict[str, str], threads: int | None, gpus: list[str], started: Any) -> None:
    """In a new process: leave Ctrl-C to the parent, end when the parent is killed, take a GPU, limit the threads."""
    os.environ.clear()  # of the process it is forked from: that of some time ago
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        connection.wait([parent.sentinel])
        drop_begun()  # a process that has followed the parent may have seen this one alive, and let the file be
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    with started.get_lock():
        number = started.value
        started.value += 1
    if len(gpus) > 1:  # torch has not looked at the GPUs yet
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    limit_threads(threads)


@dataclass(frozen=True)
class Cluster:
    """What runs are sent to; `lost` is the error by which the executor says that a task ended its worker."""

    executor: Executor
    lost: type[Exception]


_current: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


def current_cluster() -> Cluster | None:
    """The cluster of the `connected` block that this is called in."""
    return _current.get()


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Let all `run_all` of the block send their runs to a cluster; nothing if the address is None.

    Args:
        address: of the scheduler, as it prints it: `tcp://host:port`.

    Raises:
        ConfigError: `distributed` is not installed, no scheduler or no worker is there, or one has other versions.
    """
    if address is None:
        yield
        return
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise _refusal("the package `distributed` is not installed", address,
                       "Install the extra: pip install 'retrieval-heads[dask]'.") from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:  # a connection that fails, or that takes too long, is an OSError
        raise _refusal("no scheduler answers", address, "Start one by `dask scheduler` and give the address that it "
                       "prints, such as tcp://host:8786.") from error
    with client:
        _check(client, address)
        # impure: otherwise a second trial is answered by the outcome of the first
        token = _current.set(Cluster(client.get_executor(pure=False), KilledWorker))
        try:
            yield
        finally:
            _current.reset(token)


def _check(client: Any, address: str) -> None:
    """Refuse a cluster that cannot do what this process would."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise _refusal(f"the scheduler has had no worker for {PATIENCE} s", address,
                       f"Start one per GPU: dask worker {address} --nthreads 1 --nworkers 1.") from error
    own = _versions()
    try:
        found = {"scheduler": client.run_on_scheduler(_versions), **client.run(_versions)}
    except Exception as error:  # whatever their own set-up raises
        raise _refusal(f"scheduler or workers cannot do what they are sent ({type(error).__name__}: {error})", address,
                       f"Install there what is here: {_listed(own)}.") from error
    for place, theirs in found.items():
        if theirs != own:
            raise _refusal(f"{place} has other versions ({_listed(theirs)}) than this process", address,
                           f"Install there what is here: {_listed(own)}.")


def _versions() -> dict[str, str]:
    """Those of this process; sent to the workers. What is new in a Python changes between its minor versions."""
    return {**versions(SAME_VERSIONS), "python": ".".join(platform.python_version_tuple()[:2])}


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _refusal(problem: str, address: str, remedy: str) -> ConfigError:
    return ConfigError(problem, where="--scheduler", value=address, remedy=remedy)
