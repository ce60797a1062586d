"""Independent runs, mapped over this process, over worker processes, or over any `concurrent.futures.Executor`.

One failing run does not lose the others: all finish, and one error then names those that failed.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.progress import progress
from retrieval_heads.workers import Workers, limit_threads, release_gpu_memory, under_way

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


_kept: ContextVar[Workers | None] = ContextVar("kept workers", default=None)


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


def run_all(
    function: Function, keys: Sequence[Any], workers: int = 1, device: str = "cpu", *, threads: int | None = None,
    description: str = "runs", executor: Executor | None = None, group: Callable[[Any], Hashable] | None = None,
) -> list[Any]:
    """Call `function(key, device)` for each key.

    With several GPUs and the device `cuda`, each worker process sees one of them, as many processes each.

    Args:
        function: writes its own results; what it returns must be small.
        keys: one for each run; their `str` is the name in messages.
        workers: worker processes; with 1 the runs are made in this process, one after the other.
        device: handed on to the function; see `resolve_device`.
        threads: CPU threads a process; None leaves them as they are.
        description: what stands beside the bar.
        executor: used instead of worker processes, for instance a Dask client's.
        group: keys with the same value share work that a process remembers: they are made one after the other by few
            workers, and only as far apart as is needed for all workers to have work.

    Returns:
        What the function returned, in the order of the keys.

    Raises:
        ResultError: runs failed because of something that the user can mend; the message names each and says why.
        RuntimeError: a run failed because of a fault in the program; the message holds the tracebacks.
    """
    keys = list(keys)
    pieces = _pieces(keys, group, workers)
    if executor is not None:
        outcomes = _collect(_submitted(executor, function, keys, pieces, device), keys, description)
    elif workers <= 1 or len(keys) <= 1:
        outcomes = _collect(_serial(function, keys, pieces, device, threads), keys, description)
    else:
        with _shared_or_own(workers, threads, device, len(pieces)) as pool:
            outcomes = _collect(_pooled(pool, function, keys, pieces, device), keys, description)
    _raise_failures(keys, outcomes)
    return [outcomes[index].value for index in range(len(keys))]


def resolve_device(device: str) -> str:
    """The device to compute on: `auto` is `cuda` where there is a GPU, else the CPU.

    `cuda` keeps its name without a number: in each worker process it is the GPU that this process sees.

    Raises:
        ModelError: the device is not there.
    """
    import torch

    from retrieval_heads.models.folder import usable_device

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    return "cpu" if device == "auto" else str(usable_device(device))


def _pieces(keys: Sequence[Any], group: Callable[[Any], Hashable] | None, workers: int) -> list[list[int]]:
    """What one worker makes in one go, as places in `keys`: one key, or keys of one group.

    A group that would keep one worker busy for long is cut, so that there are about three pieces for each worker: fewer
    would let workers wait at the end, more would repeat more of what the keys of a group share.
    """
    if group is None:
        return [[index] for index in range(len(keys))]
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(group(key), []).append(index)
    longest = math.ceil(len(keys) / (3 * max(1, workers)))
    pieces = []
    for members in groups.values():
        size = math.ceil(len(members) / math.ceil(len(members) / longest))  # pieces of like size
        pieces += [members[start : start + size] for start in range(0, len(members), size)]
    return pieces


@contextmanager
def _shared_or_own(workers: int, threads: int | None, device: str, n_pieces: int) -> Iterator[Workers]:
    """The kept worker processes where they fit, else such for this block alone."""
    kept = _kept.get()
    if kept is None or not kept.fit(workers, threads, device):
        with Workers(min(workers, n_pieces), threads) as own:
            yield own
        return
    try:
        yield kept
    except BaseException:
        kept.kill()  # they would go on with what is left of these runs
        raise


def _collect(finished: Iterator[tuple[int, _Outcome]], keys: list[Any], description: str) -> dict[int, _Outcome]:
    outcomes: dict[int, _Outcome] = {}
    for index, outcome in progress(finished, description, total=len(keys)):
        outcomes[index] = outcome
        log.info("%s %d/%d: %s %s, %.1f s", description, len(outcomes), len(keys), keys[index],
                 "failed" if outcome.problem else "done", outcome.seconds)
    return outcomes


def _attempt(function: Function, key: Any, device: str) -> _Outcome:
    start = time.perf_counter()
    try:
        return _Outcome(function(key, device), time.perf_counter() - start)
    except StudyError as error:
        return _Outcome(seconds=time.perf_counter() - start, problem=str(error))
    except Exception as error:
        return _Outcome(seconds=time.perf_counter() - start, problem=f"{type(error).__name__}: {error}",
                        trace=traceback.format_exc())


def _attempts(function: Function, piece: list[tuple[int, Any]], device: str) -> list[_Outcome]:
    """One piece of the work, in whatever process: keys with their places."""
    outcomes = []
    for index, key in piece:
        with under_way(index):
            outcomes.append(_attempt(function, key, device))
        release_gpu_memory(device)
    return outcomes


def _serial(
    function: Function, keys: list[Any], pieces: list[list[int]], device: str, threads: int | None,
) -> Iterator[tuple[int, _Outcome]]:
    limit_threads(threads)
    for index in (index for piece in pieces for index in piece):
        yield index, _attempt(function, keys[index], device)


def _submitted(
    executor: Executor, function: Function, keys: list[Any], pieces: list[list[int]], device: str,
) -> Iterator[tuple[int, _Outcome]]:
    lost = _Outcome(problem="the worker process died, perhaps for want of memory: try fewer --workers", lost=True)
    places: dict[Future, list[int]] = {}
    try:
        for piece in pieces:
            places[executor.submit(_attempts, function, [(index, keys[index]) for index in piece], device)] = piece
    except BrokenProcessPool:
        yield from ((index, lost) for piece in pieces[len(places):] for index in piece)
    for future in as_completed(places):
        try:
            yield from zip(places[future], future.result(), strict=True)
        except BrokenProcessPool:
            yield from ((index, lost) for index in places[future])


def _pooled(
    workers: Workers, function: Function, keys: list[Any], pieces: list[list[int]], device: str,
) -> Iterator[tuple[int, _Outcome]]:
    """Worker processes. When one dies, all runs that are not finished are lost with it, and are tried again.

    Any of those that were under way may be the one that kills its process: each is tried in a process of its own.
    """
    while pieces:
        lost = set()
        for index, outcome in _submitted(workers.pool(device), function, keys, pieces, device):
            if outcome.lost:
                lost.add(index)
            else:
                yield index, outcome
        if not lost:
            return
        # a process may also die before it begins with anything, and then nothing is known
        suspects = lost.intersection(workers.close()) or lost
        for index in sorted(suspects):
            with Workers(1, workers.threads) as alone:
                yield from _submitted(alone.pool(device), function, keys, [[index]], device)
        rest = ([index for index in piece if index in lost - suspects] for piece in pieces)
        pieces = [piece for piece in rest if piece]


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
