"""What every head looks at while an answer is written: one forward pass over prompt and answer, few numbers kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from retrieval_heads.attention.capture import ValueReducer, capture_attention
from retrieval_heads.attention.contribution import Contribution
from retrieval_heads.attention.measure import displaced_spans
from retrieval_heads.data.encode import Encoded
from retrieval_heads.decoding import length_batches
from retrieval_heads.progress import progress


@dataclass(frozen=True, eq=False)
class Reading:
    """What all heads of a model look at in one example.

    Attributes:
        index: of the example.
        largest: int32 `[n_layers, n_heads, answer_length]`, position of the largest key at each answer position.
        mass: float32 `[n_layers, n_heads, answer_length]`, attention probability inside the needles.
        query_mass: float32 `[n_layers, n_heads]`, the same from the tokens of the question, their mean, as in QRHead
            (Zhang et al., see the book's references; without its null query); NaN where there is no question.
        contribution: float32 `[n_layers, n_heads]`, mean over the answer's tokens, see `contribution.py`; NaN where
            there is no room for displaced spans.
    """

    index: int
    largest: np.ndarray
    mass: np.ndarray
    query_mass: np.ndarray
    contribution: np.ndarray


def read_heads(model: nn.Module, encoded: Sequence[Encoded], batch_size: int = 8, seed: int = 0) -> Iterator[Reading]:
    """What every head looks at while the answer is written, one reading an example, in any order.

    Call it with the model in evaluation mode and without gradients. Batches are padded on the right and have no mask:
    in a causal model no real position sees what follows it. `seed` is that of the displaced spans.
    """
    device = next(model.parameters()).device
    for batch in progress(length_batches([len(one.ids) for one in encoded], batch_size), "score heads"):
        chosen = [encoded[index] for index in batch]
        width = max(len(one.ids) for one in chosen)
        ids = torch.tensor([[*one.ids, *[0] * (width - len(one.ids))] for one in chosen], device=device)
        answers = _rows([one.query_rows for one in chosen], device)
        questions = _rows([_question_rows(one) for one in chosen], device)
        displaced = [displaced_spans(one, seed=seed) for one in chosen]
        inside = _padded_masks([one.needle_mask() for one in chosen], width, device)
        elsewhere = [np.zeros(1) if mask is None else mask for mask in displaced]
        contrast = inside - _padded_masks(elsewhere, width, device)
        contribution = Contribution(model, ids.gather(1, answers + 1), contrast)
        reduce = reader(inside, answers.shape[1], contribution)
        with capture_attention(model, torch.cat([answers, questions], 1), reduce, with_values=True) as layers:
            model(input_ids=ids, logits_to_keep=1, use_cache=False)
        # all layers at once, [batch, n_layers, n_heads, n_rows]: nothing waits for the device before
        largest, mass, written = (
            torch.stack([kept.to(device) for kept in part], 1).cpu().numpy() for part in zip(*layers, strict=True)
        )
        for place, (index, one) in enumerate(zip(batch, chosen, strict=True)):
            n, asked = one.answer_length, range(answers.shape[1], answers.shape[1] + len(_question_rows(one)))
            nothing = np.full(mass.shape[1:3], np.nan, dtype=np.float32)
            yield Reading(
                index, largest[place, :, :, :n], mass[place, :, :, :n],
                nothing if one.question is None else mass[place][:, :, asked].mean(-1),
                nothing if displaced[place] is None else written[place, :, :, :n].mean(-1),
            )


def reader(inside: torch.Tensor, n_answer: int, contribution: Contribution) -> ValueReducer:
    """Reducer to three tensors `[batch, n_heads, n_rows]`: the largest key (int32) and the contribution of the first
    `n_answer` rows, and of all rows the probability inside `inside`, float `[batch, n_keys]`.

    Of equal keys one is taken, on a CPU the first.
    """
    column = inside.float().unsqueeze(-1)

    def reduce(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        n_heads, n_rows = probabilities.shape[1:3]
        mass = (probabilities.flatten(1, 2) @ column.to(probabilities.device)).view(-1, n_heads, n_rows)
        answers = probabilities[:, :, :n_answer]
        return answers.argmax(-1).int(), mass, contribution(answers, value, layer)

    return reduce


def _question_rows(one: Encoded) -> range:
    """Positions of the question; the prompt's last one where there is none, as each example needs a row."""
    last = one.prompt_length - 1
    return range(last if one.question is None else min(one.question, last), one.prompt_length)


def _rows(ranges: Sequence[range], device: torch.device) -> torch.Tensor:
    """int64 `[batch, longest]`, the last row of each repeated to fill up."""
    longest = max(map(len, ranges))
    return torch.tensor([[*rows, *[rows[-1]] * (longest - len(rows))] for rows in ranges], device=device)


def _padded_masks(masks: Sequence[np.ndarray], width: int, device: torch.device) -> torch.Tensor:
    """float32 `[batch, width]`."""
    return torch.tensor(np.stack([np.pad(mask, (0, width - len(mask))) for mask in masks]), device=device).float()
