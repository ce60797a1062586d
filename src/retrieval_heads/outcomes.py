"""How runs end, as text where they fail: not every exception survives the way between processes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.shortage import shortage
from retrieval_heads.workers import release_gpu_memory, under_way

Function = Callable[[Any, str], Any]
"""What is run: `function(key, device)`. For worker processes it must be importable by name (a `partial` of one is)."""


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        value: what the function returned.
        seconds: how long it took.
        problem: why it failed; empty if it did not.
        trace: the traceback of a fault in the program.
        lost: whether its process ended, so that nothing is known of it.
    """

    value: Any = None
    seconds: float = 0.0
    problem: str = ""
    trace: str = ""
    lost: bool = False


def attempt(function: Function, key: Any, device: str) -> Outcome:
    """Run one key, and never raise."""
    start = time.perf_counter()
    try:
        return Outcome(function(key, device), time.perf_counter() - start)
    except StudyError as error:
        return Outcome(seconds=time.perf_counter() - start, problem=str(error))
    except Exception as error:
        seconds, short = time.perf_counter() - start, shortage(error)
        if short is None:
            return Outcome(seconds=seconds, problem=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    # here the exception is gone, and with it what its frames held in the memory of the device
    release_gpu_memory(device)
    return Outcome(seconds=seconds, problem=str(short))


def attempts(function: Function, piece: list[tuple[int, Any]], device: str) -> list[Outcome]:
    """One piece of the work, in whatever process: keys with their places."""
    outcomes = []
    for index, key in piece:
        with under_way(index):
            outcomes.append(attempt(function, key, device))
        release_gpu_memory(device)
    return outcomes


def raise_failures(keys: list[Any], outcomes: dict[int, Outcome]) -> None:
    """One error for all runs that failed, with the tracebacks if any of them is a fault in the program."""
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
