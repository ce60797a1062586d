"""What a chapter asks for: the tables of a stage, computed where they have to be.

The report's tables come with the repository, so that its chapters are shown without a GPU: a stage whose tables are
all there, and of which nothing was computed on this machine, is left alone. So is every stage while the environment
variable `RETRIEVAL_HEADS_AS_IS` is set, as it is when the pages of the report are made from an unfinished grid.
"""

from __future__ import annotations

import importlib
import os

from retrieval_heads import paths
from retrieval_heads.keys import table_path
from retrieval_heads.settings import Profile
from retrieval_heads.store import find_committed
from retrieval_heads.tables import all_tables

AS_IS = "RETRIEVAL_HEADS_AS_IS"

WITH_LOSSES = {"head_hits"}
"""Tables that a stage makes only where the profile measures losses of the gold answer."""


def provide(profile: Profile, stage: str) -> None:
    """Have the tables of a stage made, unless they come with the repository.

    Args:
        stage: name of a module of `retrieval_heads.stages` that makes tables.

    Raises:
        ResultError, ModelError: the stage cannot be run.
    """
    if not (os.environ.get(AS_IS) or comes_with_repository(profile, stage)):
        importlib.import_module(f"retrieval_heads.stages.{stage}").run(profile)


def comes_with_repository(profile: Profile, stage: str) -> bool:
    """Whether all tables of a stage are committed and none was begun on this machine."""
    tables = _tables(profile, stage)
    begun = any(
        table_path(profile.name, name).is_file() or (paths.runs_folder(profile.name) / "parts" / name).is_dir()
        for name in tables
    )
    return bool(tables) and not begun and all(find_committed(profile.name, name) for name in tables)


def at_hand(profile: Profile, stage: str) -> bool:
    """Whether all tables of a stage can be read as they are, without computing anything."""
    tables = _tables(profile, stage)
    return all(table_path(profile.name, name).is_file() or find_committed(profile.name, name) for name in tables)


def _tables(profile: Profile, stage: str) -> list[str]:
    """The tables that a stage makes for the profile."""
    left_out = WITH_LOSSES if profile.gold_loss is None else set()
    return [name for name, table in all_tables().items() if table.stage == stage and name not in left_out]
