"""Runs on the workers of a Dask cluster, on this machine or others, through the executor that its client gives.

    dask scheduler                                                              # prints its address
    CUDA_VISIBLE_DEVICES=0 dask worker tcp://host:8786 --nthreads 1 --nworkers 1   # one a GPU, on every machine
    python -m retrieval_heads grid --profile report --scheduler tcp://host:8786 --home /shared/study

Results are files: the folder of `--home` and the checkout (or the base models' folders, by absolute paths) are to be
seen under the same paths on all machines. Scheduler and workers need this package with its extra `dask`.

Dask gives the tasks of a lost worker to another one. A run that has lost its worker several times is given up for the
one that ends them, unless it succeeds in a last trial by itself; see `executor`.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError
from retrieval_heads.manifest import versions
from retrieval_heads.workers import limit_threads, release_gpu_memory

SAME_VERSIONS = ("retrieval-heads", "torch", "transformers", "peft", "distributed")
"""Packages on which results, or what is sent to a worker, depend."""

PATIENCE = 30
"""Seconds to wait for the scheduler and a first worker."""

_alone = threading.Lock()


@dataclass(frozen=True)
class Cluster:
    """What runs are sent to.

    Attributes:
        executor: of the client.
        workers: how many there are now; more may come.
        lost: the errors by which the executor says that a task ended its worker.
    """

    executor: Executor
    workers: int
    lost: tuple[type[Exception], ...]


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
        workers = _checked(client, address)
        # impure: otherwise a second trial is answered by the outcome of the first
        token = _current.set(Cluster(client.get_executor(pure=False), workers, (KilledWorker,)))
        try:
            yield
        finally:
            _current.reset(token)


def on_worker(function: Callable[[Any, str], Any], threads: int | None) -> Callable[[Any, str], Any]:
    """A function of `run_all`, to be called in a worker process that knows nothing of this one."""
    return partial(_work, function, str(paths.home()), threads)


def _work(function: Callable[[Any, str], Any], home: str, threads: int | None, key: Any, device: str) -> Any:
    from retrieval_heads.executor import resolve_device

    # runs set the state of whole libraries (seeds, hooks, verbosity): a worker of many threads makes one at a time
    with _alone:
        os.environ[paths.HOME_VARIABLE] = home
        limit_threads(threads)
        device = resolve_device(device)
        try:
            return function(key, device)
        finally:
            release_gpu_memory(device)


def _checked(client: Any, address: str) -> int:
    """How many workers there are, if they can do what this process would."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise _refusal(f"the scheduler has had no worker for {PATIENCE} s", address,
                       f"Start one a GPU: dask worker {address} --nthreads 1 --nworkers 1.") from error
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
    return len(found) - 1


def _versions() -> dict[str, str]:
    """Those of this process; sent to the workers. What is new in a Python changes between its minor versions."""
    return {**versions(SAME_VERSIONS), "python": ".".join(platform.python_version_tuple()[:2])}


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _refusal(problem: str, address: str, remedy: str) -> ConfigError:
    return ConfigError(problem, where="--scheduler", value=address, remedy=remedy)
