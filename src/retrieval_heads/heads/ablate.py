"""Knock-out: take chosen heads out of a model while a block runs.

Three modes, which are different interventions:

- `zero`: the head's output is zero: it writes nothing to the residual stream.
- `mean`: its output is a fixed vector, its mean over held-out examples, which keeps what the head adds whatever the
  input is and removes what it adds because of this input (Wang et al. 2022, arXiv 2211.00593, section 2).
- `uniform`: the head attends evenly to all keys it may see. The code that comes with Wu et al. (2024, arXiv
  2404.15574) "masks" a head in this way, by a zero query: that does not remove it, as the mean of all values is still
  written.

    with ablate_heads(model, [(3, 1), (5, 0)]):
        model(input_ids=ids)                                # whole pass without these heads
    with ablate_heads(model, heads, positions=-1):
        model.generate(ids, do_sample=False)                # scope `answer`: the positions that predict answer tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.data.encode import check_ids, filled_up
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import encode_for
from retrieval_heads.errors import ConfigError, DataError, HeadError, ModelError
from retrieval_heads.heads.cached_prompts import batches
from retrieval_heads.heads.hooks import Masks, Positions, head_masks, output_hooks, record_head_outputs, replace_rows
from retrieval_heads.models.layout import Head, HeadLayout, head_layout, inner_layer, vocabulary_size
from retrieval_heads.models.modes import evaluation_mode, refuse_not_finite
from retrieval_heads.progress import progress

MODES = ("zero", "mean", "uniform")
SCOPES = ("answer", "all")


@contextmanager
def ablate_heads(
    model: nn.Module, heads: Iterable[Head], mode: str = "zero", positions: Positions = None, means: Any = None
) -> Iterator[None]:
    """Knock out heads in every forward pass of the block.

    Blocks can be nested. If both name a head, `zero` and `mean` of the inner block win; `uniform` acts on
    the attention and therefore comes before either. Dtypes are kept. No hook is left on exit, even after an exception.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        heads: `(layer, head)` pairs, query heads counted from 0.
        mode: `zero` (the head's output is zero), `mean` (always its mean output over other examples, Wang et al. 2022,
            arXiv 2211.00593) or `uniform` (it attends evenly, as in the code of Wu et al. 2024, arXiv 2404.15574).
        positions: rows of each pass at which the heads are knocked out, see `Positions`; None for all.
        means: float `[n_layers, n_heads, head_dim]` for mode `mean`; see `mean_head_outputs`.

    Raises:
        HeadError: a head outside the model, means of another shape, or positions outside a pass.
        ConfigError: an unknown mode, or `mean` without means.
        ModelError: no heads side by side at `o_proj`; an adapter that does not change weights (prompt tuning, say);
            for `uniform`, no separate `q_proj`, or attention sinks.
    """
    layout = head_layout(model)
    with knock_out(layout, head_masks(layout, heads), mode, means, positions):
        yield


def knock_out(
    layout: HeadLayout, masks: Masks, mode: str, means: Any = None, positions: Positions = None
) -> AbstractContextManager[None]:
    """`ablate_heads` for masks, which can differ from row to row."""
    if mode not in MODES:
        raise ConfigError("unknown knock-out mode", where="mode", value=mode, remedy=f"Use one of {', '.join(MODES)}.")
    if mode == "uniform":
        return _uniform(layout, masks, positions)
    if mode == "zero":
        nothing = torch.zeros(())
        return output_hooks(layout, masks, lambda layer: nothing, positions)
    table = _checked_means(means, layout)
    rows = {layer: table[layer].to(next(layout.attentions[layer].parameters()).device) for layer in masks}
    return output_hooks(layout, masks, rows.__getitem__, positions)


@contextmanager
def _uniform(layout: HeadLayout, masks: Masks, positions: Positions) -> Iterator[None]:
    # a zero query gives equal scores to all keys that the mask leaves: even attention under any mask and any cache,
    # computed by the model's own attention code
    nothing = torch.zeros(())
    with ExitStack() as stack:
        for layer in masks:
            def edit(module: nn.Module, args: tuple, output: torch.Tensor, layer: int = layer) -> torch.Tensor:
                mask = masks[layer] = masks[layer].to(output.device)
                return replace_rows(output, layout, mask, nothing, positions)

            stack.enter_context(_query_site(layout, layer).register_forward_hook(edit))
        yield


def _query_site(layout: HeadLayout, layer: int) -> nn.Module:
    """The module whose output is the query, heads side by side, and behind which heads no longer mix."""
    attention, width = layout.attentions[layer], layout.n_heads * layout.head_dim
    projection = getattr(attention, "q_proj", None)
    n_outputs = None if projection is None else inner_layer(projection).out_features
    if n_outputs != width or getattr(attention, "sinks", None) is not None:
        raise ModelError(
            f"mode uniform needs a `q_proj` of {width} outputs and attention without sinks", where=f"layer {layer}",
            value=type(attention).__name__, remedy="Use mode zero or mean for this model.",
        )
    norm = getattr(attention, "q_norm", None)
    # a norm over all heads (OLMo 2) would carry a zeroed head over to the others; one within a head maps zero to zero
    over_all = norm is not None and layout.n_heads > 1 and sum(weight.numel() for weight in norm.parameters()) == width
    return norm if over_all else projection


def _checked_means(means: Any, layout: HeadLayout) -> torch.Tensor:
    if means is None:
        raise ConfigError("mode mean needs means", where="means", remedy="Pass `mean_head_outputs(...)`.")
    table, shape = torch.as_tensor(means), (layout.n_layers, layout.n_heads, layout.head_dim)
    if tuple(table.shape) != shape:
        raise HeadError(
            f"the model has means of shape {list(shape)}", where="means", value=list(table.shape),
            remedy="Take the means from this model.",
        )
    return table


def check_scope(scope: str) -> None:
    """`ConfigError` for an unknown scope of a knock-out."""
    if scope not in SCOPES:
        raise ConfigError("unknown scope", where="scope", value=scope, remedy=f"Use one of {', '.join(SCOPES)}.")


def mean_head_outputs(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], scope: str = "answer",
    max_length: int | None = None,
) -> torch.Tensor:
    """Mean output of every head over held-out examples, the calibration of knock-out mode `mean`.

    Each row counts equally, so an example with more rows weighs more. Take examples that are not evaluated, and the
    scope of the knock-out: a head's output where the answer is predicted differs from its average output.

    Args:
        scope: `answer`: the rows that predict the answer's tokens and the end-of-sequence token; `all`: every row.
        max_length: tokens; longer examples raise `DataError`. None stands for the model's length (`context_length`).

    Returns:
        float32 `[n_layers, n_heads, head_dim]` on the CPU.

    Raises:
        DataError: no examples; see `encode_all` for those that do not fit.
        ModelError: as in `ablate_heads`; weights or activations that are NaN or infinite.
    """
    layout = head_layout(model)
    check_scope(scope)
    if not examples:
        raise DataError("no examples to take means over", where="examples", remedy="Give held-out examples.")
    device = model.get_input_embeddings().weight.device
    total, n_rows = torch.zeros(layout.n_layers, layout.n_heads, layout.head_dim, dtype=torch.float64), 0
    for batch in progress(batches(model, encode_for(model, tokenizer, examples, max_length)), "mean head outputs"):
        # padded on the right, where nothing sees it
        ids = torch.tensor(filled_up([one.ids[:-1] for one in batch]), device=device)
        rows = torch.zeros(ids.shape, dtype=torch.bool)
        for row, one in zip(rows, batch, strict=True):
            row[one.prompt_length - 1 if scope == "answer" else 0 : len(one.ids) - 1] = True
        with (
            torch.no_grad(), evaluation_mode(model, max_length), lean_attention(model),
            record_head_outputs(model, rows) as outputs,
        ):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
        total += torch.stack([outputs[layer].sum(0, dtype=torch.float32) for layer in range(layout.n_layers)]).cpu()
        n_rows += int(rows.sum())
        if not total.isfinite().all():
            for one in batch:
                refuse_not_finite(model, one.ids, "the mean output of a head")
    return (total / n_rows).float()


@torch.no_grad()
def text_losses(
    model: nn.Module, ids: torch.Tensor, head_sets: Mapping[str, Iterable[Head]], mode: str = "zero", means: Any = None,
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Next-token loss on plain text without chosen heads: the control that tells retrieval from being of use at all.

    If heads are special to retrieval, knocking them out costs much where an answer has to be fetched from the context,
    and little where text only goes on. The heads are out at every position here, as every position predicts.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        ids: int64 `[n, length]`, without padding; see `examples.plain_text`.
        head_sets: heads by label; an empty set gives the model as it is.
        mode, means: as in `ablate_heads`.
        batch_size: rows per forward pass.

    Returns:
        for each label float64 `[n]`, nats per token, mean over the row's tokens but the first.

    Raises:
        HeadError, ConfigError, ModelError: see `ablate_heads`.
        ModelError: weights or activations that are NaN or infinite.
        DataError: a token id that the model does not have.
    """
    for index, row in enumerate(ids.tolist()):
        check_ids(row, vocabulary_size(model), f"row {index}")
    rows, found = ids.to(model.get_input_embeddings().weight.device).split(batch_size), {}
    with evaluation_mode(model):
        for label, heads in head_sets.items():
            with ablate_heads(model, heads, mode, means=means):
                found[label] = np.concatenate([_row_losses(model, some) for some in rows])
    return found


def _row_losses(model: nn.Module, ids: torch.Tensor) -> np.ndarray:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    losses = each.view(len(ids), -1).double().mean(dim=1).cpu().numpy()
    for row in np.flatnonzero(np.isnan(losses)):
        refuse_not_finite(model, ids[row].tolist(), "the loss on text")
    return losses
