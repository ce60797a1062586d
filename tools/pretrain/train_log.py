"""`train_log.json`: how the base model was trained, one part for each command that trained it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval_heads.stages.base import TRAIN_LOG


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
