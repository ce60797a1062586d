"""What every head looks at while an answer is written: which rows are read, and the few numbers kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from retrieval_heads.attention.capture import ValueReducer
from retrieval_heads.data.encode import Encoded
from retrieval_heads.heads.contribution import Contribution
from retrieval_heads.heads.measure import displaced_spans

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
            there is no room for displaced spans, or no direct path to the logits.
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


@dataclass(frozen=True, eq=False)
class Spans:
    """The keys that are looked at beside the largest: those of the needles and of the displaced spans.

    Attributes:
        columns: int64 `[batch, n_columns]`, their indices among the keys; filled up with columns that weigh nothing.
        inside: float32 `[batch, n_columns]`, 1 inside the needles.
        contrast: float32 `[batch, n_columns]`, the same less the average mask of the displaced spans.
    """

    columns: torch.Tensor
    inside: torch.Tensor
    contrast: torch.Tensor


def find_spans(
    chosen: Sequence[Encoded], places: Sequence[np.ndarray], device: torch.device, seed: int
) -> Spans:
    """The spans of examples whose positions lie in the columns `places`, int `[len(ids)]` each."""
    found = []
    for one, columns in zip(chosen, places, strict=True):
        needles, displaced = one.needle_mask(), displaced_spans(one, seed=seed)
        contrast = needles.astype(np.float64) - (0 if displaced is None else displaced)
        used = np.flatnonzero(needles | (contrast != 0))
        found.append((columns[used], needles[used], contrast[used]))
    width = max(len(columns) for columns, *_ in found)
    parts = zip(*found, strict=True)
    types = (torch.int64, torch.float32, torch.float32)
    return Spans(*(
        torch.tensor(np.stack([np.pad(row, (0, width - len(row))) for row in part]), dtype=dtype, device=device)
        for part, dtype in zip(parts, types, strict=True)
    ))


def reader(spans: Spans, n_answer: int, contribution: Contribution) -> ValueReducer:
    """Reducer to three tensors `[batch, n_heads, n_rows]`: the largest key (int32) and the contribution of the first
    `n_answer` rows, and of all rows the probability inside the needles.

    Of equal keys one is taken, on a CPU the first. The values may be those of one example for the whole batch.
    """

    def reduce(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        # reading whole rows is what costs, so only the largest key is sought in all of them
        (batch, n_heads, n_rows, _), (_, n_kv_heads, _, size) = probabilities.shape, value.shape
        columns = spans.columns.to(probabilities.device)
        looks = probabilities.gather(3, columns[:, None, None].expand(-1, n_heads, n_rows, -1))
        values = value.expand(batch, -1, -1, -1).gather(2, columns[:, None, :, None].expand(-1, n_kv_heads, -1, size))
        mass = (looks @ spans.inside.to(looks.device)[:, None, :, None]).squeeze(-1)
        largest = probabilities[:, :, :n_answer].argmax(-1).int()
        whole = probabilities[:, :, :n_answer], value
        return largest, mass, contribution(looks[:, :, :n_answer], values, layer, whole)

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
