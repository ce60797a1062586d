"""A beginning that several inputs share, in a model's key/value cache, and what follows it as short passes.

Different suffixes can share a pass: they stand side by side, and the attention mask lets each see the cached beginning
and itself only. There is one cache, never a copy for each suffix, and each pass leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import create_masks_for_generate

from retrieval_heads.attention.capture import lean_attention, stop_at_last_attention
from retrieval_heads.data.encode import filled_up
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model


class SharedPrefix:
    """The first tokens of some inputs in a model's key/value cache.

    Args:
        model: a causal language model, plain or wrapped by PEFT; interventions in force now reach the prefix.
        ids: the tokens, at least one.

    Attributes:
        length: number of tokens.
        cache: the model's key/value cache, `[1, n_kv_heads, length, head_dim]` a layer.

    Raises:
        ModelError: some layers keep something else than keys and values (a recurrent state, say).
    """

    def __init__(self, model: nn.Module, ids: Sequence[int]) -> None:
        self.model, self.length = model, len(ids)
        self.cache = new_cache(model)
        self._device = model.get_input_embeddings().weight.device
        with torch.no_grad(), lean_attention(model), stop_at_last_attention(model):
            model(
                input_ids=torch.tensor([list(ids)], device=self._device), past_key_values=self.cache, use_cache=True,
                logits_to_keep=1,
            )

    @torch.no_grad()
    def run(self, suffixes: Sequence[Sequence[int]]) -> None:
        """One pass of all suffixes side by side, each padded on the right to the longest; for what hooks see of it.

        Suffix i has the rows from i x longest on, and its own keys follow those of the prefix in the same order.
        """
        n_rows = max(map(len, suffixes))
        ids = [token for suffix in filled_up(suffixes) for token in suffix]
        positions = self.length + torch.arange(n_rows, device=self._device)
        mask = side_by_side_mask(self.model, self.cache, 1, self.length, n_rows, len(suffixes))
        try:
            self.model(
                input_ids=torch.tensor([ids], device=self._device), attention_mask=mask,
                position_ids=positions.repeat(len(suffixes))[None], past_key_values=self.cache, use_cache=True,
                logits_to_keep=1,
            )
        finally:
            crop(self.cache, self.length)


def new_cache(model: nn.Module) -> DynamicCache:
    """An empty cache whose layers keep all positions, whatever the model's windows are.

    Those of a sliding-window model would forget what falls out of the window and could not be put back; the mask limits
    what they see all the same.
    """
    if not can_share(model):
        raise ModelError(
            "some layers keep something else than keys and values", where=type(model).__name__,
            value=sorted(kind.__name__ for kind in _layer_kinds(model)), remedy="Use scope `all` for this model.",
        )
    return DynamicCache()


def can_share(model: nn.Module) -> bool:
    """Whether all layers keep keys and values, so that what follows a prefix can be taken back."""
    return _layer_kinds(model) <= {DynamicLayer, DynamicSlidingWindowLayer}


def _layer_kinds(model: nn.Module) -> set[type]:
    return {type(layer) for layer in DynamicCache(config=text_config(model)).layers}


def crop(cache: DynamicCache, length: int) -> None:
    """Forget all positions from `length` on, also where only some layers have them (after an exception)."""
    for layer in cache.layers:
        surplus = layer.get_seq_length() - length
        if surplus > 0:  # older versions of transformers take a zero for a length, and would forget everything
            layer.crop(-surplus)


def side_by_side_mask(
    model: nn.Module, cache: Any, n_examples: int, length: int, n_rows: int, copies: int,
    seen: torch.Tensor | None = None,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Attention mask for suffixes side by side behind a cached prefix, each of which sees the prefix and itself.

    Args:
        cache: the cache, which holds `length` positions of each of `n_examples` rows.
        n_rows: tokens of each suffix.
        copies: suffixes of each example.
        seen: int64 `[n_examples, length + n_rows]`, 0 in columns that are padding; None without padding.

    Returns:
        `[n_examples or 1, 1, copies x n_rows, length + copies x n_rows]` in the form that the model's attention takes;
        one for each kind of layer where they differ.
    """
    # the values of the embeddings are not read, only their batch, length and dtype
    embeddings = model.get_input_embeddings().weight.new_empty((n_examples, n_rows, 1))
    single = create_masks_for_generate(text_config(model), embeddings, seen, cache)
    if isinstance(single, dict):
        return {kind: _tile(mask, length, n_rows, copies, embeddings.device) for kind, mask in single.items()}
    return _tile(single, length, n_rows, copies, embeddings.device)


def _tile(mask: torch.Tensor | None, length: int, n_rows: int, copies: int, device: torch.device) -> torch.Tensor:
    """From the mask `[examples, 1, n_rows, length + n_rows]` of one suffix to that of several side by side."""
    if mask is None:  # plain causal attention
        mask = torch.ones(1, 1, n_rows, length + n_rows, dtype=torch.bool).tril(length).to(device)
    prefix, own = mask[..., :length].repeat(1, 1, copies, 1), mask[..., length:]
    copy = torch.arange(copies, device=mask.device).repeat_interleave(n_rows)
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    own = own.repeat(1, 1, copies, copies).masked_fill(copy[:, None] != copy, hidden)
    return torch.cat([prefix, own], -1)


def text_config(model: nn.Module) -> PreTrainedConfig:
    """The config of the decoder, for plain and PEFT models."""
    base = base_model(model)
    return base.config.get_text_config()
