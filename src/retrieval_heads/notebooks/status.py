"""How each page came about: kept beside the notebooks, and shown as a page of the book.

Timings change with every run, so they are in a file of their own and not in the notebooks.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from retrieval_heads.files import write_whole
from retrieval_heads.notebooks.layout import OTHER_STUDIES, Layout

FILE = "status.json"
ORIGINS = {
    "run": "the run that this book was built after", "report": "the report that comes with the repository",
    "stored": "stored with the sources",
}
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy")


def read_status(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of each notebook in a folder; empty when there is none."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_status(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    write_whole(folder / FILE, (json.dumps(records, indent=1, sort_keys=True) + "\n").encode())


def record(profile: str, seconds: float) -> dict[str, Any]:
    """What is recorded of a run that took `seconds`: the profile, the time, the machine in words and the versions."""
    return {
        "profile": profile, "seconds": round(seconds, 1), "python": platform.python_version(), "device": device_name(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processor cores",
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def table_digests(layout: Layout, chapter: str = "") -> dict[str, str]:
    """The sha256 of every table of the report, by name, as its manifest gives it.

    Of a chapter that shows a study of its own, those of that study too, as `STUDY/TABLE`.
    """
    manifests = {path.stem: path for path in sorted(layout.tables.glob("*.json"))}
    if chapter in OTHER_STUDIES:
        folder = layout.tables.parent / OTHER_STUDIES[chapter]
        manifests |= {f"{folder.name}/{path.stem}": path for path in sorted(folder.glob("*.json"))}
    return {name: json.loads(path.read_text(encoding="utf-8"))["sha256"] for name, path in manifests.items()}


def device_name() -> str:
    """The accelerator that a run finds, or `CPU`."""
    import torch  # a second to import, and needed after a run only

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def status_page(layout: Layout, chapters: Iterable[str], records: dict[str, dict[str, Any]]) -> str:
    """The page that says with which profile, in what time and with which versions each chapter was run."""
    rows, environments = [], []
    for chapter in chapters:
        entry = records[chapter]
        origin = ORIGINS[entry["origin"]]
        rows.append(f"| {{doc}}`{chapter}` | `{entry['profile']}` | {duration(entry['seconds'])} | {origin} |")
        versions = ", ".join(f"{name} {version}" for name, version in sorted(entry["packages"].items()))
        environment = f"- {entry['machine']}, {entry['device']}; Python {entry['python']}, {versions}"
        if environment not in environments:
            environments.append(environment)
    total = sum(records[chapter]["seconds"] for chapter in chapters)
    return "\n".join([
        "# How these pages were made", "",
        "Every chapter was executed from its first cell to its last, and the book was built from what it showed.",
        "A longer time in the first run of a profile is the computing; later runs find its results.", "",
        "| chapter | profile | time | outputs |", "|---|---|---|---|", *rows,
        f"| all | | {duration(total)} | |", "",
        "Where they ran:", "", *environments, "",
    ])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
