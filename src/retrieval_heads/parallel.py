"""Independent runs, made in this process, in worker processes, or on the workers of a Dask cluster.

One failing run does not lose the others: why it failed is told at once, the others finish, and one error then names all
that failed.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from retrieval_heads import paths
from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.files import clear_shortages
from retrieval_heads.progress import progress
from retrieval_heads.workers import Cluster, Workers, current_cluster, limit_threads

log = logging.getLogger(__name__)

Function = Callable[[Any, str], Any]
"""What is run: `function(key, device)`. For worker processes it must be importable by name (a `partial` of one is)."""

_kept: ContextVar[Workers | None] = ContextVar("kept workers", default=None)
_alone = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """How one run ended, as text where it failed: not every exception survives the way between processes.

    `trace` is the traceback of a fault in the program; of a `lost` run the process ended, so that nothing is known.
    """

    value: Any = None
    seconds: float = 0.0
    problem: str = ""
    trace: str = ""
    lost: bool = False


LOST = Outcome(problem="the worker process died, perhaps for want of memory: try fewer --workers", lost=True)


def run_all(
    function: Function, keys: Sequence[Any], workers: int = 1, device: str = "cpu", *, threads: int | None = None,
    description: str = "runs",
) -> list[Any]:
    """Call `function(key, device)` for each key.

    With several GPUs and the device `cuda`, each worker process sees one of them, as many processes each.

    Args:
        function: writes its own results; what it returns must be small.
        keys: one for each run; their `str` is the name in messages.
        workers: worker processes; with 1 the runs are made in this process, one after the other. Within
            `connected` it is the workers of the cluster that make them.
        device: handed on to the function; see `resolve_device`.
        threads: CPU threads per process; None leaves them as they are.
        description: what stands beside the bar.

    Returns:
        What the function returned, in the order of the keys.

    Raises:
        ResultError: runs failed because of something that the user can fix; the message names each and says why.
        RuntimeError: a run failed because of a fault in the program; the message holds the tracebacks.
    """
    keys, cluster = list(keys), current_cluster()
    if cluster is not None:
        outcomes = _collect(_on_cluster(cluster, function, keys, device, threads), keys, description)
    elif workers <= 1 or len(keys) <= 1:
        limit_threads(threads)
        outcomes = _collect(((n, _attempt(function, key, device)) for n, key in enumerate(keys)), keys, description)
    else:
        with _shared_or_own(workers, threads, device, len(keys)) as processes:
            outcomes = _collect(_in_processes(processes, function, keys, device), keys, description)
    _raise_failures(keys, outcomes)
    return [outcomes[index].value for index in range(len(keys))]


def resolve_device(device: str) -> str:
    """The device to compute on: `auto` is `cuda` where there is a GPU, else the CPU.

    `cuda` keeps its name without a number: in each worker process it is the GPU that this process sees. For a cluster
    every name is kept, and resolved by its workers.

    Raises:
        ModelError: the device is not there.
    """
    if current_cluster() is not None:
        return device
    import torch

    from retrieval_heads.models.load import usable_device

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    return "cpu" if device == "auto" else str(usable_device(device))


@contextmanager
def kept_workers(workers: int, threads: int | None = None) -> Iterator[None]:
    """Let all `run_all` of the block with these numbers share worker processes, which are started when first needed.

    A new process takes 5 to 15 s until it has imported torch and the model libraries.
    """
    with Workers(workers, threads) as kept:
        token = _kept.set(kept)
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def _shared_or_own(workers: int, threads: int | None, device: str, n_keys: int) -> Iterator[Workers]:
    """The kept worker processes where they fit (once started, they see the GPUs for one device), else new ones."""
    kept = _kept.get()
    if kept is None or (kept.number, kept.threads) != (workers, threads) or kept.device not in (None, device):
        with Workers(min(workers, n_keys), threads) as own:
            yield own
        return
    try:
        yield kept
    except BaseException:
        kept.kill()  # they would go on with what is left of these runs
        raise


def _in_processes(
    processes: Workers, function: Function, keys: list[Any], device: str,
) -> Iterator[tuple[int, Outcome]]:
    """When a process dies, all runs that are not finished are lost with it, and are tried again.

    Runs are begun in order, so the first of those left were under way. Any of them may be the one that kills its
    process: each is tried in a process of its own.
    """
    left = list(range(len(keys)))
    while left:
        lost = []
        for index, outcome in _submitted(processes.pool(device), function, {n: keys[n] for n in left}, device):
            if outcome.lost:
                lost.append(index)
            else:
                yield index, outcome
        if lost:
            processes.close()
        suspects, left = sorted(lost)[: processes.number], sorted(lost)[processes.number :]
        for index in suspects:
            with Workers(1, processes.threads) as alone:
                yield from _submitted(alone.pool(device), function, {index: keys[index]}, device)


def _on_cluster(
    cluster: Cluster, function: Function, keys: list[Any], device: str, threads: int | None,
) -> Iterator[tuple[int, Outcome]]:
    """A cluster has tried the runs of a lost worker on others, all of them: now each is tried by itself."""
    remote, lost = partial(_remote, function, str(paths.home()), threads), []
    try:
        for index, outcome in _submitted(cluster.executor, remote, dict(enumerate(keys)), device, cluster.lost):
            if outcome.lost:
                lost.append(index)
            else:
                yield index, outcome
        for index in sorted(lost):
            yield from _submitted(cluster.executor, remote, {index: keys[index]}, device, cluster.lost)
    except CancelledError as error:
        raise ResultError("the connection to the scheduler was lost", where="--scheduler",
                          remedy="Start it again, with workers, and give the same command again.") from error


def _submitted(
    executor: Executor, function: Function, keys: Mapping[int, Any], device: str,
    lost_by: type[Exception] = BrokenProcessPool,
) -> Iterator[tuple[int, Outcome]]:
    """The runs of an executor as they end; `lost_by` is its error for a run whose process has ended."""
    futures = {}
    try:
        for index, key in keys.items():
            futures[executor.submit(_attempt, function, key, device)] = index
    except lost_by:
        yield from ((index, LOST) for index in list(keys)[len(futures):])
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except lost_by:
            yield futures[future], LOST


def _attempt(function: Function, key: Any, device: str) -> Outcome:
    """Run one key, in whatever process, and never raise."""
    start, value, problem, trace = time.perf_counter(), None, "", ""
    try:
        with clear_shortages():
            value = function(key, device)
    except StudyError as error:
        problem = str(error)
    except Exception as error:
        problem, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    # here the exception is gone, and with it what its frames held in the memory of the device; what torch keeps and
    # does not use would be missing to the other processes on this GPU
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()
    return Outcome(value, time.perf_counter() - start, problem, trace)


def _remote(function: Function, home: str, threads: int | None, key: Any, device: str) -> Any:
    """A run on a worker of a cluster, which knows nothing of the process that sends it."""
    # runs set the state of whole libraries (seeds, hooks, verbosity): a worker of many threads makes one at a time
    with _alone:
        os.environ[paths.HOME_VARIABLE] = home
        limit_threads(threads)
        return function(key, resolve_device(device))


def _collect(finished: Iterator[tuple[int, Outcome]], keys: list[Any], description: str) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    for index, outcome in progress(finished, description, total=len(keys)):
        outcomes[index] = outcome
        place = f"{description} {len(outcomes)}/{len(keys)}: {keys[index]}"
        if outcome.problem:
            log.warning("%s failed, %.1f s: %s", place, outcome.seconds, outcome.problem)
        else:
            log.info("%s done, %.1f s", place, outcome.seconds)
    return outcomes


def _raise_failures(keys: list[Any], outcomes: dict[int, Outcome]) -> None:
    """One error for all runs that failed, with the tracebacks if any of them is a fault in the program."""
    failed = [(keys[index], outcome) for index, outcome in sorted(outcomes.items()) if outcome.problem]
    if not failed:
        return
    summary = f"{len(failed)} of {len(keys)} runs failed"
    if traces := [f"{key}:\n{outcome.trace}" for key, outcome in failed if outcome.trace]:
        raise RuntimeError("\n\n".join([f"{summary}: {', '.join(str(key) for key, _ in failed)}", *traces]))
    alike: dict[str, list[str]] = {}  # what all runs stumble over, a broken base model say, is told once
    for key, outcome in failed:
        alike.setdefault(outcome.problem, []).append(str(key))
    reasons = "; ".join(f"{', '.join(names)}: {problem}" for problem, names in alike.items())
    raise ResultError(f"{summary}: {reasons.rstrip('.')}",
                      remedy="The others are kept: fix this and give the same command again.")
