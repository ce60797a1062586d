"""Forced evaluation under many interventions, with the prompt computed once.

Scope `answer` touches only the positions that predict the answer's tokens: the last token of the prompt and the answer
itself. Everything before is the same for every set of heads, so it is run once into a key/value cache. Several sets
are then scored in one pass: their copies of the short suffix stand side by side, and the attention mask lets each copy
see the cached prefix and itself only. With 12 layers of 16 heads, a prefix of 2048 tokens and an answer of 6, on two
CPU cores: 0.9 s for a whole pass, 25 ms for the suffix of one set, 5 ms a set when 32 share a pass; on one H200, where
the launches count: 27 ms, 14 ms and 0.7 ms.

    rows = knockout_sweep(model, tokenizer, examples, {"none": [], "top5": heads}, mode="zero", scope="answer")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.ablate import SCOPES, knock_out
from retrieval_heads.heads.cached import CachedPrompt, model_length
from retrieval_heads.heads.hooks import Masks, head_masks, output_hooks, packed_masks
from retrieval_heads.heads.patch import check_match, record_head_outputs
from retrieval_heads.models.layout import Head, HeadLayout, head_layout
from retrieval_heads.progress import progress

HeadSet = tuple[Head, ...]
Scores = dict[str, list[dict[str, float]]]
"""For each mode the metrics of each head set."""
Intervene = Callable[[Masks, int], AbstractContextManager[None]]
"""Puts masks in force for a pass of so many copies of the suffix."""


def forced_metrics(logits: torch.Tensor, targets: Sequence[int] | torch.Tensor) -> dict[str, float]:
    """How well teacher-forced logits predict an answer.

    Args:
        logits: `[n, vocabulary]`, at the positions that predict the targets.
        targets: `[n]`, the answer's tokens and, where there is one, the end-of-sequence token.

    Returns:
        `exact_match`: 1.0 if every target has the largest logit, which is when greedy decoding gives exactly the
        targets; `token_accuracy`: the fraction of targets that have; `nll`: nats a target, mean.
    """
    return _metrics(logits[None], torch.as_tensor(targets, device=logits.device))[0]


def knockout_sweep(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], head_sets: Mapping[str, Iterable[Head]],
    mode: str | Sequence[str] = "zero", scope: str = "answer", means: Any = None, *, sets_per_pass: int = 32,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Score every example with every set of heads knocked out.

    Args:
        head_sets: sets by name; their order does not matter.
        mode: one of `ablate.MODES`, or several, which then share the prefix (the dear part in scope `answer`).
        means: for mode `mean`; see `ablate_heads`.
        scope: `answer`: only the rows that predict the answer; `all`: every position, a whole pass for each set.
        sets_per_pass: how many sets share a pass in scope `answer`.
        max_length: tokens; longer examples raise `DataError`. None stands for the model's `max_position_embeddings`.

    Returns:
        a row for each example, mode and set: `set`, `k` (its size), `mode`, `scope`, `example` (index), and the
        `forced_metrics`.
    """
    if scope not in SCOPES:
        raise ConfigError("unknown scope", where="scope", value=scope, remedy=f"Use one of {', '.join(SCOPES)}.")
    layout = head_layout(model)
    sets = {name: tuple(layout.check(heads)) for name, heads in head_sets.items()}

    every = head_masks(layout, [head for heads in sets.values() for head in heads])
    interventions = {name: _knock_out(layout, name, means) for name in ([mode] if isinstance(mode, str) else mode)}
    for intervene in interventions.values():
        with intervene(every, 1):
            pass  # a mode or means that do not fit are found before anything is computed

    def score(encoded: Encoded, unique: list[HeadSet]) -> Scores:
        if scope == "all":
            return {
                name: [_score_whole(model, encoded, heads, layout, intervene) for heads in unique]
                for name, intervene in interventions.items()
            }
        prompt = CachedPrompt(model, encoded)
        return {
            name: _score_cached(prompt, layout, unique, intervene, sets_per_pass)
            for name, intervene in interventions.items()
        }

    return _sweep(model, tokenizer, examples, sets, score, scope, max_length)


class SourceAnswer(NamedTuple):
    """What the source of patching does at the positions that predict the answer of one example.

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
    return list(progress(_answers(source, tokenizer, examples, max_length), "source", total=len(examples)))


def patch_sweep(
    target: nn.Module, source: nn.Module, tokenizer: Any, examples: Sequence[Example],
    head_sets: Mapping[str, Iterable[Head]], *, answers: Sequence[SourceAnswer] | None = None, sets_per_pass: int = 32,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Score every example with every set of heads patched from the source at the positions that predict the answer.

    Each model runs its own prefix; the source is run once an example, or not at all where its `source_answers` to the
    same examples are given. See `knockout_sweep` for arguments and rows (`mode` is `patch`), and `patch_heads` for
    what the models must share.
    """
    layout = head_layout(target)
    check_match(target, source)
    sets = {name: tuple(layout.check(heads)) for name, heads in head_sets.items()}
    if answers is None:
        given = _answers(source, tokenizer, examples, max_length)
    elif len(answers) != len(examples):
        raise ConfigError(
            f"there are {len(examples)} examples", where="answers", value=len(answers),
            remedy="Pass the `source_answers` to the same examples.",
        )
    else:
        given = iter(answers)

    def score(encoded: Encoded, unique: list[HeadSet]) -> Scores:
        outputs = next(given).outputs

        def intervene(masks: Masks, copies: int) -> AbstractContextManager[None]:
            return output_hooks(layout, masks, lambda layer: outputs[layer].repeat(1, copies, 1, 1))

        prompt = CachedPrompt(target, encoded)
        return {"patch": _score_cached(prompt, layout, unique, intervene, sets_per_pass)}

    return _sweep(target, tokenizer, examples, sets, score, "answer", max_length)


def _answers(
    source: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None
) -> Iterator[SourceAnswer]:
    for encoded in encode_all(examples, tokenizer, _length(source, max_length)):
        prompt = CachedPrompt(source, encoded)
        with record_head_outputs(source) as outputs:
            logits = prompt.logits()
        yield SourceAnswer(outputs, _metrics(logits, prompt.targets)[0])


def _knock_out(layout: HeadLayout, mode: str, means: Any) -> Intervene:
    return lambda masks, copies: knock_out(layout, masks, mode, means)


def _sweep(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], sets: Mapping[str, HeadSet],
    score: Callable[[Encoded, list[HeadSet]], Scores], scope: str, max_length: int | None,
) -> list[dict[str, Any]]:
    # each distinct set once and in an order of its own, so that neither names nor their order change a number
    unique = sorted(set(sets.values()))
    rows = []
    for index, encoded in enumerate(progress(encode_all(examples, tokenizer, _length(model, max_length)), "head sets")):
        for mode, metrics in score(encoded, unique).items():
            found = dict(zip(unique, metrics, strict=True))
            rows += [
                {"set": name, "k": len(heads), "mode": mode, "scope": scope, "example": index, **found[heads]}
                for name, heads in sets.items()
            ]
    return rows


def _length(model: nn.Module, max_length: int | None) -> int | None:
    return model_length(model) if max_length is None else max_length


def _score_cached(
    prompt: CachedPrompt, layout: HeadLayout, unique: list[HeadSet], intervene: Intervene, sets_per_pass: int
) -> list[dict[str, float]]:
    if sets_per_pass < 1:
        raise ConfigError("a pass holds at least one set", where="sets_per_pass", value=sets_per_pass, remedy="Use 32.")
    n_passes = math.ceil(len(unique) / sets_per_pass) if prompt.can_pack else len(unique)
    results = []
    for part in np.array_split(np.arange(len(unique)), n_passes) if unique else ():
        chosen = [unique[index] for index in part]
        with intervene(packed_masks(layout, chosen, prompt.n_rows), len(chosen)):
            results += _metrics(prompt.logits(len(chosen)), prompt.targets)
    return results


def _score_whole(model: nn.Module, encoded: Encoded, heads: HeadSet, layout: HeadLayout, intervene: Intervene):
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([encoded.ids], device=device)
    with torch.no_grad(), intervene(head_masks(layout, heads), 1):
        logits = model(
            input_ids=ids[:, :-1], use_cache=False, logits_to_keep=ids.shape[1] - encoded.prompt_length
        ).logits
    return forced_metrics(logits[0], ids[0, encoded.prompt_length :])


def _metrics(logits: torch.Tensor, targets: torch.Tensor) -> list[dict[str, float]]:
    """`forced_metrics` of each copy in logits `[copies, n, vocabulary]`."""
    hits = (logits.argmax(-1) == targets).cpu().double()
    likelihood = logits.float().log_softmax(-1).gather(-1, targets.expand(len(logits), -1)[..., None])[..., 0]
    table = torch.stack([hits.amin(-1), hits.mean(-1), -likelihood.cpu().double().mean(-1)], -1)
    return [dict(zip(("exact_match", "token_accuracy", "nll"), row, strict=True)) for row in table.tolist()]
