"""The run key: the one object that makes every name and path of a result.

    runs/PROFILE/adapters/RUN/          one fine-tuned adapter
    runs/PROFILE/parts/TABLE/RUN.csv    one run's rows of a table, with its manifest RUN.json
    runs/PROFILE/tables/TABLE.csv       the rows of all runs, with its manifest TABLE.json

where RUN is `TASK__CONDITION__sSEED__BASE`, for instance `mdqa__low_high__s0__base`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.config import close_match
from retrieval_heads.errors import ConfigError
from retrieval_heads.settings import Profile

RUN = ["task", "condition", "seed", "base"]
"""The key columns of a run, in every table that has rows of runs."""

_WORD = re.compile(r"[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*")


@dataclass(frozen=True, order=True)
class RunKey:
    """One fine-tuning: task x condition x seed x base model, within a profile.

    `ConfigError` for a component that cannot be part of a name (letters, digits, `.`, `-` and single `_`).
    """

    profile: str
    task: str
    condition: str
    seed: int
    base: str

    def __post_init__(self) -> None:
        for name in ("profile", "task", "condition", "base"):
            value = getattr(self, name)
            if not _WORD.fullmatch(value) or not value.strip("."):
                raise ConfigError(
                    "not usable in a file name", where=f"run key, {name}", value=value,
                    remedy="Use letters, digits, `.`, `-` and single `_`.",
                )

    @property
    def name(self) -> str:
        """The run's name within its profile."""
        return f"{self.task}__{self.condition}__s{self.seed}__{self.base}"

    def __str__(self) -> str:
        return f"{self.profile}/{self.name}"

    @property
    def columns(self) -> dict[str, str | int]:
        """The key columns of the run's rows in every table."""
        return {name: getattr(self, name) for name in RUN}

    @property
    def adapter(self) -> Path:
        """The folder that the run's adapter is trained into; `stages.common.adapter_path` says where it is read."""
        return paths.runs_folder(self.profile) / "adapters" / self.name

    def to(self, condition: str) -> RunKey:
        """The run that differs in the condition only, for instance the `real` one to compare with."""
        return RunKey(self.profile, self.task, condition, self.seed, self.base)


def part_path(profile: str, table: str, part: RunKey | str) -> Path:
    """One part of a table: the rows of a run, or of another unit of work such as a task, given by name."""
    return paths.runs_folder(profile) / "parts" / table / f"{getattr(part, 'name', part)}.csv"


def table_path(profile: str, table: str) -> Path:
    """A table with the rows of all parts."""
    return paths.runs_folder(profile) / "tables" / f"{table}.csv"


def lock_path(profile: str, part: RunKey | str) -> Path:
    """The lock of one unit of work, whichever its tables: one process is at a run at a time."""
    return paths.runs_folder(profile) / f".{getattr(part, 'name', part)}.lock"


@dataclass(frozen=True)
class Options:
    """The part of a study that is asked for: the runs of one task, one seed, one base model; all of it by default."""

    task: str | None = None
    seed: int | None = None
    base: str | None = None


def study_grid(
    profile: Profile, task: str | None = None, seed: int | None = None, base: str | None = None,
) -> list[RunKey]:
    """The runs of a study: tasks x seeds x base models x conditions, in the profile's order, or those of one of them.

    `ConfigError` for a task, seed or base model (by its name, see `base_names`) that the profile does not have.
    """
    given = (("task", task, profile.tasks), ("seed", seed, profile.seeds), ("base", base, profile.base_names))
    for name, value, allowed in given:
        if value is not None and value not in allowed:
            raise ConfigError(f"the profile {profile.name} has no such {name}", where=name, value=value,
                              remedy=f"{close_match(value, allowed)} The profile's `{name}s` decide.")
    return [
        RunKey(profile.name, one_task, condition, one_seed, one_base)
        for one_task in profile.tasks if task in (None, one_task)
        for one_seed in profile.seeds if seed in (None, one_seed)
        for one_base in profile.base_names if base in (None, one_base)
        for condition in profile.conditions
    ]
