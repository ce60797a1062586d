"""One prompt in a model's key/value cache, from which the answer is run again and again.

What an intervention changes at the positions that predict the answer leaves everything before them as it was, so the
prompt is computed once. Several interventions can share a pass: copies of the short suffix stand side by side, and the
attention mask lets each copy see the cached prefix and itself only. The cache is not multiplied, as a batch would do.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import create_masks_for_generate

from retrieval_heads.data.encode import Encoded
from retrieval_heads.errors import ModelError


class CachedPrompt:
    """The prompt of one example in a model's key/value cache, without its last token.

    Every pass starts from the same cached prefix and leaves it as it was, also after an exception.

    Args:
        model: a causal language model, plain or wrapped by PEFT; interventions in force now reach the prefix.
        encoded: the example; its last token is never run, as nothing follows that it would predict.

    Raises:
        ModelError: some layers keep something else than keys and values (a recurrent state, say).
    """

    def __init__(self, model: nn.Module, encoded: Encoded) -> None:
        self.model = model
        ids = torch.tensor([encoded.ids[:-1]], device=model.get_input_embeddings().weight.device)
        self.length = encoded.prompt_length - 1
        self.suffix, self.n_rows = ids[:, self.length :], ids.shape[1] - self.length
        self.targets = torch.tensor(encoded.ids[encoded.prompt_length :], device=ids.device)
        _refuse_other_states(model)
        # without a config all layers keep all positions. Those of a sliding-window model would forget what falls out
        # of the window and could not be put back; the mask limits what they see all the same
        self.cache = DynamicCache()
        if self.length:
            with torch.no_grad():
                model(input_ids=ids[:, : self.length], past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def logits(self, copies: int = 1) -> torch.Tensor:
        """Logits `[copies, n_rows, vocabulary]` at the positions that predict the answer and what ends it.

        The pass has copies x n_rows rows, copy after copy, for interventions that differ from copy to copy. Copies do
        not see each other; they agree with a single pass up to rounding.
        """
        extra = {}
        if copies > 1:
            positions = torch.arange(self.length, self.length + self.n_rows, device=self.suffix.device)
            extra = {"attention_mask": self._packed_mask(copies), "position_ids": positions.repeat(copies)[None]}
        try:
            output = self.model(
                input_ids=self.suffix.repeat(1, copies), past_key_values=self.cache, use_cache=True, **extra
            )
        finally:
            for layer in self.cache.layers:
                layer.crop(self.length - layer.get_seq_length())  # zero or negative: the number to remove
        return output.logits.unflatten(1, (copies, self.n_rows))[0]

    @property
    def can_pack(self) -> bool:
        """Whether the attention implementation takes a mask of our own."""
        return text_config(self.model)._attn_implementation in ("sdpa", "eager")

    def _packed_mask(self, copies: int) -> torch.Tensor | dict[str, torch.Tensor]:
        # the values of the embeddings are not read, only their batch, length and dtype
        embeddings = self.model.get_input_embeddings().weight.new_empty((1, self.n_rows, 1))
        single = create_masks_for_generate(text_config(self.model), embeddings, None, self.cache)
        if isinstance(single, dict):
            return {kind: self._tile(mask, copies) for kind, mask in single.items()}
        return self._tile(single, copies)

    def _tile(self, mask: torch.Tensor | None, copies: int) -> torch.Tensor:
        """From the mask `[1, 1, n_rows, length + n_rows]` of one suffix to that of several side by side."""
        if mask is None:  # plain causal attention
            mask = torch.ones(1, 1, self.n_rows, self.length + self.n_rows, dtype=torch.bool)
            mask = mask.tril(self.length).to(self.suffix.device)
        prefix, own = mask[..., : self.length].repeat(1, 1, copies, 1), mask[..., self.length :]
        copy = torch.arange(copies, device=mask.device).repeat_interleave(self.n_rows)
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return torch.cat([prefix, own.repeat(1, 1, copies, copies).masked_fill(copy[:, None] != copy, hidden)], -1)


def text_config(model: nn.Module) -> PreTrainedConfig:
    """The config of the decoder, for plain and PEFT models."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.config.get_text_config()


def model_length(model: nn.Module) -> int | None:
    """Tokens that the model takes; None where its config does not say."""
    return getattr(text_config(model), "max_position_embeddings", None)


def _refuse_other_states(model: nn.Module) -> None:
    kinds = {type(layer) for layer in DynamicCache(config=text_config(model)).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise ModelError(
            "some layers keep something else than keys and values", where=type(model).__name__,
            value=sorted(kind.__name__ for kind in kinds), remedy="Use scope `all` for this model.",
        )
