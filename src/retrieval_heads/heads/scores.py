"""Retrieval scores: which heads look at the needle while the answer is written, and how often.

For each token of the answer, the attention row is read at the position that predicts it, and the key with the head's
largest attention is taken. Copy score: the fraction of the answer's tokens for which that key lies inside a needle and
holds the same token (Wu et al. 2024, arXiv 2404.15574). Insight score: the same without the token match, for answers
that are not literal copies. The fraction is taken per example, then averaged over the examples, so a long answer
counts as much as a short one. The end-of-sequence token is no part of the answer.

All kinds, the chance level and the attention mass come from one forward pass over prompt and answer; questions on one
haystack share the pass over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import greedy_continuations
from retrieval_heads.ends import answer_ends
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.heads.direct_path import DirectPath
from retrieval_heads.heads.head_scores import HeadScores
from retrieval_heads.heads.measure import KINDS, displaced_spans, span_score
from retrieval_heads.heads.read_heads import read_heads
from retrieval_heads.models.layout import vocabulary_size
from retrieval_heads.models.modes import evaluation_mode
from retrieval_heads.models.rope import context_length

MODES = ("forced", "generated")
"""`forced`: over the reference answer, teacher forced; `generated`: over the model's own greedy answer."""


def retrieval_scores(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], kind: str = "copy", mode: str = "forced",
    **settings: Any,
) -> HeadScores:
    """Retrieval scores of every head, of one kind.

    Copy score (Wu et al. 2024, arXiv 2404.15574): over the answer's tokens, the fraction for which the key with the
    head's largest attention, at the position that predicts the token, lies inside a needle and holds the same token.
    Insight score: the same without the token match.

    Args:
        model: a causal language model on any device, plain or wrapped by PEFT; it is used in evaluation mode.
        tokenizer: its fast tokenizer.
        examples: what to score on. Those without a needle are dropped and counted.
        kind, mode: `copy` or `insight`; `forced` (over the reference answer) or `generated` (over the model's own).
        settings: keywords of `score_heads`, which gives several kinds at the cost of one.

    Returns:
        Scores `[n_layers, n_heads]` in [0, 1], with their chance level and the number of examples used.

    Raises:
        ConfigError, DataError, ModelError: as in `score_heads`.
    """
    return score_heads(model, tokenizer, examples, (kind,), mode, **settings)[kind]


def score_heads(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], kinds: Sequence[str] = KINDS, mode: str = "forced",
    *, batch_size: int = 8, max_length: int | None = None, max_new_tokens: int = 32, seed: int = 0,
) -> dict[str, HeadScores]:
    """Retrieval scores of every head, of several kinds, in one pass over the examples.

    Args:
        model: a causal language model on any device, plain or wrapped by PEFT; it is used in evaluation mode.
        tokenizer: its fast tokenizer.
        examples: what to score on. Those without a needle are dropped and counted.
        kinds, mode: any of `copy` and `insight`; `forced` or `generated`.
        batch_size: examples a forward pass; no result depends on it.
        max_length: longest prompt and answer in tokens; longer examples are dropped and counted. None: the length of
            the model, and a longer example is an error.
        max_new_tokens: longest generated answer, in tokens; what does not end before is scored as far as it goes.
        seed: of the displaced spans that give the chance level.

    Returns:
        By kind, scores `[n_layers, n_heads]` in [0, 1].

    Raises:
        ConfigError: an unknown kind or mode, a batch or an answer of less than one.
        DataError: an example that cannot be encoded, or longer than the model when `max_length` is None; no example
            left to score on.
        ModelError: a model whose attention cannot be read, such as one without layers `self_attn.o_proj`; weights or
            activations that are NaN or infinite; an adapter that is not a change of weights (prompt tuning, say).
    """
    for values, known, name in ((kinds, KINDS, "kind"), ((mode,), MODES, "mode")):
        for value in values:
            if value not in known:
                raise ConfigError(f"unknown {name} of score", where=name, value=value, remedy=f"Known: {known}.")
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ConfigError("less than one", where=name, value=value, remedy="Give a whole number from 1.")
    with evaluation_mode(model, max_length), torch.inference_mode():
        prepared, dropped = _prepare(model, tokenizer, examples, max_length)
        if mode == "generated":
            limit = max_length or context_length(model)
            prepared = _with_own_answers(model, tokenizer, prepared, dropped, max_new_tokens, batch_size, limit)
        if not prepared:
            raise DataError(
                "no example is left to score on", where="examples", value=dict(dropped),
                remedy="Give examples with needles, short enough, that the model answers.",
            )
        used = sorted(prepared)
        return _summarise(model, [prepared[index] for index in used], used, dropped, kinds, mode, batch_size, seed)


def score_encoded(
    model: nn.Module, encoded: Sequence[Encoded], kinds: Sequence[str] = KINDS, *, batch_size: int = 8, seed: int = 0
) -> dict[str, HeadScores]:
    """`score_heads` in mode `forced` for examples that are tokens already, each with a needle."""
    with evaluation_mode(model), torch.inference_mode():
        used = list(range(len(encoded)))
        return _summarise(model, list(encoded), used, Counter(), kinds, "forced", batch_size, seed)


def _summarise(
    model: nn.Module, encoded: list[Encoded], used: list[int], dropped: Counter, kinds: Sequence[str], mode: str,
    batch_size: int, seed: int,
) -> dict[str, HeadScores]:
    score: dict[str, list] = {kind: [None] * len(encoded) for kind in kinds}
    chance: dict[str, list] = {kind: [None] * len(encoded) for kind in kinds}
    masses, query_masses, contributions = [], [], [None] * len(encoded)
    path = DirectPath(model)
    for reading in read_heads(model, encoded, path, batch_size, seed):
        one, displaced = encoded[reading.index], displaced_spans(encoded[reading.index], seed=seed)
        masses.append(reading.mass.mean(-1, dtype=np.float64))
        query_masses.append(reading.query_mass)
        contributions[reading.index] = reading.contribution
        for kind in kinds:
            score[kind][reading.index] = span_score(reading.largest, one.needle_mask().astype(float), one, kind)
            chance[kind][reading.index] = np.full(masses[-1].shape, np.nan) if displaced is None else span_score(
                reading.largest, displaced, one, kind)
    shape = masses[0].shape
    return {
        kind: HeadScores(
            scores=np.mean(score[kind], axis=0).astype(np.float32),
            chance=_known_mean(chance[kind], shape),
            mass=np.mean(masses, axis=0).astype(np.float32), query_mass=_known_mean(query_masses, shape),
            contribution=_known_mean(contributions, shape),
            per_example=np.stack(score[kind]).astype(np.float32),
            chance_per_example=np.stack(chance[kind]).astype(np.float32),
            contribution_per_example=np.stack(contributions).astype(np.float32),
            used=tuple(used), dropped=dict(dropped), kind=kind, mode=mode,
            contribution_reason=path.reason,
        )
        for kind in kinds
    }


def _known_mean(values: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """float32 mean of the arrays without NaN; NaN when there is none."""
    known = [value for value in values if not np.isnan(value).any()]
    return (np.mean(known, axis=0, dtype=np.float64) if known else np.full(shape, np.nan)).astype(np.float32)


def _prepare(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None
) -> tuple[dict[int, Encoded], Counter]:
    """Encoded examples by index, and the counts of those left out."""
    dropped, prepared = Counter(), {}
    limit = context_length(model) if max_length is None else None
    for index, one in enumerate(encode_all(examples, tokenizer, limit, vocabulary_size(model))):
        reason = "no needle" if not one.needles else None
        if max_length is not None and len(one.ids) > max_length:
            reason = "too long"
        if reason:
            dropped[reason] += 1
        else:
            prepared[index] = one
    return prepared, dropped


def _with_own_answers(
    model: nn.Module, tokenizer: Any, prepared: dict[int, Encoded], dropped: Counter, max_new_tokens: int,
    batch_size: int, limit: int | None,
) -> dict[int, Encoded]:
    """The same prompts, each followed by the model's own greedy answer."""
    prompts = [one.ids[: one.prompt_length] for one in prepared.values()]
    ends, own = answer_ends(model, tokenizer, list(prepared.values())), {}
    answers = greedy_continuations(model, prompts, ends, max_new_tokens, batch_size)
    for (index, one), prompt, answer in zip(prepared.items(), prompts, answers, strict=True):
        if not answer:
            dropped["empty generation"] += 1
        elif limit is not None and len(prompt) + len(answer) > limit:
            dropped["too long"] += 1
        else:
            own[index] = replace(one, ids=prompt + answer, answer_length=len(answer))
    return own
