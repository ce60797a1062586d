"""What a LoRA adapter has to know of the model it extends: the file `extension.json` beside its weights.

An adapter folder as PEFT writes it carries neither the base's weights nor its config, so an adapter trained at a raised
RoPE theta could silently be put on a base with the old one, or on another base of the same shape.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from retrieval_heads.errors import ModelError
from retrieval_heads.files import UNREADABLE

EXTENSION_FILE = "extension.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MOST_NAMED = 24


@dataclass(frozen=True)
class Extension:
    """How a base model was extended, up to `max_length` tokens, by matrices scaled by alpha / rank.

    `base_name` (folder name or hub id) is for people; `base_fingerprint` is the `fingerprint` of the base's folder.
    """

    base_name: str
    base_fingerprint: str
    rope_theta: float
    max_length: int
    rank: int
    alpha: float
    target_modules: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write `extension.json` into an adapter folder."""
        (folder / EXTENSION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_extension(adapter: str | Path) -> Extension:
    """Read an adapter folder's `extension.json`; `ModelError` where that, the folder or its weights are not right."""
    folder = Path(adapter)
    if not folder.is_dir():
        raise ModelError(
            "no such adapter folder", where=folder,
            remedy=f"Give the folder that `finetune` wrote. {_adapters_beside(folder)}".strip(),
        )
    for name in (EXTENSION_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"the adapter folder has no {name}", where=folder,
                remedy="Give a folder written by `finetune`: without these files its base and RoPE theta are unknown.",
            )
    try:
        values = json.loads((folder / EXTENSION_FILE).read_text(encoding="utf-8"))
        values = {field.name: values[field.name] for field in fields(Extension)}
        values["target_modules"] = tuple(map(str, values["target_modules"]))
        for name, kind in (("rope_theta", float), ("alpha", float), ("max_length", int), ("rank", int)):
            if isinstance(values[name], bool | str) or not 0 < values[name] < math.inf:
                raise ValueError(f"{name} is {values[name]!r}")
            values[name] = kind(values[name])
        for name in ("base_name", "base_fingerprint"):
            values[name] = values[name] + ""  # raises for anything but text
    except UNREADABLE as error:
        raise ModelError(
            "not a readable record of an extension", where=folder / EXTENSION_FILE, value=str(error),
            remedy="Restore the file, or fine-tune again.",
        ) from error
    return Extension(**values)


def _adapters_beside(folder: Path) -> str:
    """A sentence that names the adapters in the parent of a folder that is missing; empty where there are none."""
    found = sorted(path.parent.name for path in folder.parent.glob(f"*/{ADAPTER_CONFIG}"))
    some = found[:MOST_NAMED] + ["..."] * (len(found) > MOST_NAMED)
    return f"{folder.parent} has {', '.join(some)}." if found else ""


def fingerprint(folder: str | Path) -> str:
    """sha256 (hex) over a model folder's config and weight files, the same wherever the folder lies.

    Large files are read once a process. `ModelError` where the config is missing or no JSON mapping.
    """
    folder = Path(folder)
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise ModelError(
            "the config cannot be loaded", where=folder / "config.json", value=f"{type(error).__name__}: {error}",
            remedy="Restore the file.",
        ) from error
    for name in ("transformers_version", "_name_or_path"):  # change when another library version saves the same model
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    if (marker := folder / "random_weights.json").is_file():
        digest.update(marker.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        digest.update(f"{path.name}:{_file_digest(path.resolve(), status.st_size, status.st_mtime_ns)}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:  # size and time are part of the cache's key
        return hashlib.file_digest(file, "sha256").hexdigest()
