"""The official data files, downloaded only when asked for, from the places that `origins.yaml` names.

A file is there whole or not at all, and only when its sha256 is the known or given one. Files that are there already
are kept, so the same command goes on after an interruption.
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException, HTTPResponse
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import yaml

from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import writing_whole

_BLOCK = 1 << 20
_TIMEOUT = 60
_BY_HAND = "Get it by hand into the same folder: what is there is not downloaded again."


@dataclass(frozen=True)
class Remote:
    """One file to download; `members` are taken out of a zip archive, which is then removed."""

    name: str
    url: str
    sha256: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """A task's official data: where it is described, its licence and citation, and its files."""

    task: str
    page: str
    licence: str
    citation: str
    files: tuple[Remote, ...]


@cache
def origins() -> dict[str, Origin]:
    """The origins of all tasks, from `origins.yaml`."""
    table = yaml.safe_load(files("retrieval_heads").joinpath("origins.yaml").read_text(encoding="utf-8"))
    return {
        task: Origin(task, entry["page"], entry["licence"], entry["citation"], tuple(
            Remote(**file | {"members": tuple(file.get("members", ()))}) for file in entry["files"]
        ))
        for task, entry in table.items()
    }


def origin(task: str) -> Origin:
    """A task's origin; `ConfigError` for an unknown task."""
    if task not in origins():
        raise ConfigError("unknown task", where="task", value=task, remedy=f"Give one of {', '.join(origins())}.")
    return origins()[task]


def fetch(
    source: Origin, folder: str | Path, *, sha256: Mapping[str, str] | None = None, say: Callable[[str], None] = print,
) -> list[Path]:
    """Download the files of a task to `FOLDER/TASK`; licence and citation are told first, then each file's sha256.

    Args:
        source: of which task, see `origin`.
        folder: a folder for the files of all tasks.
        sha256: digests by file name that the files must have, beside those of the table.
        say: takes a line for the user.

    Returns:
        The paths of the files, those that were there already among them.

    Raises:
        DataError: no connection, no such file on the server, a transfer that breaks off, a wrong sha256, or an archive
            without the wanted files. Nothing is left of that file.
        ConfigError: a digest for no file of this task, or one that contradicts the table.
    """
    pinned = _pinned(source, sha256 or {})
    for line in (f"{source.task}: {source.page}", f"licence: {source.licence}", f"please cite: {source.citation}"):
        say(line)
    paths: list[Path] = []
    for remote in source.files:
        there = [Path(folder) / source.task / name for name in remote.members or (remote.name,)]
        archive = Path(folder) / source.task / remote.name
        wanted = pinned[remote.name]
        if not all(path.is_file() for path in there):
            if archive.is_file():
                _compare(_digest(archive), wanted, archive, "Delete it to download it again.")
            else:
                _download(remote, archive, wanted, say)
            if remote.members:
                _unpack(archive, there)
        elif not remote.members:
            _compare(_digest(archive), wanted, archive, "Delete it to download it again.")
        for path in there:
            say(f"{path.name}  {path.stat().st_size} bytes  sha256 {_digest(path)}")
        paths += there
    return paths


def _pinned(source: Origin, given: Mapping[str, str]) -> dict[str, str | None]:
    pinned = {remote.name: remote.sha256 for remote in source.files}
    for name, digest in given.items():
        if name not in pinned:
            raise ConfigError(
                "no such file of this task", where="sha256", value=name, remedy=f"Give one of {', '.join(pinned)}.",
            )
        if len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
            raise ConfigError(
                "no sha256", where=f"sha256 of {name}", value=digest, remedy="Give its 64 hexadecimal digits.",
            )
        if pinned[name] not in (None, digest.lower()):
            raise ConfigError(
                f"the known sha256 is {pinned[name]}", where=f"sha256 of {name}", value=digest,
                remedy="Leave it out.",
            )
        pinned[name] = digest.lower()
    return pinned


def _download(remote: Remote, path: Path, wanted: str | None, say: Callable[[str], None]) -> None:
    say(f"downloading {remote.url}")
    digest, size = hashlib.sha256(), 0
    with _opened(remote) as response, writing_whole(path) as file:
        if response.headers.get_content_type() == "text/html":
            raise DataError(
                "the server sends a web page in place of the file", where=remote.url,
                remedy=f"It may ask to confirm or to wait. {_BY_HAND}",
            )
        while block := _read(response, remote):
            digest.update(block)
            size += len(block)
            file.write(block)
        announced = response.headers["Content-Length"]
        if announced is not None and size != int(announced):
            _broken_off(remote, f"{size} of {announced} bytes")
        _compare(digest.hexdigest(), wanted, remote.url, "The file is another one than was compared, or damaged; look "
                 f"at it before you trust it. {_BY_HAND}")
    if wanted is None:
        say(f"no sha256 of {remote.name} is known to compare with: check it once, and pin it with "
            f"--sha256 {remote.name}={digest.hexdigest()}")


def _opened(remote: Remote) -> HTTPResponse:
    request = urllib.request.Request(remote.url, headers={"User-Agent": "retrieval-heads"})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(
                f"the server answers {error.code} ({error.reason})", where=remote.url,
                remedy=f"The file may have moved: see the page named above. {_BY_HAND}",
            ) from None
    except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
        raise DataError(
            f"no connection ({getattr(error, 'reason', error)})", where=remote.url,
            remedy=f"Check the network. {_BY_HAND}",
        ) from None


def _read(response: HTTPResponse, remote: Remote) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        _broken_off(remote, str(error))


def _broken_off(remote: Remote, what: str) -> NoReturn:
    raise DataError("the transfer broke off", where=remote.url, value=what, remedy="Give the same command again.")


def _compare(found: str, wanted: str | None, where: object, remedy: str) -> None:
    if wanted is not None and found != wanted:
        raise DataError(f"the sha256 is not {wanted}", where=where, value=found, remedy=remedy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, wanted: list[Path]) -> None:
    """Take files out of a zip archive by their names, whatever folder they have in it, and remove the archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(name).name: name for name in opened.namelist() if not name.startswith("__MACOSX")}
            for path in wanted:
                with opened.open(members[path.name]) as member, writing_whole(path) as file:
                    shutil.copyfileobj(member, file, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(
            "no zip archive with the wanted files", where=archive, value=str(error),
            remedy="Delete it to download it again.",
        ) from None
    archive.unlink()
