"""A folder of results that belongs to one request: the same request goes on in it, another one is refused.

One process is at work in it at a time: a second one is refused while the first one lives, whatever it asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval_heads.errors import DataError, ResultError
from retrieval_heads.files import UNREADABLE, write_whole
from retrieval_heads.locks import holder, locked

FILE = "request.json"
LOCK = ".lock"
_OTHER = object()


@contextmanager
def claimed(folder: Path, wanted: Mapping[str, Any], what: str, growing: Sequence[str] = ()) -> Iterator[None]:
    """Make a folder a request's own, or find that it is, and keep other processes out of it for the block.

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
        raise ResultError("it is no folder", where=folder, remedy="Give another --out.")
    with locked(folder / LOCK, seconds=0) as held:
        if not held:
            raise ResultError(f"{holder(folder / LOCK)} is at work in the folder", where=folder,
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
    path, remedy = folder / FILE, "Give another --out, or delete the folder."
    if not path.is_file():
        # a call that was killed while it wrote the file leaves it under its hidden name
        if any(one.name != LOCK and not one.name.startswith(f".{FILE}.") for one in folder.iterdir()):
            raise ResultError("the folder holds something else", where=folder, remedy=remedy)
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise ResultError("the file is damaged", where=path, value=str(error), remedy=remedy) from error
    together = _compare(folder, found, wanted, what, growing)
    if together != found:
        write_whole(path, (json.dumps(together, indent=1) + "\n").encode())


def _compare(
    folder: Path, found: dict[str, Any], wanted: Mapping[str, Any], what: str, growing: Sequence[str]
) -> dict[str, Any]:
    """Both requests together; `ResultError` where they differ in more than what may grow."""
    grown = {name: _grown(found[name], wanted[name]) for name in growing if name in found and name in wanted}
    together = found | {name: value for name, value in grown.items() if value is not _OTHER}
    differing = [name for name in wanted if grown.get(name) is _OTHER
                 or (name not in grown and found.get(name, ...) != wanted[name])]
    if differing:
        raise ResultError(f"the folder holds {what} with another {', '.join(differing)}", where=folder,
                          value={name: found.get(name) for name in differing},
                          remedy="Give the same arguments as before to go on. Give another --out, or delete the "
                          "folder.")
    return together


def _grown(found: Any, wanted: Any) -> Any:
    """What was there with what is new; `_OTHER` where something was there that differs."""
    if isinstance(found, list) and isinstance(wanted, list):
        return [*found, *(one for one in wanted if one not in found)]
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found | wanted if all(wanted.get(name, value) == value for name, value in found.items()) else _OTHER
    if None in (found, wanted) or found == wanted:
        return wanted if found is None else found
    return _OTHER


def content_digest(path: Path) -> str:
    """sha256 (hex) of a file, by which a request knows it wherever it lies; `DataError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("the file cannot be read", where=path, value=error.strerror,
                        remedy="Check the path.") from error
