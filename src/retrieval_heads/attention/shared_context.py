"""A context that several inputs share: found among examples, run once into a model's key/value cache, and what follows.

Examples share a haystack when their tokens begin alike for so long that the beginning is run once for all. Only tokens
count: the same documents with other questions, or one prompt with other answers, are found wherever they come from and
in whatever order. What follows are short passes: suffixes stand side by side, and the attention mask lets each see the
cached beginning and itself only. There is one cache, never a copy for each suffix, and each pass leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import create_masks_for_generate

from retrieval_heads.attention.capture import lean_attention, stop_at_last_attention
from retrieval_heads.data.encode import Encoded, filled_up
from retrieval_heads.errors import ModelError
from retrieval_heads.models.rope import text_config

SHORTEST, SHARE = 256, 0.75
"""A common beginning is used when it is longer than so many tokens and is at least this share of every prompt: what
follows it is run with a mask over all that is before, which a fast causal kernel does not take."""


class Haystack(NamedTuple):
    """Examples with a common beginning: their indices, increasing, and how many tokens they have in common."""

    members: tuple[int, ...]
    length: int


def find_haystacks(encoded: Sequence[Encoded], ends: Sequence[int]) -> tuple[list[Haystack], list[int]]:
    """Examples to be run together, in order of their first members, and the indices of the others.

    Sorted by their tokens, examples that begin alike are neighbours; they are joined as long as that saves tokens.
    `ends` says for each how many leading tokens can be in a common beginning: those before the first position that
    something is wanted of, less than `prompt_length`.
    """
    groups: list[tuple[list[int], np.ndarray]] = []
    for index in sorted(range(len(encoded)), key=lambda index: (encoded[index].ids, index)):
        tokens = encoded[index].tokens[: ends[index]]
        if groups:
            members, common = groups[-1]
            length = _common_length(common, tokens)
            longest = max(encoded[member].prompt_length for member in (*members, index))
            # with n members run once up to L, (n - 1) L tokens are saved; one more member may shorten L
            saves = len(members) == 1 or len(members) * length > (len(members) - 1) * len(common)
            if saves and length > SHORTEST and length >= SHARE * longest:
                groups[-1] = ([*members, index], common[:length])
                continue
        groups.append(([index], tokens))
    found = [Haystack(tuple(sorted(members)), len(common)) for members, common in groups if len(members) > 1]
    shared = {index for haystack in found for index in haystack.members}
    return sorted(found), [index for index in range(len(encoded)) if index not in shared]


def _common_length(one: np.ndarray, other: np.ndarray) -> int:
    shorter = min(len(one), len(other))
    different = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(different[0]) if len(different) else shorter


class CachedContext:
    """The beginnings of some inputs in a model's key/value cache, from which what follows is run again and again.

    Every pass starts from the same cache and leaves it as it was, also after an exception.

    Args:
        model: a causal language model, plain or wrapped by PEFT; interventions in force now reach the context.
        rows: tokens of each beginning; it can be empty.
        start: the first tokens of the only row, computed already. Its cache is used, and what an earlier input has left
            in it is forgotten: of the contexts with one start the latest can be used.

    Attributes:
        length: tokens of the longest beginning. All end in the last column of the cache.
        cache: `[rows, n_kv_heads, length, head_dim]` for each layer.

    Raises:
        ModelError: some layers keep something other than keys and values (a recurrent state, say).
    """

    def __init__(self, model: nn.Module, rows: Sequence[Sequence[int]], start: CachedContext | None = None) -> None:
        self.model, lengths = model, list(map(len, rows))
        self.length, self._padded = max(lengths), min(lengths) < max(lengths)
        self._lengths = torch.tensor(lengths, device=model.get_input_embeddings().weight.device)
        if not can_share(model):
            raise ModelError(
                "some layers keep something other than keys and values", where=type(model).__name__,
                value=sorted(kind.__name__ for kind in _layer_kinds(model)), remedy="Use scope `all` for this model.",
            )
        if start is None:
            # layers that keep all positions, whatever the model's windows are: what falls out of a window could not be
            # put back, and the mask limits what is seen all the same
            self.cache, done = DynamicCache(), 0
        else:
            crop(start.cache, start.length)
            self.cache, done = start.cache, start.length
        if self.length > done:
            # padded on the right, where nothing sees it: no mask, and SDPA keeps its causal kernel
            ids = torch.tensor(filled_up([row[done:] for row in rows]), device=self._lengths.device)
            with torch.no_grad(), lean_attention(model), stop_at_last_attention(model):
                model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self._move_to_the_end()

    @torch.no_grad()
    def run(self, ids: torch.Tensor, copies: int = 1, **settings: Any) -> Any:
        """The model's output for what follows, in one pass.

        Args:
            ids: int64 `[rows, copies x n_rows]`, so many suffixes of each beginning side by side. None sees another;
                they agree with single passes up to rounding.
            settings: keywords of the pass.
        """
        extra = {}
        if copies > 1 or len(ids) > 1:
            n_rows = ids.shape[1] // copies
            positions = self._lengths[:, None] + torch.arange(n_rows, device=ids.device)
            extra = {"attention_mask": self._mask(n_rows, copies), "position_ids": positions.repeat(1, copies)}
        try:
            return self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, **extra, **settings)
        finally:
            crop(self.cache, self.length)

    def _move_to_the_end(self) -> None:
        """Let every row end in the last column, so that distances to what follows are those of the positions."""
        if not self._padded:
            return
        columns = torch.arange(self.length, device=self._lengths.device)
        source = ((columns - (self.length - self._lengths)[:, None]) % self.length)[:, None, :, None]
        for layer in self.cache.layers:
            layer.keys = layer.keys.gather(2, source.expand_as(layer.keys))
            layer.values = layer.values.gather(2, source.expand_as(layer.values))

    def _mask(self, n_rows: int, copies: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask for suffixes side by side, each of which sees the cached context and itself.

        `[rows or 1, 1, copies x n_rows, length + copies x n_rows]` in the form that the model's attention takes; one
        for each kind of layer where they differ.
        """
        seen = None
        if self._padded:  # 0 in the columns before a beginning
            columns = torch.arange(self.length + n_rows, device=self._lengths.device)
            seen = (columns >= (self.length - self._lengths)[:, None]).long()
        # the values of the embeddings are not read, only their batch, length and dtype
        embeddings = self.model.get_input_embeddings().weight.new_empty((len(self._lengths), n_rows, 1))
        single = create_masks_for_generate(text_config(self.model), embeddings, seen, self.cache)
        if isinstance(single, dict):
            return {kind: self._tile(mask, n_rows, copies) for kind, mask in single.items()}
        return self._tile(single, n_rows, copies)

    def _tile(self, mask: torch.Tensor | None, n_rows: int, copies: int) -> torch.Tensor:
        """From the mask `[rows or 1, 1, n_rows, length + n_rows]` of one suffix to that of several side by side."""
        if mask is None:  # plain causal attention
            mask = torch.ones(1, 1, n_rows, self.length + n_rows, dtype=torch.bool).tril(self.length)
            mask = mask.to(self._lengths.device)
        prefix, own = mask[..., : self.length].repeat(1, 1, copies, 1), mask[..., self.length :]
        copy = torch.arange(copies, device=mask.device).repeat_interleave(n_rows)
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        own = own.repeat(1, 1, copies, copies).masked_fill(copy[:, None] != copy, hidden)
        return torch.cat([prefix, own], -1)


def can_share(model: nn.Module) -> bool:
    """Whether all layers keep keys and values, so that what follows a prefix can be taken back."""
    return _layer_kinds(model) <= {DynamicLayer, DynamicSlidingWindowLayer}


def keeps_all_keys(model: nn.Module) -> bool:
    """Whether every layer keeps the keys of all positions, and nothing else, in its own cache."""
    return _layer_kinds(model) <= {DynamicLayer}


def _layer_kinds(model: nn.Module) -> set[type]:
    return {type(layer) for layer in DynamicCache(config=text_config(model)).layers}


def crop(cache: DynamicCache, length: int) -> None:
    """Forget all positions from `length` on, also where only some layers have them (after an exception)."""
    for layer in cache.layers:
        surplus = layer.get_seq_length() - length
        if surplus > 0:  # older versions of transformers take a zero for a length, and would forget everything
            layer.crop(-surplus)
