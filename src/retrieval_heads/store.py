"""The results of a study on disk: made once, whole or not at all, and never mixed with those of other settings.

A stage asks what is still to do, writes the rows of each run as a part, and merges the parts:

    store = Store(profile)
    for key in store.todo("performance", study_grid(profile)):
        store.write_part("performance", key, rows, Facts(seconds=..., device=...))
    path = store.merge("performance", study_grid(profile))

A part counts as done when its manifest, which is written last, is there and its checksum is that of the rows. One that
was made with other settings or from another base model is an error and not redone silently: it may have cost hours.
A run is identified by the weights of its own base model, so that another base model can be added to a study; a part
that is no run, and a table of all runs, by the weights of all that it was made from.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.bases import base_digest, check_bases
from retrieval_heads.config import config_hash
from retrieval_heads.data.folder import data_digest
from retrieval_heads.errors import ResultError
from retrieval_heads.files import write_whole
from retrieval_heads.keys import RunKey, lock_path, part_path, table_path
from retrieval_heads.locks import clear, locked
from retrieval_heads.manifest import Facts, combine, makers, read_manifest, sha256, write_manifest
from retrieval_heads.settings import Profile
from retrieval_heads.tables import (
    all_tables,
    conform,
    dictionary_markdown,
    get_table,
    read_table,
    table_bytes,
    to_csv,
)

Part = RunKey | str
"""A unit of work: a run, or another one by name, such as `all` for what is made of all runs."""

PACKED_FROM = 2**20
"""Bytes from which a published table is packed: a repository keeps every version of every file. Its digest is that of
its rows as text, packed or not."""


@dataclass(frozen=True)
class Store:
    """The results of one profile. Holds no open file, so it can be sent to a worker process.

    `digests` identify the weights of the base models by name, None for one that is not a local folder. Each is read
    when it is first needed, and goes along to the worker processes.
    """

    profile: Profile
    digests: dict[str, str | None] = field(default_factory=dict, compare=False)

    def prepare(self, parts: Iterable[Part]) -> None:
        """Before parts are made: read and check their base models (`check_bases`), once for all worker processes."""
        names = sorted({part.base for part in parts if isinstance(part, RunKey)})
        check_bases(self.profile, names)
        for name in names:
            self._digest_of(name)

    def done(self, table: str, part: Part) -> bool:
        """Whether a part is there and whole; `ResultError` where other settings, models or files made it."""
        path = self._part(table, part)
        made = self._manifest(path.with_suffix(".json"), get_table(table).stage, part)
        return made is not None and path.is_file() and sha256(path.read_bytes()) == made["sha256"]

    def todo(self, table: str, parts: Iterable[Part]) -> list[Any]:
        """The parts that are not done, in the order given."""
        return [part for part in parts if not self.done(table, part)]

    def forget(self, table: str, part: Part) -> None:
        """Let a part count as not done, so that it is made again."""
        self._part(table, part).with_suffix(".json").unlink(missing_ok=True)

    def write_part(
        self, table: str, part: Part, rows: pd.DataFrame | Sequence[Mapping[str, Any]], facts: Facts,
    ) -> Path:
        """Write the rows of one part and its manifest; `ResultError` where they do not follow the data dictionary."""
        path, data = self._part(table, part), self._data_digest(part)
        more = {} if data is None else {"data_digest": data}
        self._write(path, table, conform(table, rows), facts, self._digest(part), part=str(getattr(part, "name", part)),
                    **more)
        return path

    def read_part(self, table: str, part: Part) -> pd.DataFrame:
        """The rows of one part; `ResultError` when it is not done."""
        path = self._part(table, part)
        if not self.done(table, part):
            raise ResultError("not made yet, or damaged", where=paths.shown(path), remedy=self._make(table))
        return read_table(table, path)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Around everything that reads or writes tables of all runs, so that the last one to merge has seen all."""
        lock = lock_path(self.profile.name, "tables")
        with locked(lock, what="the tables"):
            yield
        clear(lock.parent)

    def merge(self, table: str, parts: Iterable[Part], partial: bool = False) -> Path:
        """Put the parts together as the final table, sorted by key.

        `parts` is the whole grid, also when only a piece of it was run just now. Parts that are not done are an error,
        or with `partial` left out and listed in the manifest, unless there is none.
        """
        parts = list(parts)
        absent = self.todo(table, parts)
        found = [part for part in parts if part not in absent]
        if not found or (absent and not partial):
            raise ResultError(
                f"{len(absent)} of {len(parts)} parts are not made", where=f"table {table}",
                value=[str(part) for part in absent], remedy=self._make(table),
            )
        made = [read_manifest(self._part(table, part).with_suffix(".json")) for part in found]
        rows = pd.concat([self.read_part(table, part) for part in found], ignore_index=True)
        path = table_path(self.profile.name, table)
        self._write(path, table, conform(table, rows), combine(made), _together(one["base_digest"] for one in made),
                    parts=len(found), **({"parts_made": elsewhere} if (elsewhere := makers(made)) else {}),
                    absent=[str(getattr(part, "name", part)) for part in absent])
        return path

    def _part(self, table: str, part: Part) -> Path:
        return part_path(self.profile.name, get_table(table).name, part)

    def _digest_of(self, name: str) -> str | None:
        if name not in self.digests:
            self.digests[name] = base_digest(self.profile, name)
        return self.digests[name]

    def _digest(self, part: Part) -> str | None:
        """Identifies the base model of a run; for another part, all base models of the profile that are there.

        Where one is not, and the tables of runs come with the repository, it is those that these were made from.
        """
        if isinstance(part, RunKey):
            return self._digest_of(part.base)
        own = [self._digest_of(name) for name in self.profile.base_names]
        committed = None
        if None in own:
            committed = read_manifest(paths.results_folder(self.profile.name) / "base_answers.json")
        return _together(own) if committed is None else committed["base_digest"]

    def _data_digest(self, part: Part) -> str | None:
        """Identifies the files that a run's examples come from; None where they are generated, or not here."""
        return data_digest(self.profile.data, part.task, part.condition) if isinstance(part, RunKey) else None

    def _write(
        self, path: Path, table: str, frame: pd.DataFrame, facts: Facts, digest: str | None, **more: Any,
    ) -> None:
        content, stage = to_csv(frame), get_table(table).stage
        write_whole(path, content)
        write_manifest(
            path.with_suffix(".json"), facts, table=table, profile=self.profile.name,
            config_hash=config_hash(self.profile, stage), base_digest=digest, sha256=sha256(content), rows=len(frame),
            **more,
        )

    def _manifest(self, path: Path, stage: str, part: Part) -> dict[str, Any] | None:
        made = read_manifest(path)
        if made is None:
            return None
        for name, wanted, what in (
            ("config_hash", config_hash(self.profile, stage), "with other settings"),
            ("base_digest", self._digest(part), "from another base model"),
            ("data_digest", self._data_digest(part), "from other files of examples"),
        ):
            # finished runs of a base model that is not here (any more) can be read: none can be added that differs
            if wanted is not None and made.get(name) != wanted:
                raise ResultError(
                    f"made {what}: its {name} is {made.get(name)}, now it is {wanted}", where=paths.shown(path),
                    remedy=f"Delete the folder {paths.shown(path.parent)} to make it again, or keep it and write "
                           f"elsewhere with --home DIR.",
                )
        return made

    def _make(self, table: str) -> str:
        return f"Run `{get_table(table).command(self.profile.name)}`."


def _together(digests: Iterable[str | None]) -> str | None:
    """One digest for several: that of the only known one, None without any."""
    known = sorted({digest for digest in digests if digest is not None})
    return hashlib.sha256("".join(known).encode()).hexdigest()[:16] if len(known) > 1 else next(iter(known), None)


def has_table(profile: str, table: str) -> bool:
    """Whether a final table is there: a live one, or one committed with the repository."""
    return table_path(profile, table).is_file() or find_committed(profile, table) is not None


def load_table(profile: str, table: str) -> pd.DataFrame:
    """A final table for reading: the live one when it is there, otherwise the one committed with the repository.

    Raises:
        ResultError: neither is there, it does not follow the data dictionary, or it differs from what its manifest
            says was written.
    """
    live, committed = table_path(profile, table), find_committed(profile, table)
    path = live if live.is_file() or committed is None else committed
    frame = read_table(table, path)
    made = read_manifest(path.parent / f"{table}.json")
    if made is None or made["sha256"] != sha256(table_bytes(path)):
        raise ResultError(
            "the table is not the one that its manifest describes", where=paths.shown(path),
            remedy=f"Make it again: `{get_table(table).command(profile)}`.",
        )
    return frame


def derived_tables(profile: Profile) -> list[str]:
    """The tables of a profile that follow from other tables, without a model."""
    of_stage = {name: table.stage for name, table in all_tables().items()}
    if profile.gold_loss is not None:
        return [*(name for name, stage in of_stage.items() if stage == "decide"), "verdicts"]
    return ["shortfall", "overlap", *(name for name, stage in of_stage.items() if stage == "claims")]


def publish(profile: Profile, names: Iterable[str] | None = None) -> list[Path]:
    """Copy merged tables of a profile (all of them by default) with their manifests to `results/PROFILE`; the paths.

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
        target, other = (folder / f"{name}.csv{ending}" for ending in ((".gz", "") if long else ("", ".gz")))
        write_whole(target, gzip.compress(content, mtime=0) if long else content)  # equal rows give equal bytes
        write_whole(folder / f"{name}.json", source.with_suffix(".json").read_bytes())
        other.unlink(missing_ok=True)  # of an earlier, shorter table
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
        "One folder per profile: CSV in UTF-8, one row per measurement, key columns first; long tables are compressed "
        "(`.csv.gz`, which pandas reads directly). `TABLE.json` beside each says how it was made: settings, versions, "
        "device, seconds, and the sha256 of its rows. `versions` and `git` are of the machine that put it together; "
        "where runs were made elsewhere, `parts_made` has theirs.\n\n"
        "Tables of runs are made on a GPU by `python -m retrieval_heads grid --profile report`; those of the stage "
        "`claims` follow from them. `python -m retrieval_heads publish --profile report` copies all of them here; with "
        "`--derived`, it renews only what follows from the tables of runs, which stay unchanged. The folder "
        "`controls` holds later measurements of the runs whose adapters come with the repository.\n\n"
        "The folder `pretrained` is the second study, by `make pretrained`. `parts.tar.xz` has the parts that its "
        "tables were put together from, to which the grid can add (CONTRIBUTING.md says how). Its table `pilot` is by "
        "`python tools/pretrained_pilot.py`: `mdqa` before the runs, `musique` after them; the manifest was written "
        "afterwards from the table. Its table `checks` is made from the others by `python "
        "tools/pretrained_checks.py`.\n\n"
        + dictionary_markdown()
    )


def find_committed(profile: str, table: str) -> Path | None:
    """The table that comes with the repository; None where there is none."""
    found = (paths.results_folder(profile) / f"{table}.csv{ending}" for ending in ("", ".gz"))
    return next((path for path in found if path.is_file()), None)
