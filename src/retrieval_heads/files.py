"""Files that are there whole or not at all, whenever the process is killed or the disk is full.

A file is first written beside its place under a hidden name that ends in the process id, and then renamed, which
is atomic within a folder. What a killed process left under such a name is removed when the same file is written next.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from retrieval_heads.errors import DataError, ResultError, StudyError

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What is raised where a JSON file is read that is not there, or not as this package wrote it."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, one's share of it, or the largest size of a file is used up."""

_REFUSED = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR)
_LESS = ("Lower the batch size (`lora.batch_size`, --batch-size) or the length of the examples, turn on gradient "
         "checkpointing or bf16, or let fewer processes share the device (--workers). What was finished is kept.")
_BEGUN: set[Path] = set()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing what is there; its folder is made. A reader sees the old content or the new.

    Raises:
        ResultError: it cannot be written.
    """
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes its place when the block ends; an exception in it leaves nothing.

    Raises:
        ResultError: it cannot be written. An `OSError` of the block itself is let through.
    """
    with _beside(path) as temporary:
        with _told(path):
            raw = _Raw(temporary, path)
        with io.BufferedWriter(raw, 2**20) as file:
            yield file
            file.flush()
            with _told(path):
                os.fsync(file.fileno())
        with _told(path):
            os.replace(temporary, path)


@contextmanager
def new_folder(path: Path, size: int = 0) -> Iterator[Path]:
    """A hidden folder beside `path` that takes its place when the block ends; an exception in it leaves nothing.

    Args:
        path: which must not be there.
        size: bytes that will be written, for which room is looked at first.

    Raises:
        ResultError: something is there, too little room, or an `OSError` of the block.
    """
    if path.exists():
        raise ResultError("there is something already", where=path, remedy="Delete it, or give another folder.")
    with scratch_folder(path, size) as folder, _told(path):
        yield folder
        os.replace(folder, path)


@contextmanager
def scratch_folder(path: Path, size: int = 0) -> Iterator[Path]:
    """A hidden folder beside `path` that is gone when the block ends; errors as in `new_folder`."""
    with _beside(path) as folder, _told(path):
        folder.mkdir()
        free = shutil.disk_usage(folder).free
        if free < size:
            raise ResultError(f"{size / 1e6:,.0f} MB are to be written and {free / 1e6:,.0f} MB are free there",
                              where=path, remedy="Make room, or give a place that has some.")
        yield folder
        _remove(folder)


def drop_begun() -> None:
    """Remove what this process is writing in another thread; for one that is to end at once."""
    for temporary in tuple(_BEGUN):
        _remove(temporary)


@contextmanager
def written_by_others(folder: Path) -> Iterator[None]:
    """Around writers of other libraries, which name a full disk each in its own way: all are one `ResultError`."""
    try:
        yield
    except StudyError:
        raise
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error
    except Exception as error:
        # safetensors writes in Rust and torch in C++, whose exceptions keep no number of the system's error
        if "SafetensorError" in type(error).__name__ or "inline_container" in str(error):
            raise unwritable(folder, error) from error
        raise


def unwritable(path: Path, error: Exception) -> ResultError:
    """The error of a place that cannot be written to: why, and how much is free there."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    remedy = "Give a place that can be written to and has room."
    if getattr(error, "errno", errno.ENOSPC) in _FULL:
        remedy = "Make room or give a place that has some; what was finished is kept."
    return ResultError(f"the file cannot be written ({reason}; {_free(path)})", where=path, remedy=remedy)


def shortage(error: BaseException) -> StudyError | None:
    """What a machine runs out of or refuses (memory, the disk, a place to write to), as an error that says what to do.

    Such an exception can come from any line, out of torch, the model libraries or the system. It is not a fault of the
    program, so it is turned where work is begun: by the command line, for each run of a study, by `diagnose` and
    `rank_sets`.

    Returns:
        The error to tell in place of this one; None where it is no shortage.
    """
    if isinstance(error, StudyError):
        return None
    torch = sys.modules.get("torch")  # who has not imported it cannot have its error
    on_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    if on_device or isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return ResultError(f"out of memory{' on the device' if on_device else ''} ({first_line})", remedy=_LESS)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return unwritable(Path(error.filename or "."), error)
    return None


@contextmanager
def clear_shortages() -> Iterator[None]:
    """Raise the error of a shortage in the place of any exception of the block that is one; also a decorator."""
    try:
        yield
    except Exception as error:
        found = shortage(error)
        if found is None:
            raise
        raise found from error


def content_digest(path: Path) -> str:
    """sha256 (hex) of a file, by which it is known wherever it lies; `DataError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("the file cannot be read", where=path, value=error.strerror,
                        remedy="Check the path.") from error


def _free(path: Path) -> str:
    for folder in (path, *path.parents):
        with suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free there"
    return "what is free there is not known"


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


class _Raw(io.FileIO):
    """A new file whose failed writes are told by the name that it is to take."""

    def __init__(self, temporary: Path, path: Path) -> None:
        super().__init__(temporary, "wb")
        self._path = path

    def write(self, content: Any) -> int:
        with _told(self._path):
            return super().write(content)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, in a folder that is made; a failure leaves neither that nor what has the name."""
    new = [folder for folder in path.parents if not folder.exists()]
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            writer = leftover.name.split(".")[-2]
            if writer.isdigit() and not _alive(int(writer)):
                _remove(leftover)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    _BEGUN.add(temporary)
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        with suppress(OSError):  # another process may have put something there
            for folder in new:
                folder.rmdir()
        raise
    finally:
        _BEGUN.discard(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether a process of this machine with this id lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
