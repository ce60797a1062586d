"""Where the official data files come from: `origins.yaml` names their places, licence, citation and sha256."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from retrieval_heads.errors import ConfigError


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
    text = files("retrieval_heads").joinpath("origins.yaml").read_text(encoding="utf-8")
    return {
        task: Origin(task, entry["page"], entry["licence"], entry["citation"], tuple(
            Remote(**file | {"members": tuple(file.get("members", ()))}) for file in entry["files"]
        ))
        for task, entry in yaml.safe_load(text).items()
    }


def origin(task: str) -> Origin:
    """A task's origin; `ConfigError` for an unknown task."""
    if task not in origins():
        raise ConfigError("unknown task", where="task", value=task, remedy=f"Give one of {', '.join(origins())}.")
    return origins()[task]
