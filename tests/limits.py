"""A machine that refuses: files may not grow, or a folder is read-only, also for root."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION, _OVERRIDE = 0x20080522, 0b110  # of capset(2), and the rights of root to read and write where nobody may


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """No file of this process grows above so many bytes: the system refuses as it does on a full disk, by another
    number of error, whoever writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made, changed or removed in the folder and those inside."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for one in folders:
        one.chmod(0o555)
    try:
        with without_override():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            yield
    finally:
        for one in folders:
            one.chmod(0o755)


@contextmanager
def without_override() -> Iterator[None]:
    """Root loses its right to read and write where nobody may, so that permissions count."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~_OVERRIDE
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
