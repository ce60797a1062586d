"""Greedy answers of a model, token by token, with a key/value cache.

`generate` of transformers fills every setting left open from the model's own generation config (repetition penalties,
forced tokens, further stop tokens), so that "greedy" is not the same thing for every model. Here it is: the token
with the largest logit, until the end-of-sequence token or the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from retrieval_heads.progress import progress


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first, so that a lack of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@torch.inference_mode()
def greedy_answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], eos_token_id: int | None, max_new_tokens: int = 32,
    batch_size: int = 8,
) -> list[tuple[int, ...]]:
    """The greedy continuation of each prompt, without the end-of-sequence token.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids of each prompt, not empty.
        eos_token_id: where an answer ends; None generates `max_new_tokens` tokens.
        max_new_tokens: longest answer, in tokens.
        batch_size: prompts a batch, padded on the left. Padding makes transformers build a mask of length x length;
            with a batch size of 1 there is none.

    Returns:
        one tuple of ids a prompt, in the order of the prompts; empty when the model ends at once.
    """
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    for batch in progress(length_batches([len(prompt) for prompt in prompts], batch_size), "generate"):
        tokens = _greedy_batch(model, [prompts[index] for index in batch], eos_token_id, max_new_tokens)
        for index, row in zip(batch, tokens.tolist(), strict=True):
            answers[index] = tuple(row[: row.index(eos_token_id)] if eos_token_id in row else row)
    return answers


def _greedy_batch(
    model: nn.Module, prompts: list[Sequence[int]], eos_token_id: int | None, max_new_tokens: int
) -> torch.Tensor:
    """int64 `[batch, at most max_new_tokens]`; what follows an end-of-sequence token is meaningless."""
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    # any token serves as padding: the mask hides it
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    mask = (torch.arange(width, device=device) >= width - lengths).long()
    positions = (torch.arange(width, device=device) - (width - lengths)).clamp(min=0)
    cache, tokens = None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for _ in range(max_new_tokens):
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )
        cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(ids)
        ended |= ids[:, 0] == eos_token_id if eos_token_id is not None else False
        if ended.all():
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return torch.cat(tokens, dim=1)
