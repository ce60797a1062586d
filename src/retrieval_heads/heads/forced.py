"""How well teacher-forced logits predict an answer: three numbers, and what they are made of.

What they are made of stays on the model's device until it is asked for, since reading from a GPU waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch


class Raw(NamedTuple):
    """What metrics are made of, on the model's device: reading it from a GPU waits for the GPU.

    Attributes:
        hits: bool `[..., n]`, whether each target has the largest logit.
        likelihood: float32 `[..., n]`, its log probability.
    """

    hits: torch.Tensor
    likelihood: torch.Tensor


def forced_metrics(
    logits: torch.Tensor, targets: Sequence[int] | torch.Tensor, ends: Collection[int] = (),
) -> dict[str, float]:
    """How well teacher-forced logits predict an answer.

    Args:
        logits: `[n, vocabulary]`, at the positions that predict the targets.
        targets: `[n]`, the answer's tokens and, where there is one, the token that ends it.
        ends: all tokens that end an answer of the model (`ends.end_tokens`); each is right where one is the target.

    Returns:
        `exact_match`, 1.0 if every target has the largest logit, which is when greedy decoding gives exactly the
        targets; `token_accuracy`: the fraction of targets that have; `nll`: nats a target, mean.
    """
    return metrics_of(raw_scores(logits[None], torch.as_tensor(targets, device=logits.device), ends))[0]


def raw_scores(logits: torch.Tensor, targets: torch.Tensor, ends: Collection[int] = ()) -> Raw:
    """From logits `[..., n, vocabulary]`; the targets may lack or have a single one of the leading dimensions."""
    best = logits.argmax(-1)
    hits = best == targets
    if len(ends) > 1:
        known = torch.tensor(sorted(ends), device=logits.device)
        hits |= torch.isin(best, known) & torch.isin(targets, known)
    likelihood = logits.float().log_softmax(-1).gather(-1, targets.expand(hits.shape)[..., None])[..., 0]
    return Raw(hits, likelihood)


def metrics_of(raw: Raw) -> list[dict[str, float]]:
    """`forced_metrics` of each row of `[rows, n]`."""
    hits, likelihood = (part.cpu().double() for part in raw)
    table = torch.stack([hits.amin(-1), hits.mean(-1), -likelihood.mean(-1)], -1)
    return [dict(zip(("exact_match", "token_accuracy", "nll"), row, strict=True)) for row in table.tolist()]
