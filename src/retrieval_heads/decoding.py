"""Greedy decoding with a key/value cache, which evaluation and the scores on a model's own answers share.

`generate` of transformers fills every setting left open from the model's own generation config (repetition penalties,
forced tokens, further stop tokens), so that "greedy" is not the same thing for every model. Here it is: the token
with the largest logit, until a token that ends the answer or the limit. Which tokens end one is all that is taken from
the generation config: a chat model ends its turns by another token than its texts, and may name several.

In float32 a batch gives the tokens that its prompts give one by one. Prompts are padded on the right: no position of a
causal model sees what follows it, so the long pass over the prompts needs no mask, which would cost it the fast causal
kernel and length x length values for each row. Only the short passes after it mask the padding, in the cache. Where a
layer forgets what leaves its window, or keeps something else than keys and values, padding between prompt and answer
would be in the way: there it is on the left, and masked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.attention.shared_context import crop, keeps_all_keys
from retrieval_heads.data.chat import turn_end
from retrieval_heads.data.encode import Encoded, check_ids, encode_all, filled_up
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model, vocabulary_size
from retrieval_heads.models.modes import refuse_not_finite
from retrieval_heads.models.rope import context_length
from retrieval_heads.progress import progress

Ids = Sequence[int]


def encode_for(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None = None,
) -> list[Encoded]:
    """The examples as tokens that the model has, none longer than `max_length` or, without it, than the model takes."""
    limit = context_length(model) if max_length is None else max_length
    return encode_all(examples, tokenizer, limit, vocabulary_size(model))


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of at most `batch_size` rows of similar length, the longest first, so that a lack of memory
    shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Batch:
    """Rows of unequal length in one tensor.

    Attributes:
        inputs: what the model is called with, `[batch, longest]`; padding is never attended to (`filled_up`).
        mask: int64 `[batch, longest]`, 1 where there is no padding.
        last: int64 `[batch]`, index of each row's last token.
    """

    inputs: dict[str, torch.Tensor]
    mask: torch.Tensor
    last: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """int64 `[batch]`, tokens of each row."""
        return self.mask.sum(dim=1)


def make_batch(model: nn.Module, rows: Sequence[Ids]) -> Batch:
    """The rows as a batch for this model: padded on the right where that needs no mask, else on the left."""
    longest, device = max(map(len, rows)), next(model.parameters()).device
    ids, gaps = filled_up(rows), [longest - len(row) for row in rows]
    mask = torch.tensor([[1] * (longest - gap) + [0] * gap for gap in gaps], device=device)
    if keeps_all_keys(model):
        return Batch({"input_ids": torch.tensor(ids, device=device)}, mask, mask.sum(dim=1) - 1)
    turned = [row[longest - gap :] + row[: longest - gap] for row, gap in zip(ids, gaps, strict=True)]
    mask, last = mask.flip(1), torch.full((len(rows),), longest - 1, device=device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": torch.tensor(turned, device=device), "attention_mask": mask, "position_ids": positions}
    return Batch(inputs, mask, last)


def end_tokens(model: nn.Module, *more: int | Iterable[int] | None) -> frozenset[int]:
    """All tokens that end an answer of a model: those that its generation config and its config name, and `more`.

    `ModelError` where a config names something else than token ids.
    """
    base = base_model(model)
    configs = (getattr(base, "generation_config", None), base.config, base.config.get_text_config())
    found: set[int] = set()
    for one in (*(getattr(config, "eos_token_id", None) for config in configs), *more):
        ids = [] if one is None else list(one) if isinstance(one, Iterable) and not isinstance(one, str) else [one]
        if not all(type(token) is int for token in ids):  # a text would never be met, and true would be the token 1
            raise ModelError(
                "the tokens that end an answer are not token ids", where="eos_token_id", value=one,
                remedy="Correct generation_config.json or config.json: give a number or a list of numbers.",
            )
        found.update(ids)
    return frozenset(found)


def answer_ends(model: nn.Module, tokenizer: Any, encoded: Sequence[Encoded]) -> frozenset[int]:
    """All tokens that end an answer to the examples: the model's, the tokenizer's, its chat template's, their own."""
    return end_tokens(model, tokenizer.eos_token_id, turn_end(tokenizer), *(one.end for one in encoded))


def greedy_tokens(
    model: nn.Module, prompts: Sequence[Ids], batches: Iterable[Sequence[int]], stop: Callable[[int], bool],
    max_new_tokens: int, references: Sequence[Ids] | None = None,
) -> tuple[list[list[int]], list[float]]:
    """The greedy continuation of each prompt, the token that ended it among them, and the losses of references.

    Every prompt is in one of the batches (of indices), and `stop` says whether a token ends an answer. For models that
    keep all keys there can be `references`, answers whose mean loss in nats per token is wanted too: it comes from the
    same pass over the prompt, which takes nearly all the time at great lengths.

    Raises:
        ModelError: weights or activations that are NaN or infinite; an adapter that is not a change of weights.
        DataError: a prompt with a token id that the model does not have.
    """
    for index, prompt in enumerate(prompts):
        check_ids(prompt, vocabulary_size(model), f"prompt {index}")
    tokens: list[list[int]] = [[] for _ in prompts]
    losses = [float("nan")] * (0 if references is None else len(prompts))
    for batch in batches:
        own = None if references is None else [references[index] for index in batch]
        with lean_attention(model):  # no square mask for a sliding window, no copies of the keys for each head
            found = _decode(model, [prompts[index] for index in batch], [tokens[index] for index in batch], stop,
                            max_new_tokens, own)
        if own is not None:
            for index, loss in zip(batch, found, strict=True):
                losses[index] = loss
    return tokens, losses


def greedy_continuations(
    model: nn.Module, prompts: Sequence[Ids], eos_token_id: int | Collection[int] | None, max_new_tokens: int = 32,
    batch_size: int = 8,
) -> list[tuple[int, ...]]:
    """The greedy continuation of each prompt up to, and without, the token that ends it; empty when that comes first.

    An answer ends at `eos_token_id` and where the model's own configs say so (`end_tokens`); None generates
    `max_new_tokens` tokens whatever they are. Errors as in `greedy_tokens`.
    """
    batches = progress(length_batches([len(prompt) for prompt in prompts], batch_size), "generate")
    ends = frozenset() if eos_token_id is None else end_tokens(model, eos_token_id)
    found, _ = greedy_tokens(model, prompts, batches, ends.__contains__, max_new_tokens)
    return [tuple(row[:-1] if row and row[-1] in ends else row) for row in found]


@torch.no_grad()
def _decode(
    model: nn.Module, prompts: list[Ids], generated: list[list[int]], stop: Callable[[int], bool], max_new_tokens: int,
    references: list[Ids] | None,
) -> list[float]:
    """Append to `generated` until every row has stopped, and give the losses of the references where there are any.

    A row that has stopped is computed on, but no longer recorded, until half of the rows have: then they are left out,
    as at great lengths a step costs by the keys that it reads.
    """
    batch = make_batch(model, prompts)
    wanted, place = batch.last.unique(return_inverse=True)  # the rows of the logits, few of all positions
    output = model(**batch.inputs, use_cache=True, logits_to_keep=wanted)
    cache, logits = output.past_key_values, output.logits[torch.arange(len(prompts), device=place.device), place]
    mask, positions, rows, running = batch.mask, batch.lengths, list(range(len(prompts))), set(range(len(prompts)))
    any_padding = bool((mask == 0).any())
    losses = _reference_losses(model, batch, cache, logits, references) if references else []
    for step in range(max_new_tokens):
        largest, best = logits.max(dim=-1)  # [batch]
        for row, token in zip(rows, best.where(largest.isfinite(), -1).tolist(), strict=True):
            if row in running:
                if token < 0:
                    refuse_not_finite(model, [*prompts[row], *generated[row]], "the answer")
                generated[row].append(token)
                if stop(token):
                    running.remove(row)
        if not running or step + 1 == max_new_tokens:
            return losses
        if 2 * len(running) <= len(rows) and keeps_all_keys(model):
            kept = torch.tensor([index for index, row in enumerate(rows) if row in running], device=best.device)
            cache.batch_select_indices(kept)
            best, mask, positions = best[kept], mask[kept], positions[kept]
            rows = [row for row in rows if row in running]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            input_ids=best[:, None], past_key_values=cache, use_cache=True,
            attention_mask=mask if any_padding else None, position_ids=positions[:, None] + step,
        ).logits[:, -1]
    return losses


def _reference_losses(
    model: nn.Module, batch: Batch, cache: DynamicCache, logits: torch.Tensor, references: list[Ids],
) -> list[float]:
    """Mean loss in nats per token of each reference after its prompt in the cache, which is left as it was.

    `logits` `[batch, vocabulary]` predict the first token of each; the others need one short pass.
    """
    longest, device, length = max(map(len, references)), logits.device, batch.mask.shape[1]
    ids = torch.tensor(filled_up(references), device=device)
    likelihood = [logits.float().log_softmax(-1)[:, None]]
    if longest > 1:
        mask = torch.cat([batch.mask, batch.mask.new_ones(len(ids), longest - 1)], dim=1)
        positions = batch.lengths[:, None] + torch.arange(longest - 1, device=device)
        output = model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, attention_mask=mask,
                       position_ids=positions)
        crop(cache, length)
        likelihood.append(output.logits.float().log_softmax(-1))
    picked = torch.cat([one.gather(-1, ids[:, start : start + one.shape[1], None])[..., 0]
                        for one, start in zip(likelihood, (0, 1), strict=False)], dim=1)
    return [-row[: len(one)].double().mean().item() for row, one in zip(picked, references, strict=True)]
