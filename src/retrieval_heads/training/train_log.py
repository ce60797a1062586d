"""`train_log.json`: how the base model was trained, one part for each command that trained it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ModelError

TRAIN_LOG = "train_log.json"


@dataclass
class TrainLog:
    """Settings and rows.

    Attributes:
        settings: those of each part of the training, in order.
        rows: `step`, `tokens` and `seconds` since the beginning, and losses or scores.
    """

    settings: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, start: dict[str, float], step: int, tokens: int, seconds: float, **values: float) -> None:
        """A row of the part that began at `start`, which `end` gave."""
        counts = {
            "step": int(start["step"]) + step, "tokens": int(start["tokens"]) + tokens,
            "seconds": round(start["seconds"] + seconds, 1),
        }
        self.rows.append(counts | {name: round(value, 5) for name, value in values.items()})
        print(json.dumps(self.rows[-1]), flush=True)

    def end(self) -> dict[str, float]:
        """`step`, `tokens` and `seconds` of the last row; zeros where there is none."""
        last = self.rows[-1] if self.rows else {}
        return {name: last.get(name, 0) for name in ("step", "tokens", "seconds")}

    def save(self, folder: Path) -> None:
        """Write it beside the model."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"settings": self.settings, "log": self.rows}, indent=1)
        (folder / TRAIN_LOG).write_text(text + "\n", encoding="utf-8")


def read_log(folder: str | Path) -> TrainLog:
    """The log in a model's folder.

    Raises:
        ModelError: the model has no such log, as one that was not trained here, or one that cannot be read.
    """
    path = Path(folder) / TRAIN_LOG
    if not path.is_file():
        raise ModelError("the base model has no training log", where=path, remedy="Use a model trained by `pretrain`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainLog(list(content["settings"]), list(content["log"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "not a readable training log", where=path, value=f"{type(error).__name__}: {error}",
            remedy="Restore the file, or train the base model again.",
        ) from error
