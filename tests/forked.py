"""Commands in processes of their own, which can be killed; forked after the imports, which saves four seconds each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from retrieval_heads import cli

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["retrieval_heads.stages.claims", "retrieval_heads.diagnose.report",
                                 "retrieval_heads.rank.job", "forked"])


def start(arguments: list[str]) -> BaseProcess:
    """A process that does what `python -m retrieval_heads ARGUMENTS` does."""
    process = _context.Process(target=_command, args=(arguments,))
    process.start()
    return process


def _command(arguments: list[str]) -> None:
    sys.exit(cli.main(arguments))


def exit_code(process: BaseProcess) -> int | None:
    process.join(1800)  # a limit for what hangs, on a machine however busy
    return process.exitcode


def files(home: Path) -> list[Path]:
    """All files below a folder, relative to it."""
    # unlike `rglob`, `walk` does not mind that a folder vanishes while it looks
    return [Path(folder, name).relative_to(home) for folder, _, names in os.walk(home) for name in names]


def kill_in_the_middle(arguments: list[str], home: Path, after_files: int, delay: float) -> bool:
    """Start a command and kill it some time after so many files are there; whether it was still at work."""
    process = start(arguments)
    try:
        deadline = time.monotonic() + 900
        while process.is_alive() and len(files(home)) < after_files and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
    finally:
        process.kill()
        process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0
