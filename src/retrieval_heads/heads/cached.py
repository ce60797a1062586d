"""Prompts in a model's key/value cache, from which the answers are run again and again.

What an intervention changes at the positions that predict the answer leaves everything before them as it was, so the
prompt is computed once. Several interventions can share a pass: copies of the short suffix stand side by side, and the
attention mask lets each copy see the cached prefix and itself only. The cache is not multiplied, as a batch would do.

On a GPU, where a pass costs by its launches more than by its rows, several examples share their passes too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.attention.shared_prefix import SharedPrefix, crop, new_cache, side_by_side_mask, text_config
from retrieval_heads.data.encode import Encoded, filled_up

TOKENS, ROWS, CELLS = 2**15, 2**14, 2**27
"""Most tokens of prompts in a pass that several examples share, most rows of answers, and most cells of the attention
mask and of the logits. The prompts then take a fraction of a GPU's memory also where a dozen processes share it."""


class CachedPrompts:
    """The prompts of some examples in a model's key/value cache, without their last tokens.

    Every pass starts from the same cached prefix and leaves it as it was, also after an exception.

    Args:
        model: a causal language model, plain or wrapped by PEFT; interventions in force now reach the prefix.
        batch: the examples; the last token of each is never run, as nothing follows that it would predict.
        prefix: the first tokens of the only example, computed already. Its cache is used, and what an earlier example
            has left in it is forgotten: of the prompts on one prefix the latest can be used.

    Attributes:
        n_rows: rows of the longest suffix; those of the others are padded on the right.
        sizes: rows of each suffix.
        targets: int64 `[examples, n_rows]`, the tokens that the rows predict.

    Raises:
        ModelError: some layers keep something else than keys and values (a recurrent state, say).
    """

    def __init__(self, model: nn.Module, batch: Sequence[Encoded], prefix: SharedPrefix | None = None) -> None:
        self.model = model
        device = model.get_input_embeddings().weight.device
        lengths = [encoded.prompt_length - 1 for encoded in batch]
        self.length, self.sizes = max(lengths), [len(one.ids) - one.prompt_length for one in batch]
        self.n_rows = max(self.sizes)
        self.suffix = padded([one.ids[one.prompt_length - 1 : -1] for one in batch], device)
        self.targets = padded([one.ids[one.prompt_length :] for one in batch], device)
        self.lengths = torch.tensor(lengths, device=device)
        self._padding = [self.length - length for length in lengths]
        if prefix is None:
            self.cache, done = new_cache(model), 0
        else:
            crop(prefix.cache, prefix.length)
            self.cache, done = prefix.cache, prefix.length
        if self.length > done:
            # padded on the right, where nothing sees it: no mask, and SDPA keeps its causal kernel
            ids = padded([one.ids[done : one.prompt_length - 1] for one in batch], device)
            with torch.no_grad(), lean_attention(model):
                model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self._move_to_the_end()

    @torch.no_grad()
    def logits(self, copies: int = 1) -> torch.Tensor:
        """Logits `[examples, copies, n_rows, vocabulary]` at the positions that predict the answer and what ends it.

        The pass has copies x n_rows rows, copy after copy, for interventions that differ from copy to copy. Copies do
        not see each other; they agree with a single pass up to rounding.
        """
        extra = {}
        if copies > 1 or len(self.sizes) > 1:
            positions = self.lengths[:, None] + torch.arange(self.n_rows, device=self.suffix.device)
            mask = side_by_side_mask(
                self.model, self.cache, len(self.sizes), self.length, self.n_rows, copies, self._seen()
            )
            extra = {"attention_mask": mask, "position_ids": positions.repeat(1, copies)}
        try:
            output = self.model(
                input_ids=self.suffix.repeat(1, copies), past_key_values=self.cache, use_cache=True, **extra
            )
        finally:
            crop(self.cache, self.length)
        return output.logits.unflatten(1, (copies, self.n_rows))

    def _move_to_the_end(self) -> None:
        """Let every prompt end in the last column, so that distances to the suffix are those of the positions."""
        if not any(self._padding):
            return
        columns = torch.arange(self.length, device=self.lengths.device)
        source = ((columns - (self.length - self.lengths)[:, None]) % self.length)[:, None, :, None]
        for layer in self.cache.layers:
            layer.keys = layer.keys.gather(2, source.expand_as(layer.keys))
            layer.values = layer.values.gather(2, source.expand_as(layer.values))

    def _seen(self) -> torch.Tensor | None:
        """int64 `[examples, length + n_rows]`: 0 in the columns before a prompt; None without padding."""
        if not any(self._padding):
            return None
        columns = torch.arange(self.length + self.n_rows, device=self.lengths.device)
        return (columns >= (self.length - self.lengths)[:, None]).long()


def can_pack(model: nn.Module) -> bool:
    """Whether the attention implementation takes a mask of our own."""
    return text_config(model)._attn_implementation in ("sdpa", "eager")


def shares_passes(model: nn.Module) -> bool:
    """Whether examples and modes are better run together: on a GPU, where a launch costs more than a few rows.

    On a CPU each row costs the same in any company.
    """
    return model.get_input_embeddings().weight.device.type != "cpu" and can_pack(model)


def batches(model: nn.Module, examples: Sequence[Encoded], copies: int = 1) -> list[list[Encoded]]:
    """The examples in their order, as many in each batch as should share a pass of so many copies of their suffixes."""
    size = 1
    if examples and shares_passes(model):
        length = max(one.prompt_length for one in examples)
        rows = copies * max(len(one.ids) - one.prompt_length for one in examples)
        width = max(length + rows, model.get_input_embeddings().weight.shape[0])
        size = max(1, min(TOKENS // length, ROWS // rows, CELLS // (rows * width)))
    return [list(examples[start : start + size]) for start in range(0, len(examples), size)]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """int64 `[rows, longest]`, padded on the right (`filled_up`)."""
    return torch.tensor(filled_up(rows), device=device)
