"""What is to be diagnosed: checked before any work, and written beside the results so that no two requests mix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ConfigError
from retrieval_heads.files import content_digest
from retrieval_heads.models.extension import ADAPTER_WEIGHTS
from retrieval_heads.settings import REFERENCE, UNTUNED

_FORMAT = 3
"""Of the kept measurements: those of another one are not gone on with."""

_NAME = re.compile(r"[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*")
_RESERVED = {REFERENCE: "Give real training examples by --real-train, or an adapter by --adapter real=FOLDER.",
             **dict.fromkeys((UNTUNED, "base"), "It stands for the model without fine-tuning: choose another.")}


@dataclass(frozen=True)
class Request:
    """One call of `diagnose`.

    Attributes:
        model: folder or cached hub id of the base model.
        train: file of examples of each training set, by name.
        evaluation: file of real examples, from which probe and test examples are taken.
        out: folder for adapters, measurements, tables and the report.
        real_train: file of real training examples, the reference of heads and of the gap.
        probe: file of the examples that heads are scored on; without it a part of `evaluation`.
        adapters: trained adapters by set name, instead of a training; `real` may be one.
        length: most tokens of an example; None for the longest one's.
        rope_theta: of the fine-tuned models; None for the given adapters', or the base's raised for the length.
        seeds: of the fine-tunings; a given adapter stands under the first.
        n_probe: how many evaluation examples are for the probe; None for half of them.
        limit: the first so many examples of each file only, for a trial.
        epochs, lr, rank, batch_size, bf16, gradient_checkpointing: of the fine-tunings, see `LoraSettings`.
        threshold: heads with a score above are retrieval heads.
        draws: random controls for each set of heads.
        bootstrap: samples of each interval.
        template_arguments: what the chat template is told that writes `messages` out.

    Raises:
        ConfigError: no set, a name that is taken or no file's name, a number out of range, options that exclude others.
    """

    model: str
    train: Mapping[str, Path]
    evaluation: Path
    out: Path
    real_train: Path | None = None
    probe: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    length: int | None = None
    rope_theta: float | None = None
    seeds: tuple[int, ...] = (1,)
    n_probe: int | None = None
    limit: int | None = None
    epochs: int = 5
    lr: float = 3e-3
    rank: int = 8
    batch_size: int = 4
    bf16: bool = False
    gradient_checkpointing: bool = False
    threshold: float = 0.1
    draws: int = 3
    bootstrap: int = 2000
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("no training set", where="--train", value=[],
                              remedy="Give --train NAME=FILE or --adapter NAME=FOLDER at least once.")
        for name in self.names:
            if not _NAME.fullmatch(name) or not name.strip("."):
                raise ConfigError("not usable in a file name", where="--train", value=name,
                                  remedy="Use letters, digits, `.`, `-` and single `_`.")
            if name in _RESERVED:
                raise ConfigError("a reserved name", where="--train", value=name, remedy=_RESERVED[name])
        twice = sorted(set(self.train) & set(self.adapters)) or (
            [REFERENCE] if self.real_train and REFERENCE in self.adapters else [])
        if twice:
            raise ConfigError("both examples and an adapter", where="--adapter", value=twice,
                              remedy="Give one of them for each set.")
        if self.probe is not None and self.n_probe is not None:
            raise ConfigError("the probe examples are given twice", where="--n-probe and --probe", value=self.n_probe,
                              remedy="Leave one of them out.")
        for name in ("length", "n_probe", "limit", "draws", "bootstrap"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("less than one", where=f"--{name.replace('_', '-')}", value=value,
                                  remedy="Give 1 or more.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError("not different seeds of 0 or more", where="--seeds", value=list(self.seeds),
                              remedy="Give some whole numbers, each once, as in --seeds 1 2.")
        if not 0 <= self.threshold < 1:
            raise ConfigError("no threshold of a fraction", where="--threshold", value=self.threshold,
                              remedy="Give a number from 0 to below 1; the report of this study uses 0.1.")

    @property
    def names(self) -> list[str]:
        """The sets that are diagnosed, without the real one."""
        return [*self.train, *(name for name in self.adapters if name != REFERENCE)]

    @property
    def has_real(self) -> bool:
        return self.real_train is not None or REFERENCE in self.adapters

    def record(self, fingerprint: str) -> dict[str, Any]:
        """What the results depend on: contents of files instead of their places."""
        adapters = {name: content_digest(folder / ADAPTER_WEIGHTS) for name, folder in self.adapters.items()}
        plain = ("length", "rope_theta", "n_probe", "limit", "epochs", "lr", "rank", "batch_size", "bf16",
                 "gradient_checkpointing", "threshold", "draws", "bootstrap")
        return {
            "format": _FORMAT, "model": fingerprint,
            "train": {name: content_digest(path) for name, path in self.train.items()}, "adapter": adapters,
            "eval": content_digest(self.evaluation),
            "real_train": None if self.real_train is None else content_digest(self.real_train),
            "probe": None if self.probe is None else content_digest(self.probe), "seeds": list(self.seeds),
            **{name: getattr(self, name) for name in plain},
            **({"template_arguments": dict(self.template_arguments)} if self.template_arguments else {}),
        }
