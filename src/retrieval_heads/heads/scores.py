"""Retrieval scores: which heads look at the needle while the answer is written, and how often.

`retrieval_scores` says what they are. With displaced spans of the same lengths in place of the needles, either kind is
the score's chance level. The fraction is taken per example, then averaged over the examples, so a long answer counts as
much as a short one. The end-of-sequence token is not part of the answer.

All kinds, the chance level and the attention mass come from one forward pass over prompt and answer (`readout`);
questions on one haystack share the pass over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import answer_ends, greedy_continuations
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.heads.contribution import DirectPath
from retrieval_heads.heads.readout import collect_attention, displaced_spans
from retrieval_heads.models.layout import vocabulary_size
from retrieval_heads.models.modes import evaluation_mode
from retrieval_heads.models.rope import context_length

KINDS = ("copy", "insight")
"""`copy`: the key also holds the token that is predicted; `insight`: any key inside the spans."""

MODES = ("forced", "generated")
"""`forced`: over the reference answer, teacher forced; `generated`: over the model's own greedy answer."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """Scores of every head of a model on some examples; `numpy.asarray` gives the array `scores`.

    Attributes:
        scores: float32 `[n_layers, n_heads]`, fraction in [0, 1], mean over the examples used.
        chance: float32 `[n_layers, n_heads]`, the same measure on spans of the same lengths that are not needles; over
            the examples whose prompt has room for them, NaN when none has.
        mass: float32 `[n_layers, n_heads]`, mean attention probability inside the needles at the same rows.
        query_mass: float32 `[n_layers, n_heads]`, the same from the tokens of the question (after QRHead).
        contribution: float32 `[n_layers, n_heads]`, mean logit contribution of the needles (after LOCOS).
        per_example: float32 `[n_used, n_layers, n_heads]`, the score on each example, in the order of `used`.
        chance_per_example: the same of the chance level; NaN for an example without room for displaced spans.
        contribution_per_example: the same of the contribution; NaN for an example without room for displaced spans.
        used: indices of the examples used.
        dropped: number of examples left out, by reason: `no needle`, `too long`, `empty generation`.
        kind: `copy` or `insight`.
        mode: `forced` or `generated`.
        contribution_reason: why all contributions are NaN, in words; empty if the model has a direct path.
    """

    scores: np.ndarray
    chance: np.ndarray
    mass: np.ndarray
    query_mass: np.ndarray
    contribution: np.ndarray
    per_example: np.ndarray
    chance_per_example: np.ndarray
    contribution_per_example: np.ndarray
    used: tuple[int, ...]
    dropped: Mapping[str, int]
    kind: str
    mode: str
    contribution_reason: str = ""

    @property
    def n_used(self) -> int:
        """Number of examples that the scores are computed from."""
        return len(self.used)

    @property
    def shape(self) -> tuple[int, int]:
        return self.scores.shape

    def __repr__(self) -> str:
        """What was scored, on how many examples, and the three strongest heads."""
        strongest = np.argsort(-self.scores, axis=None, kind="stable")[:3]
        heads = ", ".join(f"{layer}-{head} {self.scores[layer, head]:.2f}" for layer, head in
                          zip(*np.unravel_index(strongest, self.shape), strict=True))
        dropped = "".join(f", {count} left out ({reason})" for reason, count in self.dropped.items())
        chance = "unknown" if np.isnan(self.chance).all() else f"{np.nanmean(self.chance):.3f} on average"
        return (f"HeadScores({self.kind}, {self.mode}; {self.shape[0]} layers x {self.shape[1]} heads,\n"
                f"  {self.n_used} examples used{dropped};\n"
                f"  strongest (layer-head): {heads}; chance {chance})")

    def __getitem__(self, key: Any) -> Any:
        return self.scores[key]

    def __len__(self) -> int:
        return len(self.scores)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.scores, dtype=dtype, copy=copy)


def retrieval_scores(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], kind: str = "copy", mode: str = "forced",
    **settings: Any,
) -> HeadScores:
    """Retrieval scores of every head, of one kind.

    Copy score (Wu et al. 2024, arXiv 2404.15574, section 2; here over the answer's tokens, not the needle's): the
    fraction of the tokens for which the key with the head's largest attention, at the position that predicts the token,
    lies inside a needle and holds the same token. Insight score: the same without the token match, for answers that are
    not literal copies.

    Args:
        model: a causal language model on any device, plain or wrapped by PEFT; it is used in evaluation mode.
        tokenizer: its fast tokenizer.
        examples: the examples to score on. Those without a needle are dropped and counted.
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
        model, tokenizer, examples: as in `retrieval_scores`.
        kinds, mode: any of `copy` and `insight`; `forced` or `generated`.
        batch_size: examples per forward pass; no result depends on it.
        max_length: longest prompt and answer in tokens; longer examples are dropped and counted. None: the length of
            the model, and a longer example is an error.
        max_new_tokens: longest generated answer, in tokens; a longer answer is scored up to there.
        seed: of the displaced spans that give the chance level.

    Returns:
        By kind, scores `[n_layers, n_heads]` in [0, 1].

    Raises:
        ConfigError: an unknown kind or mode, a batch or an answer of less than one.
        DataError: an example that cannot be encoded, or longer than the model when `max_length` is None; no example
            left to score on.
        ModelError: a model whose attention cannot be read, such as one without layers `self_attn.o_proj`; weights or
            activations that are NaN or infinite; an adapter that does not change weights (prompt tuning, say).
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
        return score_encoded(model, prepared, kinds, mode, dropped, batch_size, seed)


def score_encoded(
    model: nn.Module, encoded: Mapping[int, Encoded], kinds: Sequence[str] = KINDS, mode: str = "forced",
    dropped: Mapping[str, int] | None = None, batch_size: int = 8, seed: int = 0,
) -> dict[str, HeadScores]:
    """`score_heads` for examples that are tokens already, by index and each with a needle.

    Call it with the model in evaluation mode and without gradients.
    """
    used, path = sorted(encoded), DirectPath(model)
    read = dict(collect_attention(model, encoded, path, batch_size, seed))
    contribution = [read[index].contribution for index in used]
    found = {}
    for kind in kinds:
        score, chance = [], []
        for index in used:
            one, largest = encoded[index], read[index].largest
            displaced = displaced_spans(one, seed=seed)
            score.append(span_score(largest, one.needle_mask().astype(float), one, kind))
            chance.append(np.full(largest.shape[:2], np.nan) if displaced is None else
                          span_score(largest, displaced, one, kind))
        found[kind] = HeadScores(
            scores=np.mean(score, axis=0).astype(np.float32),
            chance=_known_mean(chance),
            mass=np.mean([read[index].mass for index in used], axis=0).astype(np.float32),
            query_mass=_known_mean([read[index].query_mass for index in used]),
            contribution=_known_mean(contribution),
            per_example=np.stack(score).astype(np.float32),
            chance_per_example=np.stack(chance).astype(np.float32),
            contribution_per_example=np.stack(contribution).astype(np.float32),
            used=tuple(used), dropped=dict(dropped or {}), kind=kind, mode=mode, contribution_reason=path.reason,
        )
    return found


def span_score(largest: np.ndarray, weights: np.ndarray, encoded: Encoded, kind: str) -> np.ndarray:
    """Share of the answer's tokens whose largest key lies inside the spans.

    Args:
        largest: int `[..., answer_length]`, position of the largest key at each of `encoded.query_rows`.
        weights: float `[len(ids)]`: 1 inside the spans and 0 outside, or an average of such masks.
        encoded: the example.
        kind: one of `KINDS`.

    Returns:
        float64 `[...]`, a fraction in [0, 1].
    """
    hits = weights[largest]
    if kind == "copy":
        ids = encoded.tokens
        predicted = ids[np.asarray(encoded.query_rows) + 1]
        hits = hits * (ids[largest] == predicted)
    return hits.mean(-1)


def _known_mean(values: list[np.ndarray]) -> np.ndarray:
    """float32 mean of the arrays without NaN; NaN when there is none."""
    known = [value for value in values if not np.isnan(value).any()]
    mean = np.mean(known, axis=0, dtype=np.float64) if known else np.full(values[0].shape, np.nan)
    return mean.astype(np.float32)


def _prepare(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None
) -> tuple[dict[int, Encoded], Counter]:
    """Encoded examples by index, and the counts of those left out."""
    dropped, prepared = Counter(), {}
    limit = context_length(model) if max_length is None else None
    for index, one in enumerate(encode_all(examples, tokenizer, limit, vocabulary_size(model))):
        if max_length is not None and len(one.ids) > max_length:
            dropped["too long"] += 1
        elif not one.needles:
            dropped["no needle"] += 1
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
