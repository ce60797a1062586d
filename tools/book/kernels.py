"""Running chapters, and builds of the book, in processes forked from one that has imported the libraries for all.

A chapter takes two processes: the kernel that its cells run in, and papermill, which sends them. Started anew, they
import for about ten seconds until the first cell can run, most of it torch and the model libraries; forked, they begin
at once. Each chapter still has processes of its own: nothing of it is left to the next, and its memory is free
afterwards.

Sphinx, which reads the docstrings of the package, is run in the same way.

CUDA cannot be used in a process that is forked from one that has looked at it, and macOS cannot fork its libraries:
there, each process is a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import papermill
from ipykernel.kernelapp import IPKernelApp
from jupyter_client import AsyncKernelManager, BlockingKernelClient
from jupyter_client.connect import write_connection_file

from retrieval_heads.workers import IMPORTED

KERNEL = "python3"

IMPORTED_ONCE = (__name__, "retrieval_heads.figures", *(f"retrieval_heads.{name}" for name in IMPORTED))
"""Modules that nearly every chapter needs."""

INLINE = "module://matplotlib_inline.backend_inline"
"""The backend that a kernel sets. matplotlib reads it when it is imported, which is here before there is a kernel."""

PATIENCE = 10
"""Seconds for a kernel to end once it has been asked to."""


_starting, _started = threading.Lock(), threading.Event()


@dataclass(frozen=True)
class Job:
    """What the two processes of a chapter are told.

    Attributes:
        converted, executed: the notebook, and where it goes with its outputs.
        parameters: values for its tagged cell; with none, no cell is injected.
        timeout: seconds that one cell may take.
        folder: where its cells run.
        environment: of both processes.
        log: what they print.
        connection: file that says where the kernel listens.
    """

    converted: Path
    executed: Path
    parameters: Mapping[str, Any]
    timeout: int
    folder: Path
    environment: Mapping[str, str]
    log: Path
    connection: Path


def run_notebook(job: Job, forked: bool, waiting: Callable[[], None]) -> bool:
    """Run a notebook and say whether papermill came to its end; `waiting` is called about once a second."""
    write_connection_file(str(job.connection), key=uuid.uuid4().hex.encode())
    context = _context(job.environment, forked)
    processes = [kernel := context.Process(target=_be_kernel, args=(job,))]
    try:
        kernel.start()
        processes.append(sender := context.Process(target=_send_cells, args=(job, kernel.pid)))
        sender.start()
        while sender.exitcode is None:
            sender.join(1)
            waiting()
        kernel.join(PATIENCE)
        return sender.exitcode == 0
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
        job.connection.unlink(missing_ok=True)


def run_jupyter_book(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> int:
    """The exit code of the command `jupyter-book` with these arguments; what it prints goes into a new log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    # nothing that it does needs a GPU
    process = _context(environment, forked=True).Process(
        target=_be_jupyter_book, args=(list(arguments), folder, dict(environment), log))
    process.start()
    process.join()
    return process.exitcode


def _context(environment: Mapping[str, str], forked: bool) -> BaseContext:
    """How processes are started; the first call starts the one with the imports, where they are forked from it."""
    if not forked or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    with _starting:
        if not _started.is_set():
            context.set_forkserver_preload(list(IMPORTED_ONCE))
            with _environment({**environment, "MPLBACKEND": INLINE}):  # some libraries read it when they are imported
                forkserver.ensure_running()
            _started.set()
    return context


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _begin(environment: Mapping[str, str], log: Path) -> None:
    """In a new process: take an environment, print into a log, and end when the parent is killed."""
    os.environ.clear()  # of the process it is forked from: that of some time ago
    os.environ.update(environment)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(printed, stream)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _be_kernel(job: Job) -> None:
    os.setsid()  # Ctrl-C is for the others, which then end this one
    _begin(job.environment, job.log)
    _fork_from_the_same()
    os.chdir(job.folder)
    app = IPKernelApp.instance()
    app.initialize(["-f", str(job.connection), "--HistoryManager.hist_file=:memory:"])
    app.start()


def _fork_from_the_same() -> None:
    """Let the workers of this kernel come from the process that it comes from, where the libraries are imported.

    multiprocessing has told this process where that one listens, and would start another one all the same.
    """
    if sys.version_info < (3, 14) and forkserver.get_inherited_fds() is not None:
        forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None


def _lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class _Started(AsyncKernelManager):
    """A kernel that is there already, as papermill knows kernels."""

    pid = 0
    has_kernel = True

    async def _async_is_alive(self) -> bool:
        return _lives(self.pid)

    is_alive = _async_is_alive  # papermill asks by this name, the client that it makes by the other


def _send_cells(job: Job, kernel: int) -> None:
    _begin(job.environment, job.log)
    manager = _Started(kernel_name=KERNEL, connection_file=str(job.connection))
    manager.load_connection_file()
    manager.pid = kernel
    try:
        papermill.execute_notebook(
            job.converted, job.executed, dict(job.parameters), kernel_name=KERNEL, progress_bar=False,
            cwd=job.folder, execution_timeout=job.timeout, km=manager,
        )
    finally:
        if _lives(kernel):
            _ask_to_end(job)


def _ask_to_end(job: Job) -> None:
    """Let the kernel end as it likes to; one that doesn't answer is ended by the parent."""
    client = BlockingKernelClient(connection_file=str(job.connection))
    client.load_connection_file()
    client.start_channels()
    with suppress(TimeoutError):
        client.shutdown(reply=True, timeout=PATIENCE)
    client.stop_channels()


def _be_jupyter_book(arguments: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
    _begin(environment, log)
    os.chdir(folder)
    from jupyter_book.cli.main import main  # a chapter does not need it, and shall not wait for it

    main(arguments)
