"""Work that one process does at a time, also where a command is started twice on the same folder.

A lock is the system's own (`flock`) on a hidden file, which is there while somebody holds it: the system lets it go
when its holder ends, however that happens, so nobody waits for a process that was killed. Locks hold between machines
that share a folder where its file system passes them on, as NFS does; on one that knows none, a warning says so.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval_heads.files import unwritable

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two attempts."""

_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""The file system has no locks."""


@contextmanager
def locked(path: Path, seconds: float | None = None, what: str = "") -> Iterator[bool]:
    """Hold a lock for the block.

    Args:
        path: of the lock's file, hidden; its folder is made, and removed again where nothing else came into it.
        seconds: to wait for at most; None for as long as it takes.
        what: is being waited for, for the log.

    Yields:
        Whether the lock is held; False where another process had it all the time.

    Raises:
        ResultError: the folder cannot be written to.
    """
    ends, told, new = None if seconds is None else time.monotonic() + seconds, False, not path.parent.exists()
    while (descriptor := _take(path)) is None:
        if ends is not None and time.monotonic() >= ends:
            yield False
            return
        if not told:
            log.info("waiting for %s, which %s is at", what or path.name, holder(path))
            told = True
        time.sleep(POLL)
    try:
        yield True
    finally:
        # the file goes first: who opened it in the meantime gets a lock of nothing, notices, and tries again
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        if new:
            with suppress(OSError):
                path.parent.rmdir()


def clear(folder: Path) -> None:
    """Remove the files of locks whose holders were killed."""
    for path in folder.glob(".*.lock"):
        with locked(path, seconds=0):
            pass  # the file goes when the lock is let go


def holder(path: Path) -> str:
    """The process that holds a lock, in words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['machine']} (since {found['since']})"
    except (OSError, ValueError, TypeError, KeyError):  # it has just been let go, or just been taken
        return "another process"


def _take(path: Path) -> int | None:
    """A descriptor that holds the lock, or None where another one does."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise unwritable(path.parent, error) from error
        log.warning("%s: this file system has no locks: give no second command on this folder", path.parent)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            with suppress(OSError):  # who it is helps the reader only
                os.truncate(descriptor, 0)
                os.write(descriptor, json.dumps({
                    "process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                }).encode())
            return descriptor
    os.close(descriptor)
    return None


def _open(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # whoever let the lock go has removed the folder, as nothing was in it
        except OSError as error:
            raise unwritable(path.parent, error) from error
