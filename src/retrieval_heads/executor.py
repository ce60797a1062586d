"""Independent runs, mapped over this process, over worker processes, or over any `concurrent.futures.Executor`, for
instance that of a cluster.

One failing run does not lose the others: all finish, and one error then names those that failed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from retrieval_heads.cluster import Cluster, current_cluster, on_worker
from retrieval_heads.errors import ResultError
from retrieval_heads.outcomes import Function, Outcome, attempt, attempts, raise_failures
from retrieval_heads.progress import progress
from retrieval_heads.workers import Workers, limit_threads

log = logging.getLogger(__name__)

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
        workers: worker processes; with 1 the runs are made in this process, one after the other. Within `connected` it
            is the workers of the cluster that make them.
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
    keys, cluster = list(keys), current_cluster()
    pieces = _pieces(keys, group, cluster.workers if cluster else workers)
    if executor is None and cluster is not None:
        outcomes = _collect(_clustered(cluster, on_worker(function, threads), keys, pieces, device), keys, description)
    elif executor is not None:
        outcomes = _collect(_submitted(executor, function, keys, pieces, device), keys, description)
    elif workers <= 1 or len(keys) <= 1:
        outcomes = _collect(_serial(function, keys, pieces, device, threads), keys, description)
    else:
        with _shared_or_own(workers, threads, device, len(pieces)) as pool:
            outcomes = _collect(_pooled(pool, function, keys, pieces, device), keys, description)
    raise_failures(keys, outcomes)
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


def _collect(finished: Iterator[tuple[int, Outcome]], keys: list[Any], description: str) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    for index, outcome in progress(finished, description, total=len(keys)):
        outcomes[index] = outcome
        log.info("%s %d/%d: %s %s, %.1f s", description, len(outcomes), len(keys), keys[index],
                 "failed" if outcome.problem else "done", outcome.seconds)
    return outcomes


def _serial(
    function: Function, keys: list[Any], pieces: list[list[int]], device: str, threads: int | None,
) -> Iterator[tuple[int, Outcome]]:
    limit_threads(threads)
    for index in (index for piece in pieces for index in piece):
        yield index, attempt(function, keys[index], device)


def _submitted(
    executor: Executor, function: Function, keys: list[Any], pieces: list[list[int]], device: str,
    lost_by: tuple[type[Exception], ...] = (BrokenProcessPool,),
) -> Iterator[tuple[int, Outcome]]:
    lost = Outcome(problem="the worker process died, perhaps for want of memory: try fewer --workers", lost=True)
    places: dict[Future, list[int]] = {}
    try:
        for piece in pieces:
            places[executor.submit(attempts, function, [(index, keys[index]) for index in piece], device)] = piece
    except lost_by:
        yield from ((index, lost) for piece in pieces[len(places):] for index in piece)
    for future in as_completed(places):
        try:
            yield from zip(places[future], future.result(), strict=True)
        except lost_by:
            yield from ((index, lost) for index in places[future])


def _clustered(
    cluster: Cluster, function: Function, keys: list[Any], pieces: list[list[int]], device: str,
) -> Iterator[tuple[int, Outcome]]:
    """A cluster. It has tried the runs of a lost worker on others, all of them: now each is tried by itself."""
    lost = []
    try:
        for index, outcome in _submitted(cluster.executor, function, keys, pieces, device, cluster.lost):
            if outcome.lost:
                lost.append(index)
            else:
                yield index, outcome
        for index in sorted(lost):
            yield from _submitted(cluster.executor, function, keys, [[index]], device, cluster.lost)
    except CancelledError as error:
        raise ResultError("the connection to the scheduler was lost", where="--scheduler",
                          remedy="Start it again, with workers, and give the same command again.") from error


def _pooled(
    workers: Workers, function: Function, keys: list[Any], pieces: list[list[int]], device: str,
) -> Iterator[tuple[int, Outcome]]:
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
