"""Sliding windows without a T x T mask.

Where T is longer than the window, transformers gives SDPA a mask `[batch, 1, T, T]`: 1.07 GB for each example of 32,768
tokens, of which the kernel makes a bias of twice that, and computes all T x T products. Here a rule, `Window`, goes
through the model in place of the tensor, and with blocks of queries as long as the window only its products are
computed, twice at most: a quarter of T x T for a window of 4,096 (Mistral-7B-v0.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import sdpa_mask

MASK_CELLS, BLOCK = 2**26, 1024
"""Masks of fewer cells (64 MB) are made whole, as by transformers; fewest queries in a block of a sliding window."""


@dataclass(frozen=True)
class Window:
    """Which keys a query sees: the `size` last ones up to its own, without padding."""

    size: int
    seen: torch.Tensor | None = None  # bool [batch, n_keys], False for padding; None without padding

    def mask(self, queries: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """bool `[batch or 1, 1, n_queries, end - first]`: the keys from `first` to `end` that queries see, given their
        positions, int64 `[n_queries]` or `[batch, n_queries]`."""
        keys = torch.arange(first, end, device=queries.device)
        rows = queries[..., :, None]
        seen = (keys <= rows) & (keys > rows - self.size)
        seen = seen[:, None] if seen.ndim == 3 else seen[None, None]
        return seen if self.seen is None else seen & self.seen[:, None, None, first:end].to(queries.device)


def window_or_mask(**given: Any) -> Window | torch.Tensor | None:
    """What transformers asks for as the mask of SDPA: a `Window` in place of a large mask that is no more than that."""
    size, n_queries, config = given.get("local_size"), given["q_length"], given.get("config")
    # the mask may be something else than a window: chunks, two-sided, or joined with others, which forbids the skip
    plain = size is not None and given.get("allow_is_causal_skip", False) and (
        getattr(config, "sliding_window", None) == size and getattr(config, "attention_chunk_size", None) is None)
    whole = n_queries == given["kv_length"] and given.get("q_offset", 0) == given.get("kv_offset", 0) == 0
    if not (plain and whole and n_queries > size and given["batch_size"] * n_queries**2 >= MASK_CELLS):
        return sdpa_mask(**given)
    padding = given.get("attention_mask")
    return Window(size, None if padding is None or bool(padding.all()) else padding.bool())


def windowed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: Window, scaling: float | None, dropout: float,
) -> tuple[torch.Tensor, None]:
    """What SDPA gives with the window's mask, `[batch, T, n_heads, head_dim]`, block of queries by block."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    parts = []
    for start in range(0, length, size := max(window.size, BLOCK)):
        end, first = min(start + size, length), max(0, start - window.size + 1)
        near_key, near_value = (states[:, :, first:end].repeat_interleave(groups, 1) for states in (key, value))
        mask = window.mask(torch.arange(start, end, device=query.device), first, end)
        parts.append(nn.functional.scaled_dot_product_attention(
            query[:, :, start:end], near_key, near_value, attn_mask=mask, dropout_p=dropout, scale=scaling))
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None
