"""What every head looks at while an answer is written: which rows are read, and the few numbers kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from retrieval_heads.attention.capture import ValueReducer
from retrieval_heads.attention.contribution import Contribution
from retrieval_heads.attention.measure import displaced_spans
from retrieval_heads.data.encode import Encoded

QUESTION_ROWS = 256
"""Most rows of a question. Longer ones are no questions but prompts that begin with theirs, and all rows of a long
prompt would be the whole attention matrix."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What all heads of a model look at in one example.

    Attributes:
        index: of the example.
        largest: int32 `[n_layers, n_heads, answer_length]`, position of the largest key at each answer position.
        mass: float32 `[n_layers, n_heads, answer_length]`, attention probability inside the needles.
        query_mass: float32 `[n_layers, n_heads]`, the same from the tokens of the question, their mean, as in QRHead
            (Zhang et al., see the book's references; without its null query), of the last `QUESTION_ROWS` at most; NaN
            where there is no question.
        contribution: float32 `[n_layers, n_heads]`, mean over the answer's tokens, see `contribution.py`; NaN where
            there is no room for displaced spans.
    """

    index: int
    largest: np.ndarray
    mass: np.ndarray
    query_mass: np.ndarray
    contribution: np.ndarray


def gather_layers(layers: Sequence[tuple[torch.Tensor, ...]], device: torch.device) -> tuple[np.ndarray, ...]:
    """What `reader` kept of each layer, as arrays `[batch, n_layers, n_heads, n_rows]`; only here the device is waited
    for."""
    return tuple(
        torch.stack([kept.to(device) for kept in part], 1).cpu().numpy() for part in zip(*layers, strict=True)
    )


def make_reading(
    index: int, one: Encoded, largest: np.ndarray, mass: np.ndarray, written: np.ndarray, n_answer: int, seed: int
) -> Reading:
    """One example's part of what was gathered, `[n_layers, n_heads, n_rows]`, whose questions begin at `n_answer`."""
    n, asked = one.answer_length, range(n_answer, n_answer + len(question_rows(one)))
    nothing, room = np.full(mass.shape[:2], np.nan, dtype=np.float32), displaced_spans(one, seed=seed) is not None
    return Reading(
        index, largest[:, :, :n], mass[:, :, :n],
        nothing if one.question is None else mass[:, :, asked].mean(-1),
        written[:, :, :n].mean(-1) if room else nothing,
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


def question_rows(one: Encoded) -> range:
    """Positions of the question; the prompt's last one where there is none, as each example needs a row."""
    last = one.prompt_length - 1
    first = last if one.question is None else min(one.question, last)
    return range(max(first, one.prompt_length - QUESTION_ROWS), one.prompt_length)


def row_table(ranges: Sequence[range], device: torch.device) -> torch.Tensor:
    """int64 `[batch, longest]`, the last row of each repeated to fill up."""
    longest = max(map(len, ranges))
    return torch.tensor([[*rows, *[rows[-1]] * (longest - len(rows))] for rows in ranges], device=device)
