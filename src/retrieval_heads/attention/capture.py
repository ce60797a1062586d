"""Reads rows of the attention matrix during an ordinary forward pass.

An attention function registered with transformers' `AttentionInterface` delegates the layer's output to the SDPA
implementation and, for the wanted query rows only, computes the attention probabilities in float32 and hands them to a
reducer (largest key, mass inside a span, ...). The reducer's small result is all that is kept: never a T x T matrix,
and never the rows of more than one layer. The output of the model is the one that plain SDPA gives, bit for bit.

Works for every decoder whose attention goes through the interface, with grouped-query attention, any head size,
padding and sliding-window masks, plain or wrapped by PEFT.

    with capture_attention(model, rows, lambda probabilities: probabilities.argmax(-1)) as largest:
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
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from retrieval_heads.attention.rows import attention_rows
from retrieval_heads.attention.windows import Window, window_or_mask, windowed_attention
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model, head_layout

IMPLEMENTATION = "retrieval_heads_rows"
"""Name under which the attention function is registered with transformers."""

Reducer = Callable[[torch.Tensor], Any]
"""From the float32 probabilities `[batch, n_heads, n_rows, n_keys]` of one layer to what is kept of them."""

ValueReducer = Callable[[torch.Tensor, torch.Tensor, int], Any]
"""The same, also from the values `[batch, n_kv_heads, n_keys, head_dim]` and the number of the layer."""


@dataclass
class _Capture:
    """What one `capture_attention` block wants, and what the layers have reported so far."""

    rows: torch.Tensor
    first: int
    reduce: Reducer | ValueReducer
    with_values: bool = False
    results: dict[int, Any] = field(default_factory=dict)


# The interface calls a plain function, which finds the block it works for by the attention module. Keyed by module and
# not global, so that two models can be read at the same time (patching) and other parts of a model are left alone.
_ACTIVE: WeakKeyDictionary[nn.Module, tuple[int, _Capture]] = WeakKeyDictionary()

# Attention modules behind which a pass ends.
_LAST: WeakSet[nn.Module] = WeakSet()

# Arguments that change the probabilities and that SDPA does not apply, or that we have no model to test with.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | Window | None, scaling: float | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    layer, capture = _ACTIVE.get(module, (0, None))
    if capture is not None:
        for name in _UNSUPPORTED:
            if kwargs.get(name) is not None:
                raise ModelError(
                    f"the attention uses `{name}`, which SDPA does not apply", where=f"layer {layer}",
                    remedy="Use a decoder with plain softmax attention (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
                )
        with torch.no_grad():
            capture.rows = capture.rows.to(query.device)
            rows = attention_rows(query, key, attention_mask, capture.rows, scaling, capture.first)
            capture.results[layer] = capture.reduce(rows, value, layer) if capture.with_values else capture.reduce(rows)
    if module in _LAST:
        raise _Enough
    if isinstance(attention_mask, Window):
        return windowed_attention(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
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
    grouped, half = query.shape[1] != key.shape[1], query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and mask is None and grouped and not half


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, window_or_mask)


@contextmanager
def lean_attention(model: nn.Module, whatever_it_was: bool = False) -> Iterator[None]:
    """SDPA that never builds a T x T matrix, for want of a mask or as one, in the forward passes of this block.

    Args:
        model: a causal language model, plain or wrapped by PEFT. Its implementation is restored on exit.
        whatever_it_was: also where the model's own implementation is another one than SDPA.
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


@contextmanager
def capture_attention(
    model: nn.Module, rows: torch.Tensor, reduce: Reducer | ValueReducer, with_values: bool = False,
) -> Iterator[list[Any]]:
    """Reduce the attention rows of every layer in the forward passes of this block.

    The model's attention implementation is SDPA inside the block, whatever it was before, and is restored on exit, also
    after an exception. Several passes overwrite each other's results; the list is filled when the block ends.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        rows: int64 `[batch, n_rows]`, for each example of the batch the indices of the wanted rows among the queries
            of the pass (which are the positions, unless a cache holds a prefix). Repeat a row to fill up.
        reduce: called once a layer; see `Reducer`.
        with_values: give the reducer the values too; see `ValueReducer`.

    Yields:
        a list that holds the reducer's result of each layer, in order, once the block has ended.

    Raises:
        ModelError: a layer reported nothing (the attention does not go through transformers' interface, or no pass
            was made), the attention is of a kind that SDPA cannot compute, or the model is being read already.
    """
    base = base_model(model)
    attentions = head_layout(model).attentions
    name = type(base).__name__
    if any(module in _ACTIVE for module in attentions):
        raise ModelError(
            "the attention of this model is being captured already", where=name,
            remedy="Leave the first `capture_attention` block before entering another.",
        )
    capture, results = _Capture(rows, int(rows.min()), reduce, with_values), []
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
