"""Greedy decoding with a key/value cache, which evaluation and the scores on a model's own answers share.

`generate` of transformers fills every setting left open from the model's own generation config (repetition penalties,
forced tokens, further stop tokens), so that "greedy" is not the same thing for every model. Here it is: the token
with the largest logit, until a token that ends the answer or the limit.

Rows of a batch are padded on the left, the padding masked and positions counted from each prompt's first token, so in
float32 a batch gives the tokens that its prompts give one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from retrieval_heads.progress import progress

Ids = Sequence[int]


def length_batches(lengths: Sequence[int], batch_size: int, mask_limit: int | None = None) -> list[list[int]]:
    """Indices in batches of similar length, the longest first, so that a lack of memory shows at once.

    Args:
        lengths: tokens of each row.
        batch_size: most rows a batch.
        mask_limit: most values of a batch's attention mask (rows x length x length); a longer row goes alone.
    """
    order, batches = sorted(range(len(lengths)), key=lambda index: -lengths[index]), []
    while order:
        size = batch_size
        if mask_limit is not None:
            size = min(size, max(1, mask_limit // lengths[order[0]] ** 2))
        batches.append(order[:size])
        order = order[size:]
    return batches


def left_padded(rows: Sequence[Ids], device: torch.device) -> dict[str, torch.Tensor]:
    """Model inputs `[batch, longest]` that end together; the padding's id is never attended to."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}


class Stop:
    """Whether a token ends an answer: the end-of-sequence token, or one whose text has a newline.

    Args:
        tokenizer: gives the end-of-sequence token, if it has one, and the text of a token.
        newline: whether a newline ends an answer.
    """

    def __init__(self, tokenizer: Any, newline: bool) -> None:
        self.tokenizer, self.newline, self.known = tokenizer, newline, {tokenizer.eos_token_id: True}

    def __call__(self, token: int) -> bool:
        if token not in self.known:
            self.known[token] = self.newline and "\n" in self.tokenizer.decode([token])
        return self.known[token]


@torch.no_grad()
def greedy_tokens(
    model: nn.Module, prompts: Sequence[Ids], batches: Iterable[Sequence[int]], stop: Callable[[int], bool],
    max_new_tokens: int,
) -> list[list[int]]:
    """The greedy continuation of each prompt, the token that ended it among them.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids of each prompt, not empty.
        batches: indices of the prompts of each batch, every prompt in one.
        stop: whether a token ends an answer.
        max_new_tokens: longest answer, in tokens.

    Returns:
        one list of ids a prompt, in the order of the prompts.
    """
    tokens: list[list[int]] = [[] for _ in prompts]
    for batch in batches:
        _decode(model, [prompts[index] for index in batch], [tokens[index] for index in batch], stop, max_new_tokens)
    return tokens


def greedy_continuations(
    model: nn.Module, prompts: Sequence[Ids], eos_token_id: int | None, max_new_tokens: int = 32, batch_size: int = 8,
) -> list[tuple[int, ...]]:
    """The greedy continuation of each prompt up to, and without, the end-of-sequence token.

    Args:
        model, prompts, max_new_tokens: as in `greedy_tokens`.
        eos_token_id: where an answer ends; None generates `max_new_tokens` tokens.
        batch_size: prompts a batch. Padding makes transformers build a mask of length x length; with a batch size of 1
            there is none.

    Returns:
        one tuple of ids a prompt, in the order of the prompts; empty when the model ends at once.
    """
    batches = progress(length_batches([len(prompt) for prompt in prompts], batch_size), "generate")
    found = greedy_tokens(model, prompts, batches, lambda token: token == eos_token_id, max_new_tokens)
    return [tuple(row[:-1] if row and row[-1] == eos_token_id else row) for row in found]


def _decode(
    model: nn.Module, prompts: list[Ids], generated: list[list[int]], stop: Callable[[int], bool], max_new_tokens: int,
) -> None:
    """Append to `generated` until every row has stopped; a stopped row is computed on, but no longer recorded."""
    inputs = left_padded(prompts, next(model.parameters()).device)
    cache, running = None, set(range(len(prompts)))
    for _ in range(max_new_tokens):
        output = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, best = output.past_key_values, output.logits[:, -1].argmax(dim=-1)  # [batch]
        for row, token in enumerate(best.tolist()):
            if row in running:
                generated[row].append(token)
                if stop(token):
                    running.remove(row)
        if not running:
            return
        mask = inputs["attention_mask"]
        inputs = {
            "input_ids": best[:, None],
            "attention_mask": torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1),
            "position_ids": inputs["position_ids"][:, -1:] + 1,
        }
