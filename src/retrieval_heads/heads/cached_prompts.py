"""Prompts in a model's key/value cache, from which the answers are run again and again.

What an intervention changes at the positions that predict the answer leaves everything before them as it was, so the
prompt is computed once. Several interventions can share a pass: copies of the short suffix stand side by side, and the
attention mask lets each copy see the cached prefix and itself only. The cache is not multiplied, as a batch would do.

On a GPU, where a pass costs by its launches more than by its rows, several examples share their passes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import torch
from torch import nn

from retrieval_heads.attention.shared_context import CachedContext, find_haystacks
from retrieval_heads.data.encode import Encoded, filled_up
from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.hooks import Masks
from retrieval_heads.models.layout import Head, HeadLayout
from retrieval_heads.models.rope import text_config
from retrieval_heads.progress import progress

T = TypeVar("T")
Heads = tuple[Head, ...]

Intervene = Callable[[Masks, int], AbstractContextManager[None]]
"""Puts masks in force for a pass of so many copies of the suffix."""

TOKENS, ROWS, CELLS = 2**15, 2**14, 2**27
"""Most tokens of prompts in a pass that several examples share, most rows of answers, and most cells of the attention
mask and of the logits. The prompts then take a fraction of a GPU's memory also where a dozen processes share it."""


def over_prompts(
    model: nn.Module, encoded: Sequence[Encoded], use: Callable[[Sequence[int], CachedPrompts], T], copies: int = 1,
    description: str = "head sets",
) -> Iterator[tuple[Sequence[int], T]]:
    """What `use` makes of the prompts of all examples, with the indices of the examples, group by group.

    Examples on one haystack (`find_haystacks`) are used one by one, each on the cached haystack; the others as many at
    once as share a pass of so many copies of their suffixes (`batches`). Only the current group is in memory.
    """
    haystacks, others = find_haystacks(encoded, [one.prompt_length - 1 for one in encoded])
    for members, length in progress(haystacks, f"{description}, haystacks"):
        start = CachedContext(model, [encoded[members[0]].ids[:length]])
        for index in members:
            yield [index], use([index], CachedPrompts(model, [encoded[index]], start))
        del start
    remaining = iter(others)
    for batch in progress(batches(model, [encoded[index] for index in others], copies), description):
        indices = [next(remaining) for _ in batch]
        yield indices, use(indices, CachedPrompts(model, batch))


class CachedPrompts:
    """The prompts of some examples in a model's key/value cache, without their last tokens.

    Args:
        model: a causal language model, plain or wrapped by PEFT; interventions in force now reach the prompts.
        batch: the examples; the last token of each is never run, as nothing follows that it would predict.
        start: the first tokens of the only example, computed already; see `CachedContext`.

    Attributes:
        n_rows: rows of the longest suffix; those of the others are padded on the right.
        sizes: rows of each suffix.
        targets: int64 `[examples, n_rows]`, the tokens that the rows predict.
    """

    def __init__(self, model: nn.Module, batch: Sequence[Encoded], start: CachedContext | None = None) -> None:
        device = model.get_input_embeddings().weight.device
        self.sizes = [len(one.ids) - one.prompt_length for one in batch]
        self.n_rows = max(self.sizes)
        self.suffix = torch.tensor(filled_up([one.ids[one.prompt_length - 1 : -1] for one in batch]), device=device)
        self.targets = torch.tensor(filled_up([one.ids[one.prompt_length :] for one in batch]), device=device)
        self.context = CachedContext(model, [one.ids[: one.prompt_length - 1] for one in batch], start)

    def logits(self, copies: int = 1) -> torch.Tensor:
        """Logits `[examples, copies, n_rows, vocabulary]` at the positions that predict the answer and what ends it.

        The pass has copies x n_rows rows, copy after copy, for interventions that differ from copy to copy.
        """
        return self.context.run(self.suffix.repeat(1, copies), copies).logits.unflatten(1, (copies, self.n_rows))


def token_scores(logits: torch.Tensor, targets: torch.Tensor, ends: Collection[int]) -> torch.Tensor:
    """How well each target token is predicted, on the model's device: reading it from a GPU waits for the GPU.

    The logits are `[..., n, vocabulary]`; the targets may lack or have a single one of the leading dimensions. `ends`
    are all tokens that end an answer; each is right where one is the target.

    Returns:
        float32 `[..., n, 2]`: 1 where the target has the largest logit, else 0; its log probability.
    """
    best = logits.argmax(-1)
    hits = best == targets
    if len(ends) > 1:
        known = torch.tensor(sorted(ends), device=logits.device)
        hits |= torch.isin(best, known) & torch.isin(targets, known)
    likelihood = logits.float().log_softmax(-1).gather(-1, targets.expand(hits.shape)[..., None])[..., 0]
    return torch.stack([hits.float(), likelihood], -1)


def token_metrics(scores: torch.Tensor) -> list[dict[str, float]]:
    """`sweeps.forced_metrics` of each row of `token_scores` `[rows, n, 2]`."""
    hits, likelihood = scores.double().unbind(-1)
    table = torch.stack([hits.amin(-1), hits.mean(-1), -likelihood.mean(-1)], -1)
    return [dict(zip(("exact_match", "token_accuracy", "nll"), row, strict=True)) for row in table.tolist()]


def unique_sets(sets: Mapping[str, Heads]) -> list[Heads]:
    """Each distinct set once and in an order of its own, so that neither names nor their order change a number."""
    return sorted(set(sets.values()))


class Packing:
    """Which head sets share a pass of the suffix, as copies side by side, and with how many modes each."""

    def __init__(
        self, model: nn.Module, layout: HeadLayout, unique: list[Heads], sets_per_pass: int, ends: Collection[int] = (),
    ) -> None:
        if sets_per_pass < 1:
            raise ConfigError(
                "a pass holds at least one set", where="sets_per_pass", value=sets_per_pass, remedy="Use 32.",
            )
        self.ends, self.all_modes, device = ends, shares_passes(model), model.get_input_embeddings().weight.device
        n_passes = math.ceil(len(unique) / sets_per_pass) if can_pack(model) else len(unique)
        # for each pass which heads are in which set, bool [sets, n_layers, n_heads], and the layers that have any
        table = torch.zeros(len(unique), layout.n_layers, layout.n_heads, dtype=torch.bool)
        for heads, own in zip(unique, table, strict=True):
            for head in heads:
                own[head] = True
        self.parts = [
            (part.to(device), part.any(2).any(0).nonzero().flatten().tolist())
            for part in (table.tensor_split(n_passes) if unique else ())
        ]

    def copies(self, n_modes: int) -> int:
        """How many copies of the suffix the largest pass has."""
        return max((len(table) for table, _ in self.parts), default=1) * (n_modes if self.all_modes else 1)

    def scores(self, prompts: CachedPrompts, interventions: Mapping[str, Intervene]) -> dict[str, torch.Tensor]:
        """For each mode the `token_scores` `[examples, sets, n, 2]` of every set, the targets padded on the right."""
        modes, found = list(interventions), {mode: [] for mode in interventions}
        for table, layers in self.parts:
            for together in [modes] if self.all_modes else [[mode] for mode in modes]:
                copies = len(together) * len(table)
                with ExitStack() as stack:
                    for index, mode in enumerate(together):
                        # the copies of this mode: the others are left alone
                        own = table.new_zeros(len(together), *table.shape)
                        own[index] = table
                        rows = own.flatten(0, 1).repeat_interleave(prompts.n_rows, 0)
                        stack.enter_context(interventions[mode]({layer: rows[:, layer] for layer in layers}, copies))
                    scores = token_scores(prompts.logits(copies), prompts.targets[:, None], self.ends)
                for index, mode in enumerate(together):
                    found[mode].append(scores[:, index * len(table) : (index + 1) * len(table)])
        return {mode: torch.cat(parts, 1) for mode, parts in found.items()}


def can_pack(model: nn.Module) -> bool:
    """Whether the attention implementation takes a mask of our own."""
    return text_config(model)._attn_implementation in ("sdpa", "eager")


def shares_passes(model: nn.Module) -> bool:
    """Whether examples and modes are better run together: on a GPU, where a launch costs more than a few rows.

    On a CPU each row costs the same in any company.
    """
    return model.get_input_embeddings().weight.device.type != "cpu" and can_pack(model)


def batches(model: nn.Module, examples: Sequence[Encoded], copies: int = 1) -> list[list[Encoded]]:
    """The examples in their order, as many in each batch as should share a pass of so many copies of their suffixes."""
    size = 1
    if examples and shares_passes(model):
        length = max(one.prompt_length for one in examples)
        rows = copies * max(len(one.ids) - one.prompt_length for one in examples)
        width = max(length + rows, model.get_input_embeddings().weight.shape[0])
        size = max(1, min(TOKENS // length, ROWS // rows, CELLS // (rows * width)))
    return [list(examples[start : start + size]) for start in range(0, len(examples), size)]
