"""The tables of a profile as they come with the repository: `results/PROFILE/TABLE.csv`, or `.csv.gz` where it is long.

A table that is packed has the same digest as one that is not: that of its rows as text.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.keys import table_path
from retrieval_heads.settings import Profile
from retrieval_heads.tables import all_tables

PACKED_FROM = 2**20
"""Bytes from which a table is packed: a repository keeps every version of every file."""


def publish(profile: Profile) -> list[Path]:
    """Copy the merged tables of a profile, with their manifests, to its folder below `results/`; the paths written.

    Raises:
        ResultError: the profile has no merged table.
    """
    written, folder = [], paths.results_folder(profile.name)
    for name in all_tables():
        source = table_path(profile.name, name)
        if not source.is_file():
            continue
        content, packed = source.read_bytes(), committed_path(profile.name, name, packed=True)
        plain = committed_path(profile.name, name, packed=False)
        for old in (plain, packed):
            old.unlink(missing_ok=True)
        if len(content) >= PACKED_FROM:
            write_whole(packed, gzip.compress(content, mtime=0))  # equal rows give equal bytes
        else:
            write_whole(plain, content)
        write_whole(folder / f"{name}.json", source.with_suffix(".json").read_bytes())
        written.append(packed if len(content) >= PACKED_FROM else plain)
    if not written:
        raise ResultError(
            "there are no tables to publish", where=paths.shown(paths.runs_folder(profile.name)),
            remedy=f"Run `python -m retrieval_heads run grid --profile {profile.name}` first.",
        )
    return written


def committed_path(profile: str, table: str, *, packed: bool) -> Path:
    """A table that comes with the repository."""
    return paths.results_folder(profile) / f"{table}.csv{'.gz' if packed else ''}"


def find_committed(profile: str, table: str) -> Path | None:
    """The table that comes with the repository; None where there is none."""
    found = [committed_path(profile, table, packed=packed) for packed in (False, True)]
    return next((path for path in found if path.is_file()), None)
