"""Worker processes: started when first needed, spread over the GPUs, ended with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

from retrieval_heads.files import drop_begun

NOTHING = -1
"""Stands in the list of what is under way for a process that has nothing to do."""


class Workers:
    """Worker processes that stay until the end of a `with` block; an exception in the block ends them at once.

    Args:
        number: most processes; no more are started than there is work for.
        threads: CPU threads a process; None leaves them as they are.
    """

    def __init__(self, number: int, threads: int | None = None) -> None:
        self.number, self.threads = number, threads
        self._pool: ProcessPoolExecutor | None = None
        self._device: str | None = None
        self._before: set[Any] = set()
        self._under_way: Any = ()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.kill()

    def fit(self, number: int, threads: int | None, device: str) -> bool:
        """Whether these are what somebody asks for: once started, they see the GPUs for one device only."""
        return (self.number, self.threads) == (number, threads) and self._device in (None, device)

    def pool(self, device: str) -> ProcessPoolExecutor:
        """The pool, started anew where there is none; for `cuda` each process sees one of the GPUs, in turn."""
        if self._pool is None:
            # spawn: a forked process can neither use CUDA nor torch's thread pool
            context = multiprocessing.get_context("spawn")
            self._device, self._before = device, set(multiprocessing.active_children())
            # without a lock, which a dying process could hold: each writes in a place of its own
            self._under_way = context.RawArray("q", [NOTHING] * self.number)
            gpus = visible_gpus() if device == "cuda" else []
            self._pool = ProcessPoolExecutor(
                self.number, context, _start, (self.threads, gpus, context.Value("q", 0), self._under_way),
            )
        return self._pool

    def close(self) -> list[int]:
        """Let the processes end, also where some have died; the marks of what these and the others had under way."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        return [mark for mark in self._under_way if mark != NOTHING]

    def kill(self) -> None:
        """End the processes at once, whatever they have under way."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            for child in set(multiprocessing.active_children()) - self._before:
                child.terminate()


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
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


_own_place: tuple[Any, int] | None = None
"""In a worker process: the list of what is under way, and the place of this process in it."""


@contextmanager
def under_way(mark: int) -> Iterator[None]:
    """Let the parent know what this worker process is at, should it die; nothing in other processes."""
    if _own_place is None:
        yield
        return
    marks, place = _own_place
    marks[place] = mark
    try:
        yield
    finally:
        marks[place] = NOTHING


def release_gpu_memory(device: str) -> None:
    """Give back what torch holds and does not use: it would be missing to the other processes on this GPU."""
    if device.startswith("cuda") and "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def _start(threads: int | None, gpus: list[str], started: Any, marks: Any) -> None:
    """In a new process: leave Ctrl-C to the parent, end when the parent is killed, take a GPU, limit the threads."""
    global _own_place
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
    _own_place = marks, number % len(marks)
    if len(gpus) > 1:  # torch has not looked at the GPUs yet
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    limit_threads(threads)
