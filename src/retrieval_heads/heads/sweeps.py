"""Forced evaluation under many interventions, with the prompt computed once.

Scope `answer` touches only the positions that predict the answer's tokens: the last token of the prompt and the answer
itself. Everything before is run once, and several sets then share a pass (`cached_prompts`). With 12 layers of 16
heads, a prefix of 2048 tokens and an answer of 6, on two CPU cores: 0.9 s for a whole pass, 25 ms for the suffix of one
set, 5 ms per set when 32 share a pass; on one H200, where the launches count: 27 ms, 14 ms and 0.7 ms. On a GPU, all
modes of a set are therefore in one pass, and several examples share their passes (`cached_prompts.batches`); numbers
are first read from the GPU at the end of a sweep. Questions on one haystack share the pass over it
(`cached_prompts.over_prompts`), also in patching, where each model has its own.

    rows = knockout_sweep(model, tokenizer, examples, {"none": [], "top5": heads}, mode="zero", scope="answer")
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.data.encode import Encoded
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import answer_ends, encode_for
from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.ablate import check_scope, knock_out
from retrieval_heads.heads.cached_prompts import (
    CachedPrompts,
    Heads,
    Intervene,
    Packing,
    over_prompts,
    token_metrics,
    token_scores,
    unique_sets,
)
from retrieval_heads.heads.hooks import Masks, head_masks, output_hooks, record_head_outputs
from retrieval_heads.heads.patch import check_match
from retrieval_heads.models.layout import Head, HeadLayout, head_layout
from retrieval_heads.models.modes import evaluation_mode, refuse_not_finite
from retrieval_heads.progress import progress


def knockout_sweep(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], head_sets: Mapping[str, Iterable[Head]],
    mode: str | Sequence[str] = "zero", scope: str = "answer", means: Any = None, *, sets_per_pass: int = 32,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Score every example with every set of heads knocked out.

    Args:
        model, tokenizer: a causal language model, plain or PEFT, and its fast tokenizer.
        examples: the questions; the reference answer is given token by token.
        head_sets: sets of `(layer, head)` pairs by name; their order does not matter.
        mode: one of the modes of `ablate_heads`, or several, which then share the prefix (the expensive part in scope
            `answer`).
        means: for mode `mean`; see `ablate_heads`.
        scope: `answer`: only the rows that predict the answer; `all`: every position, a whole pass for each set.
        sets_per_pass: how many sets share a pass in scope `answer`; on a GPU each of them with all modes.
        max_length: tokens; longer examples raise `DataError`. None stands for the model's length (`context_length`).

    Returns:
        A row for each example, mode and set, with `set`, `k` (its size), `mode`, `scope`, `example` (index), and the
        `forced_metrics`.

    Raises:
        ConfigError: an unknown mode or scope, or `mean` without means.
        HeadError: a head outside the model.
        DataError: an example that is too long or cannot be encoded.
        ModelError: as in `ablate_heads`; weights or activations that are NaN or infinite.
    """
    check_scope(scope)
    layout = head_layout(model)
    sets = {name: tuple(layout.check(heads)) for name, heads in head_sets.items()}
    if means is not None:
        means = torch.as_tensor(means).to(model.get_input_embeddings().weight.device)
    interventions: dict[str, Intervene] = {
        name: lambda masks, copies, name=name: knock_out(layout, masks, name, means)
        for name in ([mode] if isinstance(mode, str) else mode)
    }
    every = head_masks(layout, [head for heads in sets.values() for head in heads])
    for intervene in interventions.values():
        with intervene(every, 1):
            pass  # a mode or means that do not fit are found before anything is computed
    encoded = encode_for(model, tokenizer, examples, max_length)
    ends = answer_ends(model, tokenizer, encoded)
    packing = Packing(model, layout, unique_sets(sets), sets_per_pass, ends)
    if not sets:
        return []
    if scope == "answer":
        copies = packing.copies(len(interventions))
        scored = over_prompts(model, encoded, lambda _, prompts: packing.scores(prompts, interventions), copies)
    else:
        scored = (([index], _whole_passes(model, layout, unique_sets(sets), one, interventions, ends))
                  for index, one in enumerate(progress(encoded, "head sets")))
    with evaluation_mode(model, max_length):
        return _rows(model, scored, encoded, sets, scope)


class SourceAnswer(NamedTuple):
    """The source's outputs and metrics at the positions that predict the answer of one example.

    Attributes:
        outputs: `{layer: [1, n_rows, n_heads, head_dim]}`, the outputs of its heads.
        metrics: its own `forced_metrics`.
    """

    outputs: dict[int, torch.Tensor]
    metrics: dict[str, float]


def source_answers(
    source: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None = None
) -> list[SourceAnswer]:
    """Run the source of patching once, for any number of targets; errors as in `patch_sweep`."""
    encoded = encode_for(source, tokenizer, examples, max_length)
    ends = answer_ends(source, tokenizer, encoded)

    def answer(members: Sequence[int], prompts: CachedPrompts) -> list[SourceAnswer]:
        """Those of the examples that share a pass."""
        with record_head_outputs(source) as outputs:
            logits = prompts.logits()
        scores = token_scores(logits[:, 0], prompts.targets, ends).cpu()
        return [
            SourceAnswer(
                {layer: states[place : place + 1, :size] for layer, states in outputs.items()},
                _metrics(source, encoded[index], scores[place : place + 1])[0],
            )
            for place, (index, size) in enumerate(zip(members, prompts.sizes, strict=True))
        ]

    found: dict[int, SourceAnswer] = {}
    with evaluation_mode(source, max_length):
        for members, answers in over_prompts(source, encoded, answer, description="source"):
            found.update(zip(members, answers, strict=True))
    return [found[index] for index in range(len(encoded))]


def patch_sweep(
    target: nn.Module, source: nn.Module, tokenizer: Any, examples: Sequence[Example],
    head_sets: Mapping[str, Iterable[Head]], *, answers: Sequence[SourceAnswer] | None = None, sets_per_pass: int = 32,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Score every example with every set of heads patched from the source at the positions that predict the answer.

    Each model runs its own prefix; the source is run once per example, or not at all if its `source_answers` to the
    same examples are given. See `knockout_sweep` for arguments and rows (`mode` is `patch`), and `patch_heads` for
    what the models must share.
    """
    layout = head_layout(target)
    check_match(target, source)
    sets = {name: tuple(layout.check(heads)) for name, heads in head_sets.items()}
    if answers is not None and len(answers) != len(examples):
        raise ConfigError(
            f"there are {len(examples)} examples", where="answers", value=len(answers),
            remedy="Pass the `source_answers` to the same examples.",
        )
    encoded = encode_for(target, tokenizer, examples, max_length)
    packing = Packing(target, layout, unique_sets(sets), sets_per_pass, answer_ends(target, tokenizer, encoded))
    if not sets:
        return []
    if answers is None:
        answers = source_answers(source, tokenizer, examples, max_length)

    def patched(members: Sequence[int], prompts: CachedPrompts) -> dict[str, torch.Tensor]:
        outputs = [answers[index].outputs for index in members]

        def intervene(masks: Masks, copies: int) -> AbstractContextManager[None]:
            return output_hooks(layout, masks, lambda layer: _together([one[layer] for one in outputs], copies))

        return packing.scores(prompts, {"patch": intervene})

    with evaluation_mode(target, max_length):
        return _rows(target, over_prompts(target, encoded, patched, packing.copies(1)), encoded, sets, "answer")


def _together(outputs: Sequence[torch.Tensor], copies: int) -> torch.Tensor:
    """Outputs `[1, n_rows, ...]` of some examples as one tensor `[examples, copies x n_rows, ...]`, with padding."""
    return pad_sequence([one[0] for one in outputs], batch_first=True).repeat(1, copies, 1, 1)


def _whole_passes(
    model: nn.Module, layout: HeadLayout, unique: Sequence[Heads], one: Encoded, interventions: Mapping[str, Intervene],
    ends: Collection[int],
) -> dict[str, torch.Tensor]:
    """What `Packing.scores` gives, of one example, by a pass over prompt and answer for each set and intervention."""
    ids = torch.tensor([one.ids], device=model.get_input_embeddings().weight.device)
    found: dict[str, list[torch.Tensor]] = {mode: [] for mode in interventions}
    for mode, intervene in interventions.items():
        for heads in unique:
            with torch.no_grad(), lean_attention(model), intervene(head_masks(layout, heads), 1):
                logits = model(
                    input_ids=ids[:, :-1], use_cache=False, logits_to_keep=ids.shape[1] - one.prompt_length
                ).logits
            found[mode].append(token_scores(logits, ids[:, one.prompt_length :], ends))
    return {mode: torch.stack(parts, 1) for mode, parts in found.items()}


def _rows(
    model: nn.Module, scored: Iterable[tuple[Sequence[int], dict[str, torch.Tensor]]], encoded: Sequence[Encoded],
    sets: Mapping[str, Heads], scope: str,
) -> list[dict[str, Any]]:
    """The rows of a sweep in the order of the examples; numbers are read from the device when all is computed."""
    rows: list[list[dict[str, Any]]] = [[] for _ in encoded]
    for members, by_mode in list(scored):
        for mode, scores in by_mode.items():
            scores = scores.cpu()
            for place, index in enumerate(members):
                metrics = _metrics(model, encoded[index], scores[place])
                found = dict(zip(unique_sets(sets), metrics, strict=True))
                rows[index] += [
                    {"set": name, "k": len(heads), "mode": mode, "scope": scope, "example": index, **found[heads]}
                    for name, heads in sets.items()
                ]
    return [row for part in rows for row in part]


def _metrics(model: nn.Module, encoded: Encoded, scores: torch.Tensor) -> list[dict[str, float]]:
    """`forced_metrics` of each row of an example's scores `[rows, n, 2]`, which are padded; `ModelError` for NaN."""
    scores = scores[:, : len(encoded.ids) - encoded.prompt_length]
    if scores.isnan().any():
        refuse_not_finite(model, encoded.ids, "the likelihood of the answer")
    return token_metrics(scores)


def forced_metrics(
    logits: torch.Tensor, targets: Sequence[int] | torch.Tensor, ends: Collection[int] = (),
) -> dict[str, float]:
    """How well teacher-forced logits predict an answer.

    Args:
        logits: `[n, vocabulary]`, at the positions that predict the targets.
        targets: `[n]`, the answer's tokens and, if there is one, the token that ends it.
        ends: all tokens that end an answer of the model (`end_tokens`); each counts as right if one is the target.

    Returns:
        `exact_match`, 1.0 if every target has the largest logit, which is when greedy decoding gives exactly the
        targets; `token_accuracy`: the fraction of targets that have it; `nll`: nats per target, mean.
    """
    return token_metrics(token_scores(logits[None], torch.as_tensor(targets, device=logits.device), ends).cpu())[0]
