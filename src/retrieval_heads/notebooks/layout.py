"""Where sources, stored notebooks, pages and the built book are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval_heads.notebooks import NotebookError

STORED_PROFILE = "smoke"
"""The profile whose outputs lie beside the sources; every notebook has it as the default of `profile`."""

REPORT_PROFILE = "report"
"""The profile of the pages that come with the repository."""


OTHER_STUDIES = {"10_pretrained": "pretrained"}
"""Chapters that show a study of their own, whatever the profile, and the profile of that study."""


@dataclass(frozen=True)
class Layout:
    """The folders of one checkout.

    Raises:
        NotebookError: `root` has no `_toc.yml` or no `notebooks/`.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).resolve())
        for needed in ("_toc.yml", "notebooks"):
            if not (self.root / needed).exists():
                raise NotebookError(
                    f"there is no `{needed}` in this folder", where=self.root.name,
                    remedy="Start the command in the repository's root, or name that with --root.",
                )

    @property
    def sources(self) -> Path:
        """Holds the pairs `NN_stage.py` and `NN_stage.ipynb`, the latter with the outputs of the stored profile."""
        return self.root / "notebooks"

    @property
    def pages(self) -> Path:
        """Holds the notebooks that the table of contents names."""
        return self.root / "book" / "chapters"

    @property
    def report(self) -> Path:
        """Holds the pages of the report, which come with the repository."""
        return self.root / "book" / "report"

    @property
    def tables(self) -> Path:
        """Holds the tables that the pages of the report were made from, which come with the repository."""
        return self.root / "results" / REPORT_PROFILE

    @property
    def work(self) -> Path:
        """Holds notebooks while they run, and the last one that failed."""
        return self.root / "_build" / "notebooks"

    @property
    def html(self) -> Path:
        return self.root / "_build" / "html"

    def chapters(self, wanted: Sequence[str] = ()) -> list[str]:
        """The names of all chapters in order, or of those that one of `wanted` is the beginning of."""
        found = sorted(path.stem for path in self.sources.glob("[0-9][0-9]_*.py"))
        for name in wanted:
            if not any(chapter.startswith(name) for chapter in found):
                raise NotebookError(
                    "no such chapter", where="--chapters", value=name,
                    remedy=f"Give the number or the name of one of: {', '.join(found) or '(notebooks/ is empty)'}.",
                )
        return [chapter for chapter in found if not wanted or any(chapter.startswith(name) for name in wanted)]

    def check_profile(self, profile: str) -> None:
        """Raise `NotebookError` for a profile that has no file under `configs/`."""
        known = sorted(path.stem for path in (self.root / "configs").glob("*.yaml"))
        if known and profile not in known:
            raise NotebookError(
                "unknown profile", where="--profile", value=profile, remedy=f"Take one of: {', '.join(known)}.",
            )
