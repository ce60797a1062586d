"""Plain causal attention for rows without padding, also under `torch.compile`.

While a model is compiled, transformers writes the causal mask out instead of leaving it to SDPA, which then can neither
use its causal kernel nor share key heads within a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

IMPLEMENTATION = "retrieval_heads_causal"


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(IMPLEMENTATION, sdpa_attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


@contextmanager
def attention_of(model: nn.Module, implementation: str) -> Iterator[None]:
    """Inside the block the model's attention is `implementation`.

    With `IMPLEMENTATION` no mask is made, so every row must be without padding on the left.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
