"""Teacher-forced answers: what a model makes of a reference answer that it is given token by token, without decoding.

Prompt and answer are tokenised together, exactly as in training (`encode_all`); examples of similar length share a
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import length_batches, padded
from retrieval_heads.ends import answer_ends
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.models.layout import vocabulary_size
from retrieval_heads.models.modes import evaluation_mode, refuse_not_finite
from retrieval_heads.models.rope import context_length
from retrieval_heads.progress import progress

TokenLosses = tuple[np.ndarray, float | None]
"""Nats of each answer token, and of the end after them where there is one."""


@torch.no_grad()
def forced_exact(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, end: bool = True, batch_size: int = 8,
    max_length: int | None = None,
) -> np.ndarray:
    """bool `[n]`: given the reference answer token by token, every token is the model's most likely one, then an end.

    Any token that ends the model's answers is an end. One forward pass a batch, no decoding. Other
    arguments and errors as in `evaluate`.

    Args:
        end: whether the end-of-sequence token after the answer has to be the most likely one, too. A model that was
            not fine-tuned to end there goes on after a right answer, and then has none right with `end=True`.
    """
    encoded = encoded_for(model, tokenizer, examples, max_length)
    exact, ends = np.zeros(len(encoded), dtype=bool), answer_ends(model, tokenizer, encoded)
    with evaluation_mode(model, max_length):
        for batch in batches_of(encoded, batch_size, "forced answers"):
            for index, target, logits in _answer_logits(model, encoded, batch):
                wanted = len(target) if end else encoded[index].answer_length
                exact[index] = same_tokens(logits[:wanted].argmax(dim=-1).tolist(), target[:wanted], ends)
    return exact


def answer_losses(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, batch_size: int = 8, max_length: int | None = None
) -> np.ndarray:
    """float64 `[n]`: nats a token of the reference answer and of the end that is taught, given those before it.

    One forward pass a batch, no decoding. Arguments and errors as in `evaluate`.
    """
    found = losses_of_tokens(model, encoded_for(model, tokenizer, examples, max_length), batch_size, max_length)
    return means_of(found)


def token_losses(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, batch_size: int = 8, max_length: int | None = None
) -> list[TokenLosses]:
    """For each example the nats of every answer token, float64 `[n_tokens]`, and those of the end after it.

    The second is None where the tokenizer has no end-of-sequence token. Otherwise as `answer_losses`.
    """
    return losses_of_tokens(model, encoded_for(model, tokenizer, examples, max_length), batch_size, max_length)


def means_of(found: Sequence[TokenLosses]) -> np.ndarray:
    """float64 `[n]`: nats a token, the end among them."""
    return np.array([answer.mean() if end is None else np.append(answer, end).mean() for answer, end in found])


@torch.no_grad()
def losses_of_tokens(
    model: nn.Module, encoded: Sequence[Encoded], batch_size: int, max_length: int | None = None,
) -> list[TokenLosses]:
    """`token_losses` of examples that are tokens already."""
    losses: dict[int, TokenLosses] = {}
    with evaluation_mode(model, max_length):
        for batch in batches_of(encoded, batch_size, "answer losses"):
            for index, target, logits in _answer_logits(model, encoded, batch):
                wanted = torch.tensor(target, device=logits.device)[:, None]
                found = -logits.float().log_softmax(dim=-1).gather(1, wanted)[:, 0].double().cpu().numpy()
                n = encoded[index].answer_length
                losses[index] = found[:n], float(found[n]) if len(found) > n else None
    return [losses[index] for index in range(len(encoded))]


def _answer_logits(
    model: nn.Module, encoded: Sequence[Encoded], batch: Sequence[int]
) -> Iterator[tuple[int, tuple[int, ...], torch.Tensor]]:
    """Index, target tokens and the logits `[targets, vocabulary]` that predict them, of each example of one batch."""
    targets = [encoded[index].ids[encoded[index].prompt_length :] for index in batch]
    rows = padded(model, [encoded[index].ids[:-1] for index in batch])
    needed = [range(last - len(target) + 1, last + 1) for last, target in zip(rows.last.tolist(), targets, strict=True)]
    wanted = sorted({row for one in needed for row in one})
    with lean_attention(model):  # no square mask for a sliding window
        logits = model(
            **rows.inputs, use_cache=False, logits_to_keep=torch.tensor(wanted, device=rows.last.device),
        ).logits
    place = {row: index for index, row in enumerate(wanted)}
    for index, target, own, found in zip(batch, targets, needed, logits, strict=True):
        chosen = found[[place[row] for row in own]]
        if not chosen.amax(-1).isfinite().all():  # -inf alone is a word that the model may not write
            refuse_not_finite(model, encoded[index].ids, "the likelihood of the answer")
        yield index, target, chosen


def encoded_for(model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None) -> list[Encoded]:
    """The examples as tokens, none longer than the model; errors as in `evaluate`."""
    if not examples:
        raise DataError("no examples", where="examples", remedy="Give at least one example to evaluate.")
    if max_length is None:
        max_length = context_length(model)
    return encode_all(examples, tokenizer, max_length, vocabulary_size(model))


def batches_of(encoded: Sequence[Encoded], batch_size: int, description: str) -> Iterable[list[int]]:
    """Indices of examples of similar length, with a progress bar."""
    if batch_size < 1:
        raise ConfigError("an empty batch", where="batch_size", value=batch_size, remedy="Use 1 or more.")
    return progress(length_batches([len(item.ids) for item in encoded], batch_size), description)


def same_tokens(said: Sequence[int], target: Sequence[int], ends: frozenset[int]) -> bool:
    """Whether the tokens are those of the target, any end for its end."""
    return [-1 if token in ends else token for token in said] == [-1 if token in ends else token for token in target]
