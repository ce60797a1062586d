"""The tables of a profile as they come with the repository: `results/PROFILE/TABLE.csv`, or `.csv.gz` where it is long.

A table that is packed has the same digest as one that is not: that of its rows as text.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.keys import table_path
from retrieval_heads.settings import Profile
from retrieval_heads.tables import all_tables, dictionary_markdown

PACKED_FROM = 2**20
"""Bytes from which a table is packed: a repository keeps every version of every file."""


def derived_tables(profile: Profile) -> list[str]:
    """The tables of a profile that follow from other tables, without a model."""
    of_stage = {name: table.stage for name, table in all_tables().items()}
    if profile.gold_loss is not None:
        return [*(name for name, stage in of_stage.items() if stage == "decide"), "verdicts"]
    return ["shortfall", "overlap", *(name for name, stage in of_stage.items() if stage == "claims")]


def publish(profile: Profile, names: Iterable[str] | None = None) -> list[Path]:
    """Copy the merged tables of a profile, with their manifests, to its folder below `results/`; the paths written.

    Args:
        profile: whose tables.
        names: these tables only; None for all.

    Raises:
        ResultError: the profile has no merged table.
    """
    written, folder = [], paths.results_folder(profile.name)
    for name in all_tables() if names is None else names:
        source = table_path(profile.name, name)
        if not source.is_file():
            continue
        content = source.read_bytes()
        long = len(content) >= PACKED_FROM
        target = committed_path(profile.name, name, packed=long)
        write_whole(target, gzip.compress(content, mtime=0) if long else content)  # equal rows give equal bytes
        write_whole(folder / f"{name}.json", source.with_suffix(".json").read_bytes())
        committed_path(profile.name, name, packed=not long).unlink(missing_ok=True)  # of an earlier, shorter table
        written.append(target)
    if not written:
        raise ResultError(
            "there are no tables to publish", where=paths.shown(paths.runs_folder(profile.name)),
            remedy=f"Run `python -m retrieval_heads grid --profile {profile.name}` first.",
        )
    write_whole(folder.parent / "README.md", readme().encode())
    return written


def readme() -> str:
    """The text of `results/README.md`: how to read the tables, and the data dictionary."""
    return (
        "# Tables\n\n"
        "One folder a profile: CSV in UTF-8, one row a measurement, key columns first; long tables are packed "
        "(`.csv.gz`, which pandas reads as it is). `TABLE.json` beside each says what made it: settings, versions, "
        "device, seconds, and the sha256 of its rows.\n\n"
        "Tables of runs are made on a GPU by `python -m retrieval_heads grid --profile report`; those of the stage "
        "`claims` follow from them, and `python -m retrieval_heads publish --profile report` brings all here; with "
        "`--derived`, only what follows from the tables of runs that are here, which stay as they are. The folder "
        "`controls` holds measurements that were made later, of the runs whose adapters come with the repository.\n\n"
        "The folder `pretrained` is the second study, by `make pretrained`. Its runs come in parts, so a table may "
        "hold some of the runs only: `absent` in its manifest lists those that are not there yet, and `parts.tar.xz` "
        "has the parts from which the grid goes on (CONTRIBUTING.md says how). Its table `pilot` was made before the "
        "runs by `python tools/pretrained_pilot.py`; the manifest was written afterwards from the table.\n\n"
        + dictionary_markdown()
    )


def committed_path(profile: str, table: str, *, packed: bool) -> Path:
    """A table that comes with the repository."""
    return paths.results_folder(profile) / f"{table}.csv{'.gz' if packed else ''}"


def find_committed(profile: str, table: str) -> Path | None:
    """The table that comes with the repository; None where there is none."""
    found = [committed_path(profile, table, packed=packed) for packed in (False, True)]
    return next((path for path in found if path.is_file()), None)
