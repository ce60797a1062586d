"""Work that one process does at a time, and folders of results that belong to one request.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ResultError
from retrieval_heads.files import UNREADABLE, unwritable, write_whole

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two attempts."""

FILE = "request.json"
LOCK = ".lock"

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_OTHER = object()


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
            log.info("waiting for %s, which %s is at", what or path.name, _holder(path))
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


def _holder(path: Path) -> str:
    """The process that holds a lock, in words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['machine']} (since {found['since']})"
    except UNREADABLE:  # it has just been let go, or just been taken
        return "another process"


def _take(path: Path) -> int | None:
    """A descriptor that holds the lock, or None where another one does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None  # whoever let the lock go has removed the folder, as nothing was in it
    except OSError as error:
        raise unwritable(path.parent, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
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


@contextmanager
def claimed(folder: Path, wanted: Mapping[str, Any], what: str, growing: Sequence[str] = ()) -> Iterator[None]:
    """Make a folder of results a request's own, or find that it is, and keep other processes out of it for the block.

    The same request goes on in the folder, another one is refused.

    Args:
        folder: of the results; made where it is missing.
        wanted: what the results depend on, as JSON values.
        what: the kind of result, for the message: `a ranking`.
        growing: names in `wanted` that a later request may add to: items of a list, entries of a mapping, or a value
            where there was None. What was there stays on record, whether the later request names it or not.

    Raises:
        ResultError: the folder holds something else, or the results of another request, another process is at work in
            it, or it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ResultError("it is not a folder", where=folder, remedy="Give another --out.")
    with locked(folder / LOCK, seconds=0) as held:
        if not held:
            raise ResultError(f"{_holder(folder / LOCK)} is at work in the folder", where=folder,
                              remedy="Wait until it has ended and give the same command again, or give another --out.")
        new = not (folder / FILE).is_file()
        _claim(folder, wanted, what, growing)
        try:
            yield
        except BaseException:
            # a call that failed before it made anything, say by a model that cannot be loaded, holds no folder
            if new and {one.name for one in folder.iterdir()} <= {FILE, LOCK}:
                (folder / FILE).unlink(missing_ok=True)
            raise


def on_record(folder: Path) -> dict[str, Any]:
    """What the folder's requests were so far; empty where there was none, or what is there cannot be read."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except UNREADABLE:
        return {}


def check_claim(folder: Path, wanted: Mapping[str, Any], what: str, growing: Sequence[str] = ()) -> None:
    """Raise the `ResultError` of `claimed` where the folder belongs to another request; nothing is written."""
    if found := on_record(folder):
        _compare(folder, found, wanted, what, growing)


def _claim(folder: Path, wanted: Mapping[str, Any], what: str, growing: Sequence[str]) -> None:
    path, remedy, found = folder / FILE, "Give another --out, or delete the folder.", None
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except UNREADABLE as error:
            raise ResultError("the file is damaged", where=path, value=str(error), remedy=remedy) from error
    # a call that was killed while it wrote the file leaves it under its hidden name
    elif any(one.name != LOCK and not one.name.startswith(f".{FILE}.") for one in folder.iterdir()):
        raise ResultError("the folder holds something else", where=folder, remedy=remedy)
    together = dict(wanted) if found is None else _compare(folder, found, wanted, what, growing)
    if together != found:
        write_whole(path, (json.dumps(together, indent=1) + "\n").encode())


def _compare(
    folder: Path, found: dict[str, Any], wanted: Mapping[str, Any], what: str, growing: Sequence[str]
) -> dict[str, Any]:
    """Both requests together; `ResultError` where they differ in more than what may grow."""
    grown = {name: _grown(found[name], wanted[name]) for name in growing if name in found and name in wanted}
    differing = [name for name in wanted if grown.get(name) is _OTHER
                 or (name not in grown and found.get(name, ...) != wanted[name])]
    if differing:
        raise ResultError(f"the folder holds {what} with another {', '.join(differing)}", where=folder,
                          value={name: found.get(name) for name in differing},
                          remedy="Give the same arguments as before to go on. Give another --out, or delete the "
                          "folder.")
    return found | grown


def _grown(found: Any, wanted: Any) -> Any:
    """What was there with what is new; `_OTHER` where something was there that differs."""
    if isinstance(found, list) and isinstance(wanted, list):
        return [*found, *(one for one in wanted if one not in found)]
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found | wanted if all(wanted.get(name, value) == value for name, value in found.items()) else _OTHER
    if None in (found, wanted) or found == wanted:
        return wanted if found is None else found
    return _OTHER
