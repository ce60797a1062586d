"""Where sources, stored notebooks, pages and the built book are, and the record of how each page came about."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from retrieval_heads.files import write_whole
from tools.book import NotebookError

STORED_PROFILE = "smoke"
"""The profile whose outputs lie beside the sources; every notebook has it as the default of `profile`."""

REPORT_PROFILE = "report"
"""The profile of the pages that come with the repository."""

OTHER_STUDIES = {"10_pretrained": "pretrained"}
"""Chapters that show a study of their own, whatever the profile, and the profile of that study."""

STATUS = "status.json"
"""Timings change with every run, so they are in a file of their own and not in the notebooks."""

_ORIGINS = {
    "run": "the run that this book was built after", "report": "the report that comes with the repository",
    "stored": "stored with the sources",
}
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy")


class Layout:
    """The folders of one checkout; `NotebookError` where `root` is none.

    Attributes:
        sources: the pairs `NN_stage.py` and `NN_stage.ipynb`, the latter with the outputs of the stored profile.
        pages: the notebooks that the table of contents names.
        report: the pages of the report, which come with the repository.
        tables: those that the report's pages were made from.
        work: notebooks while they run, and the last one that failed.
        html: the built book.
    """

    def __init__(self, root: Path) -> None:
        self.root = root = Path(root).resolve()
        for needed in ("_toc.yml", "notebooks"):
            if not (root / needed).exists():
                raise NotebookError(f"there is no `{needed}` in this folder", where=root.name,
                                    remedy="Start the command in the repository's root, or name that with --root.")
        self.sources, self.tables = root / "notebooks", root / "results" / REPORT_PROFILE
        self.pages, self.report = root / "book" / "chapters", root / "book" / "report"
        self.work, self.html = root / "_build" / "notebooks", root / "_build" / "html"

    def chapters(self, wanted: Sequence[str] = ()) -> list[str]:
        """The names of all chapters in order, or of those that one of `wanted` is the beginning of."""
        found = sorted(path.stem for path in self.sources.glob("[0-9][0-9]_*.py"))
        for name in wanted:
            if not any(chapter.startswith(name) for chapter in found):
                known = ", ".join(found) or "(notebooks/ is empty)"
                raise NotebookError("no such chapter", where="--chapters", value=name,
                                    remedy=f"Give the number or the name of one of: {known}.")
        return [chapter for chapter in found if not wanted or chapter.startswith(tuple(wanted))]

    def check_profile(self, profile: str) -> None:
        """Raise `NotebookError` for a profile that has no file under `configs/`."""
        known = sorted(path.stem for path in (self.root / "configs").glob("*.yaml"))
        if known and profile not in known:
            raise NotebookError("unknown profile", where="--profile", value=profile,
                                remedy=f"Take one of: {', '.join(known)}.")


def read_status(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of each notebook in a folder; empty when there is none."""
    path = folder / STATUS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_status(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    write_whole(folder / STATUS, (json.dumps(records, indent=1, sort_keys=True) + "\n").encode())


def record(profile: str, seconds: float) -> dict[str, Any]:
    """What is recorded of a run that took `seconds`: the profile, the time, the machine in words and the versions."""
    import torch  # a second to import, and needed after a run only

    return {
        "profile": profile, "seconds": round(seconds, 1), "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processor cores",
        "packages": {name: metadata.version(name) for name in _PACKAGES},
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


def status_page(records: dict[str, dict[str, Any]]) -> str:
    """The page that says with which profile, in what time and with which versions each chapter was run."""
    rows = [f"| {{doc}}`{chapter}` | `{one['profile']}` | {duration(one['seconds'])} | {_ORIGINS[one['origin']]} |"
            for chapter, one in records.items()]
    machines = dict.fromkeys(
        f"- {one['machine']}, {one['device']}; Python {one['python']}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(one["packages"].items()))
        for one in records.values())
    total = sum(one["seconds"] for one in records.values())
    return "\n".join([
        "# How these pages were made", "",
        "Every chapter was executed from its first cell to its last, and the book was built from what it showed.",
        "A longer time in the first run of a profile is the computing; later runs find its results.", "",
        "| chapter | profile | time | outputs |", "|---|---|---|---|", *rows, f"| all | | {duration(total)} | |", "",
        "Where they ran:", "", *machines, "",
    ])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
