"""Independent runs, mapped over this process, over worker processes, or over any `concurrent.futures.Executor`.

One failing run does not lose the others: all finish, and one error then names those that failed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.progress import progress

log = logging.getLogger(__name__)

Function = Callable[[Any, str], Any]
"""What is run: `function(key, device)`. For worker processes it must be importable by name (a `partial` of one is)."""


@dataclass(frozen=True)
class _Outcome:
    """How one run ended, as text where it failed: not every exception survives the way between processes."""

    value: Any = None
    seconds: float = 0.0
    problem: str = ""
    trace: str = ""
    lost: bool = False


def run_all(
    function: Function, keys: Sequence[Any], workers: int = 1, device: str = "cpu", *, threads: int | None = None,
    description: str = "runs", executor: Executor | None = None,
) -> list[Any]:
    """Call `function(key, device)` for each key.

    Args:
        function: writes its own results; what it returns must be small.
        keys: one for each run; their `str` is the name in messages.
        workers: worker processes; with 1 the runs are made in this process, one after the other.
        device: handed on to the function.
        threads: CPU threads a process; None leaves them as they are.
        description: what stands beside the bar.
        executor: used instead of worker processes, for instance a Dask client's.

    Returns:
        What the function returned, in the order of the keys.

    Raises:
        ResultError: runs failed because of something that the user can mend; the message names each and says why.
        RuntimeError: a run failed because of a fault in the program; the message holds the tracebacks.
    """
    keys = list(keys)
    if executor is not None:
        finished = _submitted(executor, function, keys, device)
    elif workers <= 1 or len(keys) <= 1:
        finished = _serial(function, keys, device, threads)
    else:
        finished = _pooled(function, keys, device, min(workers, len(keys)), threads)
    outcomes: dict[int, _Outcome] = {}
    for index, outcome in progress(finished, description, total=len(keys)):
        outcomes[index] = outcome
        log.info("%s %d/%d: %s %s, %.1f s", description, len(outcomes), len(keys), keys[index],
                 "failed" if outcome.problem else "done", outcome.seconds)
    _raise_failures(keys, outcomes)
    return [outcomes[index].value for index in range(len(keys))]


def limit_threads(threads: int | None) -> None:
    """Let this process compute with so many CPU threads; works before and after torch is imported."""
    if threads is None:
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def resolve_device(device: str) -> str:
    """The device to compute on: `auto` is the first GPU where there is one, else the CPU.

    Raises:
        ModelError: the device is not there.
    """
    import torch

    from retrieval_heads.models.folder import usable_device

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(usable_device(device))


def _attempt(function: Function, key: Any, device: str) -> _Outcome:
    start = time.perf_counter()
    try:
        return _Outcome(function(key, device), time.perf_counter() - start)
    except StudyError as error:
        return _Outcome(seconds=time.perf_counter() - start, problem=str(error))
    except Exception as error:
        return _Outcome(seconds=time.perf_counter() - start, problem=f"{type(error).__name__}: {error}",
                        trace=traceback.format_exc())


def _serial(
    function: Function, keys: list[Any], device: str, threads: int | None,
) -> Iterator[tuple[int, _Outcome]]:
    limit_threads(threads)
    for index, key in enumerate(keys):
        yield index, _attempt(function, key, device)


def _submitted(
    executor: Executor, function: Function, keys: list[Any], device: str,
) -> Iterator[tuple[int, _Outcome]]:
    lost = _Outcome(problem="the worker process died, perhaps for want of memory: try fewer --workers", lost=True)
    places: dict[Future, int] = {}
    try:
        for index, key in enumerate(keys):
            places[executor.submit(_attempt, function, key, device)] = index
    except BrokenProcessPool:
        yield from ((index, lost) for index in range(len(places), len(keys)))
    for future in as_completed(places):
        try:
            yield places[future], future.result()
        except BrokenProcessPool:
            yield places[future], lost


def _pooled(
    function: Function, keys: list[Any], device: str, workers: int, threads: int | None,
) -> Iterator[tuple[int, _Outcome]]:
    """Worker processes; when one dies, the runs lost with it are tried again, each in a process of its own."""
    lost = []
    for index, outcome in _one_pool(function, keys, device, workers, threads):
        if outcome.lost:
            lost.append(index)
        else:
            yield index, outcome
    for index in lost:
        for _, outcome in _one_pool(function, [keys[index]], device, 1, threads):
            yield index, outcome


def _one_pool(
    function: Function, keys: list[Any], device: str, workers: int, threads: int | None,
) -> Iterator[tuple[int, _Outcome]]:
    # spawn: a forked process can neither use CUDA nor torch's thread pool
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (threads,))
    try:
        yield from _submitted(pool, function, keys, device)
        pool.shutdown()
    except BaseException:
        # without this an interrupted command would wait for the runs that are under way
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise


def _start_worker(threads: int | None) -> None:
    """In a new worker process: leave Ctrl-C to the parent, end when the parent is killed, limit the threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    limit_threads(threads)


def _raise_failures(keys: list[Any], outcomes: dict[int, _Outcome]) -> None:
    failed = {index: outcome for index, outcome in sorted(outcomes.items()) if outcome.problem}
    if not failed:
        return
    summary = f"{len(failed)} of {len(keys)} runs failed"
    traces = [f"{keys[index]}:\n{outcome.trace}" for index, outcome in failed.items() if outcome.trace]
    if traces:
        raise RuntimeError("\n\n".join([f"{summary}: {', '.join(str(keys[index]) for index in failed)}", *traces]))
    alike: dict[str, list[str]] = {}  # what all runs stumble over, a broken base model say, is told once
    for index, outcome in failed.items():
        alike.setdefault(outcome.problem, []).append(str(keys[index]))
    reasons = "; ".join(f"{', '.join(names)}: {problem}" for problem, names in alike.items())
    raise ResultError(f"{summary}: {reasons.rstrip('.')}",
                      remedy="The others are kept: mend this and give the same command again.")
