"""The hidden folder beside an adapter's place in which it is trained: its checkpoints, and what they belong to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ModelError
from retrieval_heads.files import UNREADABLE


@contextmanager
def left_tidy(work: Path, own: bool) -> Iterator[None]:
    """A failure of the block leaves whole checkpoints to go on from, or no folder; `own`: this process cleans up."""
    try:
        yield
    except BaseException as error:
        if own:
            shutil.rmtree(work / "adapter", ignore_errors=True)
            # a run that diverged would only diverge again
            if isinstance(error, ModelError) or last_checkpoint(work) is None:
                shutil.rmtree(work, ignore_errors=True)
        raise


def open_work(work: Path, inputs: dict[str, Any]) -> str | None:
    """Make the working folder, or take up that of an interrupted call; returns its last whole checkpoint."""
    if _read_json(work / "inputs.json") != inputs:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
    return last_checkpoint(work)


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint of a working folder, from which half ones are removed; None without any."""
    last = None
    for folder in sorted((work / "checkpoints").glob("checkpoint-*"), key=step_of):
        # the Trainer writes this file last
        if _read_json(folder / "trainer_state.json") is None:
            shutil.rmtree(folder)
        else:
            last = str(folder)
    return last


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE:
        return None
