"""Bars on a terminal; where output is piped, lines if a command asks for them; no trace in a rendered page."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS = 20.0
"""Least time between two lines on the same run."""

_lines: ContextVar[bool] = ContextVar("lines", default=False)
_run: ContextVar[str] = ContextVar("run", default="")
_told: dict[str, float] = {}


@contextmanager
def lines() -> Iterator[None]:
    """Within the block, what happens is told by lines on standard error where that is no terminal."""
    before = _lines.set(True)
    try:
        yield
    finally:
        _lines.reset(before)


@contextmanager
def named(run: str, what: str = "") -> Iterator[None]:
    """Within the block, bars and lines name what is going on, such as `run 2 of 3` and `A, seed 1: fine-tuning`."""
    before = _run.set(run)
    _told[run] = time.monotonic()
    if _piped():
        print(f"{run}: {what}" if what else run, file=sys.stderr, flush=True)
    try:
        yield
    finally:
        _run.reset(before)


def running() -> str:
    """The name of the run that is going on; empty outside of `named`."""
    return _run.get()


def tell(description: str, done: int, total: int | None) -> None:
    """A line such as `run 2 of 3, 40%: fine-tuning`, unless one was written a moment ago."""
    run, now = running(), time.monotonic()
    if run and total and _piped() and now - _told.get(run, 0.0) >= SECONDS:
        _told[run] = now
        print(f"{run}, {done / total:.0%}: {description}", file=sys.stderr, flush=True)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap `items` in a bar on standard error when that is a terminal, in lines where they are asked for."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if _piped() and running():
        return _with_lines(items, description, total)
    description = f"{running()}: {description}" if running() else description
    return tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)


def _with_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    for done, item in enumerate(items, start=1):
        yield item
        tell(description, done, total)


def _piped() -> bool:
    return _lines.get() and not sys.stderr.isatty()
