"""What is to be ranked: checked before any work, and written beside the results so that no two requests mix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ConfigError
from retrieval_heads.files import content_digest
from retrieval_heads.settings import UNTUNED

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Request:
    """One call of `rank`.

    Attributes:
        model: folder or cached hub id of the base model.
        train: file of examples of each candidate set, by name; at least two.
        probe: file of real examples, on which losses and heads are measured.
        out: folder for adapters, measurements, `rank.csv` and `rank.json`.
        real_heads: score file of a model trained on real examples, in the form of `attention.exchange`.
        real_train: instead, a file of real training examples, from which such a model is made.
        base_probe: real examples that are short enough for the base model as it is; without it those of `probe`.
        length: most tokens of an example; None for the longest one's.
        rope_theta: of the fine-tuned models; None: the base's, raised for a greater length (see `measure.Maker`).
        examples: how many of each set are used, from the first on.
        epochs, lr, batch_size: of the short fine-tunes.
        seeds: one short fine-tune of each set for each of them; with one, no two sets can be told apart.
        threshold: heads with a score above are retrieval heads.
        template_arguments: what the chat template is told that writes `messages` out.

    Raises:
        ConfigError: fewer than two sets, a name that is no file's name, a number out of range, or both kinds of real
            heads.
    """

    model: str
    train: Mapping[str, Path]
    probe: Path
    out: Path
    real_heads: Path | None = None
    real_train: Path | None = None
    base_probe: Path | None = None
    length: int | None = None
    rope_theta: float | None = None
    examples: int = 50
    epochs: int = 1
    lr: float = 3e-3
    batch_size: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    threshold: float = 0.1
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.train) < 2:
            raise ConfigError("one training set has no order", where="--train", value=list(self.train),
                              remedy="Give --train NAME=FILE at least twice.")
        for name in self.train:
            if not _NAME.fullmatch(name):
                raise ConfigError("a name that no file can have", where="--train", value=name,
                                  remedy="Use letters, digits, '-', '_' and '.', beginning with a letter or digit.")
            if name == UNTUNED:
                raise ConfigError("a reserved name", where="--train", value=name,
                                  remedy="It stands for the model without fine-tuning: choose another.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError("not different seeds of 0 or more", where="--seeds", value=list(self.seeds),
                              remedy="Give some whole numbers, each once, as in --seeds 0 1 2.")
        if self.real_heads is not None and self.real_train is not None:
            raise ConfigError("the real heads are given twice", where="--real-heads and --real-train",
                              remedy="Give the scores, or examples to find them by, not both.")
        for name in ("examples", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("less than one", where=f"--{name}", value=value, remedy="Give 1 or more.")
        if not 0 <= self.threshold < 1:
            raise ConfigError("no threshold of a fraction", where="--threshold", value=self.threshold,
                              remedy="Give a number from 0 to below 1; the report uses 0.1.")

    def record(self, fingerprint: str) -> dict[str, Any]:
        """What the results depend on: contents of files instead of their places."""
        files = {"probe": self.probe, "real_heads": self.real_heads, "real_train": self.real_train,
                 "base_probe": self.base_probe}
        settings = ("length", "rope_theta", "examples", "epochs", "lr", "batch_size", "threshold")
        return {
            "format": 2, "model": fingerprint, "seeds": list(self.seeds),
            "train": {name: content_digest(path) for name, path in self.train.items()},
            **{name: None if path is None else content_digest(path) for name, path in files.items()},
            **{name: getattr(self, name) for name in settings},
            **({"template_arguments": dict(self.template_arguments)} if self.template_arguments else {}),
        }
