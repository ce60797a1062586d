"""How a model is set while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from retrieval_heads.models.one_length import one_length


@contextmanager
def evaluation_mode(model: nn.Module, max_length: int | None = None) -> Iterator[None]:
    """Without dropout inside the block, and with the RoPE of one length (see `one_length`); afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with one_length(model, max_length):
            yield
    finally:
        for module, training in modes:
            module.training = training
