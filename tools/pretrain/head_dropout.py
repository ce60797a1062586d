"""Dropping whole heads while the base model is trained, so that several heads learn each job.

Without it a small model ends with one or two retrieval heads, every overlap between head sets is then trivially 1 and
there is nothing to study. The idea is that of head masking (Michel et al. 2019, Are Sixteen Heads Really Better than
One?) used as a regulariser, as attention dropout does for single weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from retrieval_heads.models.layout import head_layout


@contextmanager
def head_dropout(model: nn.Module, rate: float, layer_rate: float = 0.0) -> Iterator[None]:
    """Drop heads at the input of each output projection during training.

    Each sequence and layer draws its own rate from [0, 2 x `rate`], so that some see nearly the whole layer and some
    little of it; with probability `layer_rate` it loses the layer's heads altogether. What is kept is scaled so that
    the expected output stays.
    """
    layout = head_layout(model)

    def drop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if not module.training:
            return args
        heads = args[0].unflatten(-1, (layout.n_heads, layout.head_dim))  # [batch, tokens, heads, head_dim]
        batch, device = heads.shape[0], heads.device
        p = torch.rand(batch, 1, device=device) * 2 * rate
        keep = (torch.rand(batch, layout.n_heads, device=device) >= p) / (1 - p)
        keep = keep * (torch.rand(batch, 1, device=device) >= layer_rate)
        return ((heads * keep.to(heads.dtype)[:, None, :, None]).flatten(-2), *args[1:])

    hooks = [attention.o_proj.register_forward_pre_hook(drop) for attention in layout.attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
