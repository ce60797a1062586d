"""Where interventions act: a layer's activations seen as heads, of which some rows are read or replaced.

The output of a head is its slice of the *input* of `o_proj`; behind that projection the heads are mixed and can no
longer be told apart. A forward pre-hook there works for plain and for un-merged PEFT models, whose wrapped projection
reads the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from retrieval_heads.errors import HeadError
from retrieval_heads.models.layout import Head, HeadLayout, head_layout

Positions = int | slice | Sequence[int] | torch.Tensor | None
"""Rows of a forward pass. None stands for all; else an index (negative from the end), indices, a slice, or a bool mask
`[n_rows]` or `[batch, n_rows]`. They count the tokens given to the pass, so a cached prefix is not counted."""

Masks = dict[int, torch.Tensor]
"""For each layer that has a chosen head: bool `[n_heads]`, or `[n_rows, n_heads]` where rows differ."""


def head_masks(layout: HeadLayout, heads: Iterable[Head]) -> Masks:
    """The chosen heads of each layer as a bool mask; `HeadError` for a head that the model does not have."""
    masks: Masks = {}
    for layer, head in layout.check(heads):
        masks.setdefault(layer, torch.zeros(layout.n_heads, dtype=torch.bool))[head] = True
    return masks


@contextmanager
def output_hooks(
    layout: HeadLayout, masks: Masks, values: Callable[[int], torch.Tensor | None], positions: Positions = None
) -> Iterator[None]:
    """Replace head outputs in every pass of the block; the hooks are gone afterwards, also after an exception.

    `values` gives the replacement for a layer, as `replace_rows` takes it; None leaves the layer alone.
    """
    with ExitStack() as stack:
        for layer in masks:
            def edit(module: nn.Module, args: tuple[Any, ...], layer: int = layer) -> tuple[Any, ...] | None:
                replacement = values(layer)
                if replacement is None:
                    return None
                mask = masks[layer] = masks[layer].to(args[0].device)
                return replace_rows(args[0], layout, mask, replacement, positions), *args[1:]

            stack.enter_context(layout.attentions[layer].o_proj.register_forward_pre_hook(edit))
        yield


@contextmanager
def record_head_outputs(
    model: nn.Module, positions: Positions = None, layers: Iterable[int] | None = None
) -> Iterator[dict[int, torch.Tensor]]:
    """Record what the heads put out in the forward passes of the block; a later pass replaces an earlier one.

    Interventions that were entered before this block are seen in what is recorded.

    Args:
        positions: rows of the pass to keep.
        layers: the layers to record; None for all.

    Yields:
        `{layer: [batch, rows, n_heads, head_dim]}` (`[rows, ...]` for a mask over the batch), filled by each pass.
    """
    layout = head_layout(model)
    outputs: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for layer in range(layout.n_layers) if layers is None else layers:
            def keep(module: nn.Module, args: tuple[Any, ...], layer: int = layer) -> None:
                heads = args[0].detach().unflatten(-1, (layout.n_heads, layout.head_dim))
                outputs[layer] = heads[row_index(positions, *heads.shape[:2], heads.device)].clone()

            stack.enter_context(layout.attentions[layer].o_proj.register_forward_pre_hook(keep))
        yield outputs


def replace_rows(
    states: torch.Tensor, layout: HeadLayout, mask: torch.Tensor, values: torch.Tensor, positions: Positions = None
) -> torch.Tensor:
    """A copy of `states` `[batch, n_rows, n_heads x head_dim]` with the chosen heads replaced at the chosen rows.

    `values` are `[n_heads, head_dim]`, a single number, or for each chosen row its own, in the shape of those rows.
    `HeadError` where they have another shape, or see `row_index`.
    """
    heads = states.unflatten(-1, (layout.n_heads, layout.head_dim))
    index = row_index(positions, *heads.shape[:2], heads.device)
    chosen = heads[index]  # [batch, chosen rows, n_heads, head_dim]; [chosen rows, ...] for a mask over the batch
    if values.ndim > 2 and values.shape != chosen.shape:  # no broadcasting: one row is not meant for many
        raise HeadError(
            f"head outputs of shape {list(chosen.shape)} cannot be replaced by others", where="values",
            value=list(values.shape), remedy="Record the values at the same positions, from inputs of the same shape.",
        )
    if values.ndim == 0:  # a number on the CPU stays there: moving it would wait for the GPU at each layer
        replaced = chosen.masked_fill(mask[..., None], values)
    else:
        replaced = torch.where(mask[..., None], values.to(chosen), chosen)
    if positions is None:
        return replaced.flatten(-2)
    heads = heads.clone()
    heads[index] = replaced
    return heads.flatten(-2)


def row_index(positions: Positions, batch: int, n_rows: int, device: torch.device) -> tuple:
    """Index of the wanted rows of a `[batch, n_rows, ...]` tensor.

    `HeadError` for a row outside the pass, a mask of another shape, or no row at all (which would be a silent no-op).
    """
    if positions is None:
        return (slice(None), slice(None))
    if isinstance(positions, slice):
        empty, index = not len(range(n_rows)[positions]), (slice(None), positions)
    else:
        rows = torch.as_tensor(positions, device=device)
        wrong_mask = rows.dtype == torch.bool and tuple(rows.shape) not in {(n_rows,), (batch, n_rows)}
        if wrong_mask or (rows.dtype != torch.bool and bool(((rows < -n_rows) | (rows >= n_rows)).any())):
            raise HeadError(
                f"the pass has {batch} x {n_rows} rows", where="positions", value=positions,
                remedy="Count the tokens given to the pass itself, not those in its cache.",
            )
        empty = not rows.any() if rows.dtype == torch.bool else not rows.numel()
        index = (rows,) if rows.ndim == 2 else (slice(None), rows.reshape(-1) if rows.ndim == 0 else rows)
    if empty:
        raise HeadError(
            f"no row of this pass of {n_rows} is chosen", where="positions", value=positions,
            remedy="Use -1 for the last row of every pass, or None for all rows.",
        )
    return index
