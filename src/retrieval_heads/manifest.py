"""What made a table: versions, settings, device, time and counts, as JSON beside it.

Whatever differs between two equal runs stands here and not in the table, so that tables are equal byte for byte. No
absolute path, user or host name is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.files import UNREADABLE, write_whole

_PACKAGES = ("retrieval-heads", "torch", "transformers", "peft", "numpy", "pandas")

_KINDS = {"config_hash": str, "sha256": str, "seconds": (int, float), "device": str, "seeds": list, "used": int,
          "dropped": dict}
"""What is read from a manifest again, with its types in JSON."""


@dataclass(frozen=True)
class Facts:
    """What a stage knows of its own work; `used` and `dropped` (by reason) are numbers of examples."""

    seconds: float = 0.0
    device: str = ""
    seeds: tuple[int, ...] = ()
    used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


def combine(facts: Iterable[Mapping[str, Any]]) -> Facts:
    """The facts of a whole from the manifests of its parts: times and counts add up."""
    facts = list(facts)
    dropped: Counter[str] = Counter()
    for one in facts:
        dropped.update(one["dropped"])
    return Facts(
        seconds=sum(one["seconds"] for one in facts), device="; ".join(sorted({one["device"] for one in facts})),
        seeds=tuple(sorted({seed for one in facts for seed in one["seeds"]})), used=sum(one["used"] for one in facts),
        dropped=dict(sorted(dropped.items())),
    )


def makers(manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With which versions, and at which commits, the parts of a whole were made, and how many by each.

    Empty where all were made with the versions that are running.
    """
    manifests = list(manifests)
    if all(one["versions"] == versions() for one in manifests):
        return []
    found = [{name: one.get(name) for name in ("versions", "git")} for one in manifests]
    different = {json.dumps(one, sort_keys=True): one for one in found}
    return [{**one, "parts": found.count(one)} for _, one in sorted(different.items())]


def write_manifest(path: Path, facts: Facts, **more: Any) -> None:
    """Write a manifest: `more`, the facts, and the versions that are running."""
    known = asdict(facts) | {"seconds": round(facts.seconds, 3)}
    content = {**more, **known, "versions": versions(), "git": git_state()}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest, or None when there is none; `ResultError` where the file is not a manifest."""
    try:
        content = json.loads(path.read_bytes())
        wrong = [name for name, kind in _KINDS.items() if not isinstance(content.get(name), kind)]
        problem = f"no sound `{wrong[0]}`" if wrong else ""
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise ResultError(f"not a manifest: {problem}", where=paths.shown(path),
                          remedy="Delete it: what it describes is then made again.")
    return content


@cache
def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages, by default of those that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def git_state() -> dict[str, Any] | None:
    """The commit of the checkout and whether tracked files differ from it; None where there is no repository."""
    root = paths.checkout()
    if root is None or not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "--no-optional-locks", "-C", str(root), *arguments], check=True,
                              capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: str) -> str:
    """A device in words: the model of a GPU, or the kind of CPU and its number of cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{device}, {platform.machine()}, {os.cpu_count()} cores"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
