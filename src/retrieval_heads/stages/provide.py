"""What a chapter asks for: the tables of a stage, computed where they have to be.

The report's tables come with the repository, so that its chapters are shown without a GPU: a stage whose tables are all
there, and of which nothing was computed on this machine, is left alone.
"""

from __future__ import annotations

import importlib

from retrieval_heads import paths
from retrieval_heads.keys import table_path
from retrieval_heads.publish import find_committed
from retrieval_heads.settings import Profile
from retrieval_heads.tables import all_tables


def provide(profile: Profile, stage: str) -> None:
    """Have the tables of a stage made, unless they come with the repository.

    Args:
        stage: name of a module of `retrieval_heads.stages` that makes tables.

    Raises:
        ResultError, ModelError: the stage cannot be run.
    """
    if not comes_with_repository(profile, stage):
        importlib.import_module(f"retrieval_heads.stages.{stage}").run(profile)


def comes_with_repository(profile: Profile, stage: str) -> bool:
    """Whether all tables of a stage are committed and none was begun on this machine."""
    tables = [name for name, table in all_tables().items() if table.stage == stage]
    begun = any(
        table_path(profile.name, name).is_file() or (paths.runs_folder(profile.name) / "parts" / name).is_dir()
        for name in tables
    )
    return bool(tables) and not begun and all(find_committed(profile.name, name) for name in tables)
