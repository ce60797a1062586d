"""What a machine runs out of or refuses, memory, room on the disk, a place to write to, as errors that say what to do.

Such an exception can come from any line, out of torch, the model libraries or the system. It is no fault of the
program, so it is turned into a `StudyError` where work is begun: by the command line, for each run of a study, and by
`diagnose` and `rank_sets`.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval_heads.errors import ResultError, StudyError
from retrieval_heads.files import FULL, unwritable

_REFUSED = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR)
_LESS = ("Lower the batch size (`lora.batch_size`, --batch-size) or the length of the examples, turn on gradient "
         "checkpointing or bf16, or let fewer processes share the device (--workers). What was finished is kept.")


def shortage(error: BaseException) -> StudyError | None:
    """The error to tell in place of this one; None where it is no shortage."""
    if isinstance(error, StudyError):
        return None
    if _out_of_device_memory(error):
        return ResultError(f"out of memory on the device ({_first_line(error)})", remedy=_LESS)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return ResultError(f"out of memory ({_first_line(error)})", remedy=_LESS)
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


def _out_of_device_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # who has not imported it cannot have its error
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
