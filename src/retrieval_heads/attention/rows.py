"""Some rows of the attention matrix, from the queries and keys of a layer."""

from __future__ import annotations

import torch

from retrieval_heads.attention.windows import Window


def attention_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | Window | None, rows: torch.Tensor,
    scaling: float | None, first: int = 0,
) -> torch.Tensor:
    """Attention probabilities of some query rows, as SDPA would weigh the values.

    Args:
        query: `[batch, n_heads, n_queries, head_dim]`, after rotary embedding.
        key: `[batch, n_kv_heads, n_keys, head_dim]`; each key head serves n_heads / n_kv_heads query heads in a row.
        mask: as given to SDPA, boolean (True: attend) or additive, `[batch or 1, n_heads or 1, n_queries, n_keys]`;
            None stands for the causal mask, a `Window` for that of a sliding window.
        rows: int64 `[batch, n_rows]`, indices into the queries.
        scaling: factor of the scores; None stands for 1/sqrt(head_dim).
        first: no row is before this one, so that without a mask all rows see the keys up to it.

    Returns:
        float32 `[batch, n_heads, n_rows, n_keys]`.
    """
    batch, n_heads, n_queries, head_dim = query.shape
    n_kv_heads, n_keys, n_rows = key.shape[1], key.shape[2], rows.shape[1]
    index = rows[:, None, :, None].expand(-1, n_heads, -1, head_dim)
    wanted = query.gather(2, index).reshape(batch * n_kv_heads, -1, head_dim)  # [.., group x n_rows, head_dim]
    scores = _products(wanted, key.reshape(-1, n_keys, head_dim), head_dim**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, n_heads, n_rows, n_keys)
    if mask is not None:
        scores.add_(_additive(mask, rows, n_keys))
    elif n_queries > 1:  # a single query sees all keys of its cache
        # several are aligned with the first keys, as in SDPA; what all of them see is left as it is, since it is the
        # passes over whole rows that reading costs
        seen = (torch.arange(first, n_keys, device=rows.device) <= rows[:, :, None])[:, None]
        scores[..., first:].add_(_bias(seen))
    return scores.softmax(-1)


def _products(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """float32 `[batch, n_rows, n_keys]`: scaled products of the rows of `[batch, n_rows, size]` and `[batch, n_keys,
    size]`, summed in float32; on a GPU without a copy of the keys in float32."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        unused = torch.empty(1, dtype=torch.float32, device=query.device)
        return torch.baddbmm(unused, query, key.transpose(1, 2), out_dtype=torch.float32, beta=0, alpha=scaling)
    return (query.float() * scaling) @ key.float().transpose(1, 2)


def _additive(mask: torch.Tensor | Window, rows: torch.Tensor, n_keys: int) -> torch.Tensor:
    """The mask of the wanted rows, `[batch, n_heads or 1, n_rows, n_keys]`: 0 where a key is seen, or a bias.

    Added rather than filled in, since it is the same for all heads: filling is ten times slower on a CPU.
    """
    if isinstance(mask, Window):
        return _bias(mask.mask(rows, 0, n_keys))
    batch = torch.arange(len(rows), device=rows.device)[:, None]
    some = mask.expand(len(rows), -1, -1, -1)[batch, :, rows, :n_keys].transpose(1, 2)
    return _bias(some) if some.dtype == torch.bool else some.float()


def _bias(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)
