"""Files that are there whole or not at all, whenever the process is killed.

A file is first written beside its place under a hidden name that ends in the process id, and then renamed, which
is atomic within a folder. What a killed process left under such a name is removed when the same file is written next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing what is there; its folder is made. A reader sees the old content or the new."""
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes its place when the block ends; an exception in it leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        writer = leftover.name.split(".")[-2]
        if writer.isdigit() and not alive(int(writer)):
            leftover.unlink(missing_ok=True)
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def alive(process: int) -> bool:
    """Whether a process of this machine with this id lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
