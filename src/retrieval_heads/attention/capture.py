"""Reads rows of the attention matrix during an ordinary forward pass.

An attention function registered with transformers' `AttentionInterface` delegates the layer's output to the SDPA
implementation and, for the wanted query rows only, computes the attention probabilities in float32 and hands them to a
reducer (largest key, mass inside a span, ...). The reducer's small result is all that is kept: never a T x T matrix,
and never the rows of more than one layer. The output of the model is the one that plain SDPA gives, bit for bit, but
for short passes after a cache on a GPU, which need no copies of the keys here (`short_attention`).

Works for every decoder whose attention goes through the interface, with grouped-query attention, any head size,
padding and sliding-window masks, plain or wrapped by PEFT.

    with capture_attention(model, rows, lambda probabilities, value, layer: probabilities.argmax(-1)) as largest:
        model(input_ids=ids)
    largest[layer]      # int64 [batch, n_heads, n_rows]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from retrieval_heads.attention.windows import Window, window_or_mask, windowed_attention
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model, head_layout

IMPLEMENTATION = "retrieval_heads_rows"
"""Name under which the attention function is registered with transformers."""

SHORT_CELLS = 2**28
"""Most attention weights of a layer that a short pass makes, for which it needs some 2.5 GB at its peak."""

Reducer = Callable[[torch.Tensor, torch.Tensor, int], Any]
"""From one layer's float32 probabilities `[batch, n_heads, n_rows, n_keys]`, its values `[batch, n_kv_heads, n_keys,
head_dim]` and its number to what is kept of them."""


@dataclass
class _Capture:
    """What one `capture_attention` block wants, and what the layers have reported so far."""

    rows: torch.Tensor
    first: int
    reduce: Reducer
    results: dict[int, Any] = field(default_factory=dict)


# The interface calls a plain function, which finds the block it works for by the attention module. Keyed by module and
# not global, so that two models can be read at the same time (patching) and other parts of a model are left alone.
_ACTIVE: WeakKeyDictionary[nn.Module, tuple[int, _Capture]] = WeakKeyDictionary()

# Attention modules behind which a pass ends.
_LAST: WeakSet[nn.Module] = WeakSet()

# Arguments that change the probabilities and that SDPA does not apply, or that we have no model to test with.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def capture_attention(model: nn.Module, rows: torch.Tensor, reduce: Reducer) -> Iterator[list[Any]]:
    """Reduce the attention rows of every layer in the forward passes of this block.

    The model's attention implementation is SDPA inside the block, whatever it was before, and is restored on exit, also
    after an exception. Several passes overwrite each other's results; the list is filled when the block ends.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        rows: int64 `[batch, n_rows]`, for each example of the batch the indices of the wanted rows among the queries
            of the pass (which are the positions, unless a cache holds a prefix). Repeat a row to fill up.
        reduce: called once per layer; see `Reducer`.

    Yields:
        a list that holds the reducer's result of each layer, in order, once the block has ended.

    Raises:
        ModelError: a layer reported nothing (the attention does not go through transformers' interface, or no pass
            was made), the attention is of a kind that SDPA cannot compute, or the model is being read already.
    """
    attentions, name = head_layout(model).attentions, type(base_model(model)).__name__
    if any(module in _ACTIVE for module in attentions):
        raise ModelError(
            "the attention of this model is being captured already", where=name,
            remedy="Leave the first `capture_attention` block before entering another.",
        )
    capture, results = _Capture(rows, int(rows.min()), reduce), []
    _ACTIVE.update({module: (layer, capture) for layer, module in enumerate(attentions)})
    try:
        with lean_attention(model, whatever_it_was=True):
            yield results
    finally:
        for module in attentions:
            _ACTIVE.pop(module, None)
    silent = [layer for layer in range(len(attentions)) if layer not in capture.results]
    if silent:
        raise ModelError(
            "no attention was seen in some layers", where=name, value=silent,
            remedy="Run a forward pass inside the block, on a model whose attention uses transformers' interface.",
        )
    results.extend(capture.results[layer] for layer in range(len(attentions)))


@contextmanager
def lean_attention(model: nn.Module, whatever_it_was: bool = False) -> Iterator[None]:
    """SDPA that never builds a T x T matrix, for want of a mask or as one, in the forward passes of this block.

    Another implementation than SDPA is left alone, unless `whatever_it_was`; it is restored on exit.
    """
    base = base_model(model)
    before = base.config._attn_implementation
    if before != "sdpa" and not whatever_it_was:
        yield
        return
    try:
        base.set_attn_implementation(IMPLEMENTATION)
        yield
    finally:
        base.set_attn_implementation(before)


@contextmanager
def fastest_attention() -> Iterator[None]:
    """SDPA by cuDNN's kernel where there is one: backwards it is faster than the others, but built anew per shape."""
    first = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    with sdpa_kernel(list(first), set_priority=True):
        yield


class _Enough(Exception):  # noqa: N818 - not an error
    """Ends a forward pass of which nothing more is wanted."""


@contextmanager
def stop_at_last_attention(model: nn.Module) -> Iterator[None]:
    """The forward pass of this block ends, and the block with it, once the last layer has its queries, keys and values.

    The rows of all layers have been read then, and a cache is full; what would follow costs a layer's time. Only where
    the attention is that of this module (`capture_attention`, `lean_attention`); elsewhere the pass goes to its end.
    """
    last = head_layout(model).attentions[-1]
    _LAST.add(last)
    try:
        yield
    except _Enough as enough:
        enough.__traceback__ = None  # Python 3.12 keeps the exception for a while, and with it the states of the pass
    finally:
        _LAST.discard(last)


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | Window | None, scaling: float | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' interface."""
    layer, capture = _ACTIVE.get(module, (0, None))
    if capture is not None:
        if used := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
            raise ModelError(
                f"the attention uses `{used[0]}`, which SDPA does not apply", where=f"layer {layer}",
                remedy="Use a decoder with plain softmax attention (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
            )
        with torch.no_grad():
            capture.rows = capture.rows.to(query.device)
            rows = attention_rows(query, key, attention_mask, capture.rows, scaling, capture.first)
            capture.results[layer] = capture.reduce(rows, value, layer)
    if module in _LAST:
        raise _Enough
    if isinstance(attention_mask, Window):
        return windowed_attention(query, key, value, attention_mask, scaling, kwargs.get("dropout", 0.0))
    if copies_keys(query, key, attention_mask) and not any(kwargs.get(name) is not None for name in _UNSUPPORTED):
        return short_attention(query, key, value, attention_mask, scaling), None
    if _falls_to_square(query, key, attention_mask):
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        # stands for an attention whose heads are in no groups
        module = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _falls_to_square(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether SDPA, given these states as transformers does, would build the whole T x T matrix.

    On CUDA only the flash kernel takes grouped heads, and only in bf16 and fp16. In float32 they are given ungrouped,
    for the memory-efficient kernel; with a mask transformers ungroups them by itself.
    """
    return query.is_cuda and mask is None and query.shape[1] != key.shape[1] and query.dtype not in _HALF


def copies_keys(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether this is a short pass after a cache for which transformers would copy the keys to every head of a group.

    No kernel of SDPA takes both grouped heads and a mask. At 16,384 tokens the copies take most of the pass's time.
    """
    after_cache = mask is not None and query.shape[2] < key.shape[2] and not torch.is_grad_enabled()
    grouped = query.shape[1] != key.shape[1] and query.is_cuda and query.dtype in _HALF
    return after_cache and grouped and query.shape[:3].numel() * key.shape[2] <= SHORT_CELLS


def short_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None,
) -> torch.Tensor:
    """What SDPA gives, `[batch, n_queries, n_heads, head_dim]`, by whole rows; grouped heads read the keys once."""
    batch, n_heads, n_queries, _ = query.shape
    rows = torch.arange(n_queries, device=query.device).expand(batch, -1)
    weights = attention_rows(query, key, mask, rows, scaling).to(value.dtype)
    found = weights.view(batch, key.shape[1], -1, key.shape[2]) @ value
    return found.view(batch, n_heads, n_queries, -1).transpose(1, 2).contiguous()


def attention_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | Window | None, rows: torch.Tensor,
    scaling: float | None, first: int = 0,
) -> torch.Tensor:
    """float32 `[batch, n_heads, n_rows, n_keys]`: attention probabilities of some rows, as SDPA would weigh the values.

    Query `[batch, n_heads, n_queries, head_dim]`, key `[batch, n_kv_heads, n_keys, head_dim]` and mask (boolean, True:
    attend, or additive) are as given to SDPA; no mask stands for the causal one, no scaling for 1/sqrt(head_dim).
    `rows` int64 `[batch, n_rows]` are indices into the queries, none of them before `first`.
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
    """float32 `[batch, n_rows, n_keys]`, summed in float32; on a GPU without a copy of the keys in float32."""
    if query.is_cuda and query.dtype in _HALF:
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


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, window_or_mask)
