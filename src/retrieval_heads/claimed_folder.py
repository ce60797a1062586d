"""A folder of results that belongs to one request: the same request goes on in it, another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval_heads.errors import DataError, ResultError
from retrieval_heads.files import UNREADABLE, write_whole

FILE = "request.json"


def claim(folder: Path, wanted: Mapping[str, Any], what: str) -> None:
    """Make a folder a request's own, or find that it is.

    Args:
        folder: of the results; made where it is missing.
        wanted: what the results depend on, as JSON values.
        what: the kind of result, for the message: `a ranking`.

    Raises:
        ResultError: the folder holds something else, or the results of another request, or cannot be written to.
    """
    path, remedy = folder / FILE, "Give another --out, or delete the folder."
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ResultError("the folder holds something else", where=folder, remedy=remedy)
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise ResultError("the file is damaged", where=path, value=str(error), remedy=remedy) from error
    differing = [name for name in wanted if found.get(name, ...) != wanted[name]]
    if differing:
        raise ResultError(f"the folder holds {what} with another {', '.join(differing)}", where=folder,
                          value={name: found.get(name) for name in differing},
                          remedy=f"Give the same arguments as before to go on. {remedy}")


def content_digest(path: Path) -> str:
    """sha256 (hex) of a file, by which a request knows it wherever it lies; `DataError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("the file cannot be read", where=path, value=error.strerror,
                        remedy="Check the path.") from error
