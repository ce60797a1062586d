"""The results of a study on disk: made once, whole or not at all, and never mixed with those of other settings.

A stage asks what is still to do, writes the rows of each run as a part, and merges the parts:

    store = Store.open(profile)
    for key in store.todo("performance", study_grid(profile)):
        store.write_part("performance", key, rows, Facts(seconds=..., device=...))
    path = store.merge("performance", study_grid(profile))

A part counts as done when its manifest, which is written last, is there and its checksum is that of the rows. One that
was made with other settings or from another base model is an error and not redone silently: it may have cost hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.config import config_hash
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.keys import RunKey, part_path, table_path
from retrieval_heads.manifest import Facts, combine, read_manifest, sha256, write_manifest
from retrieval_heads.models.extension import fingerprint
from retrieval_heads.settings import Profile
from retrieval_heads.tables import conform, get_table, read_table, to_csv

Part = RunKey | str
"""A unit of work: a run, or another one (a task, say) by name."""


@dataclass(frozen=True)
class Store:
    """The results of one profile. Holds no open file, so it can be sent to a worker process.

    Attributes:
        profile: whose results.
        base_digest: identifies the weights of the base model; None for one that is no local folder.
    """

    profile: Profile
    base_digest: str | None

    @classmethod
    def open(cls, profile: Profile) -> Store:
        """The store of a profile; reads the base model's files once to identify them."""
        folder = Path(paths.resolve_model(profile.base))
        return cls(profile, fingerprint(folder)[:16] if (folder / "config.json").is_file() else None)

    def done(self, table: str, part: Part) -> bool:
        """Whether a part is there and whole.

        Raises:
            ResultError: it was made with other settings or from another base model.
        """
        path = self._part(table, part)
        made = self._manifest(path.with_suffix(".json"), get_table(table).stage)
        return made is not None and path.is_file() and sha256(path.read_bytes()) == made["sha256"]

    def todo(self, table: str, parts: Iterable[Part]) -> list[Any]:
        """The parts that are not done, in the order given."""
        return [part for part in parts if not self.done(table, part)]

    def write_part(
        self, table: str, part: Part, rows: pd.DataFrame | Sequence[Mapping[str, Any]], facts: Facts,
    ) -> Path:
        """Write the rows of one part and its manifest.

        Raises:
            ResultError: the rows do not follow the data dictionary.
        """
        path = self._part(table, part)
        self._write(path, table, conform(table, rows), facts, part=str(getattr(part, "name", part)))
        return path

    def read_part(self, table: str, part: Part) -> pd.DataFrame:
        """The rows of one part; `ResultError` when it is not done."""
        path = self._part(table, part)
        if not self.done(table, part):
            raise ResultError("not made yet, or damaged", where=paths.shown(path), remedy=self._command(table))
        return read_table(table, path)

    def merge(self, table: str, parts: Iterable[Part], partial: bool = False) -> Path:
        """Put the parts together as the final table, sorted by key.

        Args:
            table: which table.
            parts: the whole grid, also when only a piece of it was run just now.
            partial: leave out parts that are not done (the manifest lists them) instead of raising.

        Raises:
            ResultError: a part is not done and `partial` is False, or no part is.
        """
        parts = list(parts)
        absent = self.todo(table, parts)
        found = [part for part in parts if part not in absent]
        if not found or (absent and not partial):
            raise ResultError(
                f"{len(absent)} of {len(parts)} parts are not made", where=f"table {table}",
                value=[str(part) for part in absent], remedy=self._command(table),
            )
        made = [read_manifest(self._part(table, part).with_suffix(".json")) for part in found]
        rows = pd.concat([self.read_part(table, part) for part in found], ignore_index=True)
        path = table_path(self.profile.name, table)
        self._write(path, table, conform(table, rows), combine(made), parts=len(found),
                    absent=[str(getattr(part, "name", part)) for part in absent])
        return path

    def _part(self, table: str, part: Part) -> Path:
        return part_path(self.profile.name, get_table(table).name, part)

    def _identity(self, stage: str) -> dict[str, Any]:
        return {
            "profile": self.profile.name, "config_hash": config_hash(self.profile, stage),
            "base_digest": self.base_digest,
        }

    def _write(self, path: Path, table: str, frame: pd.DataFrame, facts: Facts, **more: Any) -> None:
        content = to_csv(frame)
        write_whole(path, content)
        write_manifest(path.with_suffix(".json"), facts, table=table, **self._identity(get_table(table).stage),
                       sha256=sha256(content), rows=len(frame), **more)

    def _manifest(self, path: Path, stage: str) -> dict[str, Any] | None:
        made = read_manifest(path)
        for name, what in (("config_hash", "with other settings"), ("base_digest", "from another base model")):
            wanted = self._identity(stage)[name]
            if made is not None and made.get(name) != wanted:
                raise ResultError(
                    f"made {what}: its {name} is {made.get(name)}, now it is {wanted}", where=paths.shown(path),
                    remedy=f"Delete the folder {paths.shown(path.parent)} to make it again, or keep it and write "
                           f"elsewhere with --home DIR.",
                )
        return made

    def _command(self, table: str) -> str:
        stage = get_table(table).stage
        return f"Run `python -m retrieval_heads run {stage} --profile {self.profile.name}`."


def load_table(profile: str, table: str) -> pd.DataFrame:
    """A final table for reading: the live one when it is there, otherwise the one committed with the repository.

    Raises:
        ResultError: neither is there, it does not follow the data dictionary, or it differs from what its manifest
            says was written.
    """
    live, committed = table_path(profile, table), paths.results_folder(profile) / f"{table}.csv"
    path = committed if committed.is_file() and not live.is_file() else live
    frame = read_table(table, path)
    made = read_manifest(path.with_suffix(".json"))
    if made is None or made["sha256"] != sha256(path.read_bytes()):
        raise ResultError(
            "the table is not the one that its manifest describes", where=paths.shown(path),
            remedy=f"Make it again: `python -m retrieval_heads run {get_table(table).stage} --profile {profile}`.",
        )
    return frame
