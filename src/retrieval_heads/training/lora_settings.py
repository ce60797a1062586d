"""The settings of one LoRA fine-tuning, checked against each other, and the operations that a step of it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from retrieval_heads.errors import ConfigError

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class LoraSettings:
    """How a base model is extended.

    Attributes:
        rope_theta: base frequency of RoPE during training, and from then on.
        max_length: tokens; no training example may be longer, and the model's length is raised to it.
        rank: rank of the LoRA matrices.
        alpha: their product is scaled by alpha / rank.
        target_modules: which of the attention projections get an adapter.
        lr: highest learning rate (AdamW).
        epochs: passes over the examples.
        batch_size: examples in one forward pass.
        accumulation: forward passes for one optimizer step.
        warmup: fraction of the steps in which the learning rate rises.
        schedule: of the learning rate: `linear`, `cosine`, `constant` or `constant_with_warmup`.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them.
        weight_decay: of AdamW.
        seed: of the adapter's first values and the order of the examples.
        bf16: bfloat16 autocast.
        gradient_checkpointing: less memory, about a third more time.
        save_steps: optimizer steps between checkpoints; None for no checkpoints (and no resuming).

    Raises:
        ConfigError: a value out of range, or two that contradict each other.
    """

    rope_theta: float
    max_length: int
    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[str, ...] = ATTENTION_PROJECTIONS
    lr: float = 3e-3
    epochs: int = 5
    batch_size: int = 4
    accumulation: int = 1
    warmup: float = 0.05
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_steps: int | None = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        for name in ("max_length", "rank", "epochs", "batch_size", "accumulation", "save_steps", "seed"):
            value, least = getattr(self, name), {"max_length": 2, "seed": 0}.get(name, 1)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= least) and (name, value) != ("save_steps", None):
                _refuse(name, value, f"Give a whole number of at least {least}.")
        for name, least in (("rope_theta", 1), ("alpha", 0), ("lr", 0)):
            value = self._number(name)
            if not value > least:
                _refuse(name, value, f"Give a number above {least}.")
        for name in ("weight_decay", "max_grad_norm"):
            if self._number(name) < 0:
                _refuse(name, getattr(self, name), "Give 0 or more.")
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                _refuse(field.name, getattr(self, field.name), "Give true or false.")
        if not self.target_modules or not set(self.target_modules) <= set(ATTENTION_PROJECTIONS):
            _refuse("target_modules", self.target_modules, f"Choose among {', '.join(ATTENTION_PROJECTIONS)}.")
        if self.schedule not in SCHEDULES:
            _refuse("schedule", self.schedule, f"Choose one of {', '.join(SCHEDULES)}.")
        if not 0 <= self._number("warmup") < 1:
            _refuse("warmup", self.warmup, "Give a fraction of the steps, from 0 to below 1.")
        if self.warmup > 0 and self.schedule == "constant":
            _refuse("warmup", self.warmup, "A constant schedule has none: give 0, or schedule constant_with_warmup.")

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            _refuse(name, value, "Give a finite number.")
        return value


def _refuse(name: str, value: object, remedy: str) -> None:
    raise ConfigError("not a usable setting", where=f"LoRA setting `{name}`", value=value, remedy=remedy)


def floor_tflop(shape: Any) -> dict[str, float]:
    """TFLOP (10^12 operations) that one step cannot do without, by part: frozen projections, attention, adapters.

    Products with frozen weights count in the forward pass and, for the gradient of activations, once more in the
    backward pass; causal attention has 2 products forward and 5 backward, on half of the square each. Neither anything
    computed again nor the logits count. `shape` has the columns of the table `lora_step` as attributes.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    shapes = [(shape.hidden, queries), (shape.hidden, keys), (shape.hidden, keys), (queries, shape.hidden)]
    frozen = sum(a * b for a, b in shapes) + 3 * shape.hidden * shape.intermediate
    adapters = sum(shape.rank * (a + b) for a, b in shapes)
    each = shape.layers * shape.tokens / 1e12
    return {
        "projections": 2 * 2 * frozen * each,
        "attention": (2 + 5) * shape.tokens * queries * each,  # 2 operations, half of the square
        "adapters": 3 * 2 * adapters * each,
    }
