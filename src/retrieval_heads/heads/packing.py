"""Which head sets share a pass of the suffix, as copies side by side, and with how many interventions each."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import torch
from torch import nn

from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.cached import CachedPrompts, can_pack, shares_passes
from retrieval_heads.heads.forced import Raw, raw_scores
from retrieval_heads.heads.hooks import Masks, head_table, packed_masks
from retrieval_heads.models.layout import Head, HeadLayout

HeadSet = tuple[Head, ...]
Intervene = Callable[[Masks, int], AbstractContextManager[None]]
"""Puts masks in force for a pass of so many copies of the suffix."""

Scores = dict[str, Raw]
"""For each mode the scores `[examples, sets, n]`, the targets padded on the right to those of the longest answer."""


def unique_sets(sets: Mapping[str, HeadSet]) -> list[HeadSet]:
    """Each distinct set once and in an order of its own, so that neither names nor their order change a number."""
    return sorted(set(sets.values()))


class Packing:
    """Which head sets share a pass of the suffix, as copies side by side, and with how many modes each.

    `ends` are all tokens that end an answer; see `forced_metrics`.
    """

    def __init__(
        self, model: nn.Module, layout: HeadLayout, unique: list[HeadSet], sets_per_pass: int,
        ends: Collection[int] = (),
    ) -> None:
        if sets_per_pass < 1:
            raise ConfigError(
                "a pass holds at least one set", where="sets_per_pass", value=sets_per_pass, remedy="Use 32.",
            )
        self.unique, self.all_modes, self.ends = unique, shares_passes(model), ends
        n_passes = math.ceil(len(unique) / sets_per_pass) if can_pack(model) else len(unique)
        table, device = head_table(layout, unique), model.get_input_embeddings().weight.device
        self.parts = [
            (table[part].to(device), table[part].any(2).any(0).nonzero().flatten().tolist())
            for part in (np.array_split(np.arange(len(unique)), n_passes) if unique else ())
        ]

    def copies(self, n_modes: int) -> int:
        """How many copies of the suffix the largest pass has."""
        return max((len(table) for table, _ in self.parts), default=1) * (n_modes if self.all_modes else 1)

    def scores(self, prompts: CachedPrompts, interventions: Mapping[str, Intervene]) -> Scores:
        """The scores of every set under every intervention."""
        modes, found = list(interventions), {mode: [] for mode in interventions}
        for table, layers in self.parts:
            for together in [modes] if self.all_modes else [[mode] for mode in modes]:
                copies = len(together) * len(table)
                with ExitStack() as stack:
                    for index, mode in enumerate(together):
                        # the copies of this mode: the others are left alone
                        own = table.new_zeros(len(together), *table.shape)
                        own[index] = table
                        masks = packed_masks(own.flatten(0, 1), prompts.n_rows, layers)
                        stack.enter_context(interventions[mode](masks, copies))
                    raw = raw_scores(prompts.logits(copies), prompts.targets[:, None], self.ends)
                for mode, *parts in zip(together, *(part.split(len(table), 1) for part in raw), strict=True):
                    found[mode].append(Raw(*parts))
        return {mode: Raw(*(torch.cat(part, 1) for part in zip(*raws, strict=True))) for mode, raws in found.items()}
