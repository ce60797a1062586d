"""What one model answers to the test examples, and how well it knows the gold answers, with and without the needles.

F1 rises, too, when a model learns to answer shortly and to end. So beside it stand the loss of the answer's own tokens,
that of the end after them, and the loss without the needles: what a model gains by having them in its prompt (the gain
from context) no style can give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from retrieval_heads.data.example import Example
from retrieval_heads.evaluation import evaluate_each, token_losses

LOSSES = ("answer_loss", "end_loss", "answer_loss_without")


def answer_rows(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], batch_size: int
) -> list[dict[str, Any]]:
    """A row an example: what `evaluate_each` gives, and `LOSSES` in nats a token.

    `end_loss` is None where the tokenizer has no end-of-sequence token, `answer_loss_without` for an example without
    needles or without any other text.
    """
    rows = evaluate_each(model, tokenizer, examples, batch_size=batch_size).to_dict("records")
    losses = token_losses(model, tokenizer, examples, batch_size=batch_size)
    bare = {place: one for place, example in enumerate(examples) if (one := without_needles(example)) is not None}
    without: dict[int, float] = {}
    if bare:
        found = token_losses(model, tokenizer, list(bare.values()), batch_size=batch_size)
        without = {place: float(tokens.mean()) for place, (tokens, _) in zip(bare, found, strict=True)}
    for place, (row, (tokens, end)) in enumerate(zip(rows, losses, strict=True)):
        row |= dict(zip(LOSSES, (float(tokens.mean()), end, without.get(place)), strict=True))
    return rows


def without_needles(example: Example) -> Example | None:
    """The example with its needles cut out of the prompt; None where it has none, or no text remains."""
    prompt = example.prompt
    for start, end in reversed(example.needles):
        prompt = prompt[:start] + prompt[end:]
    if not example.needles or not prompt.strip():
        return None
    return replace(example, prompt=prompt, needles=())


def values(rows: Sequence[Mapping[str, Any]], measure: str, metric: str) -> np.ndarray:
    """One number an example, float64 `[n]`, NaN where it is not known.

    Args:
        rows: of `answer_rows`.
        measure: `score` (the metric), `subspan` (best-subspan exact match), `context_gain` (loss without the needles
            less that with them), `words` (of the model's answer), or one of `LOSSES`.
        metric: the task's.
    """
    if measure == "words":
        return np.array([len(row["prediction"].split()) for row in rows], dtype=np.float64)
    if measure == "context_gain":
        return values(rows, "answer_loss_without", metric) - values(rows, "answer_loss", metric)
    name = {"score": metric, "subspan": "best_subspan_em"}.get(measure, measure)
    return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)
