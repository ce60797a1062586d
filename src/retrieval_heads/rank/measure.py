"""The work of a ranking: short fine-tunes, their losses and heads on the probe examples, each kept once it is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ResultError
from retrieval_heads.evaluation import answer_losses
from retrieval_heads.files import UNREADABLE, write_whole
from retrieval_heads.heads.scores import retrieval_scores
from retrieval_heads.models.load import load_model
from retrieval_heads.progress import named
from retrieval_heads.rank.request import Request
from retrieval_heads.training.finetune import finetune
from retrieval_heads.training.lora_settings import LoraSettings

BATCH = 4
"""Probe examples in one forward pass; no result depends on it."""


@dataclass(frozen=True)
class Measured:
    """What one model shows on the probe examples.

    Attributes:
        losses: float64 `[n_probe]`, nats an answer token.
        training_loss: loss of the last step of its fine-tuning, as in the report; NaN without one.
        scores: float32 `[n_layers, n_heads]`, retrieval scores; None where no probe example has needles.
        n_scored: examples that the scores rest on.
    """

    losses: np.ndarray
    training_loss: float
    scores: np.ndarray | None
    n_scored: int


@dataclass(frozen=True)
class Maker:
    """Makes the measurements of one request.

    Attributes:
        request: what is asked for.
        folder: of the base model.
        device: to compute on.
        kind: of retrieval score: `copy`, or `insight` where the answer is a document's number.
        settings: of the fine-tunes, but for the seed; `max_length` is the length of the longest example in tokens.
    """

    request: Request
    folder: Path
    device: str
    kind: str
    settings: LoraSettings

    def tuned(
        self, name: str, place: str, examples: Sequence[Encoded], probe: Sequence[Example], seed: int
    ) -> Measured:
        """Fine-tune on one set, unless it has been, and measure; `place` is where below the folder the adapter lies."""
        name = f"{name}__s{seed}"
        adapter = self.request.out / place / name

        def make() -> Measured:
            record = finetune(self.folder, examples, adapter, replace(self.settings, seed=seed), self.device)
            model, tokenizer = load_model(self.folder, adapter, self.device, max_length=self.settings.max_length)
            losses = answer_losses(model, tokenizer, probe, batch_size=BATCH)
            return Measured(losses, float(record["loss"][-1]["loss"]), *self._heads(model, tokenizer, probe))

        return self._kept(f"{place}-{name}", make)

    def untuned(self, probe: Sequence[Example]) -> Measured:
        """The base model at the length and RoPE theta of the fine-tuned ones."""
        def make() -> Measured:
            model, tokenizer = load_model(self.folder, device=self.device, rope_theta=self.settings.rope_theta,
                                          max_length=self.settings.max_length)
            losses = answer_losses(model, tokenizer, probe, batch_size=BATCH)
            return Measured(losses, float("nan"), *self._heads(model, tokenizer, probe))

        return self._kept("untuned", make)

    def base(self, probe: Sequence[Example]) -> Measured:
        """The base model as it is, on examples that are short enough for it."""
        def make() -> Measured:
            model, tokenizer = load_model(self.folder, device=self.device)
            losses = answer_losses(model, tokenizer, probe, batch_size=BATCH)
            return Measured(losses, float("nan"), *self._heads(model, tokenizer, probe))

        return self._kept("base", make)

    def _heads(self, model: nn.Module, tokenizer: Any, probe: Sequence[Example]) -> tuple[np.ndarray | None, int]:
        if not any(example.needles for example in probe):
            return None, 0
        found = retrieval_scores(model, tokenizer, probe, kind=self.kind, batch_size=BATCH)
        return found.scores, found.n_used

    def _kept(self, name: str, make: Callable[[], Measured]) -> Measured:
        path = self.request.out / "measured" / f"{name}.json"
        if path.is_file():
            return _read(path)
        with named(name.replace("__s", ", seed ").replace("adapters-", "").replace("reference-", "")):
            made = make()
        content = {
            "losses": made.losses.tolist(), "n_scored": made.n_scored,
            "training_loss": None if np.isnan(made.training_loss) else made.training_loss,
            "scores": None if made.scores is None else made.scores.astype(float).tolist(),
        }
        write_whole(path, (json.dumps(content) + "\n").encode())
        return _read(path)


def _read(path: Path) -> Measured:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        loss, scores = found["training_loss"], found["scores"]
        return Measured(
            np.array(found["losses"], dtype=np.float64), float("nan") if loss is None else float(loss),
            None if scores is None else np.array(scores, dtype=np.float32), int(found["n_scored"]),
        )
    except UNREADABLE as error:
        raise ResultError("the measurement is damaged", where=path, value=str(error),
                          remedy="Delete the file: it is made again.") from error


def longest(examples: Sequence[Example], tokenizer: Any, limit: int | None) -> tuple[list[Encoded], int]:
    """The examples as tokens, and the length of the longest; an error for one of more than `limit` tokens."""
    encoded = encode_all(examples, tokenizer, limit)
    return encoded, max((len(item.ids) for item in encoded), default=0)
