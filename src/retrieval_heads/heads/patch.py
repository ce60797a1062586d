"""Patching: head outputs of a source model are written into a target model that reads the same input.

The site is the input of `o_proj`, so "the output of a head" is what it read from the values, before the projection
mixes the heads. Both models need heads of the same number and size; their weights can differ everywhere.

    with patch_heads(target, source, [(3, 1), (5, 0)], positions=slice(-4, None)):
        logits = target(input_ids=ids).logits

Each model runs on its own; no key/value cache ever passes between them. A cache grows in place, even with
`use_cache=False`, so a shared one would show the target keys of the source. Where the target decodes with a cache, as
in `evaluate` and `generate`, the source decodes beside it with one of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from retrieval_heads.errors import HeadError, ModelError
from retrieval_heads.heads.hooks import Positions, head_masks, output_hooks, row_index
from retrieval_heads.heads.source_cache import SourceCaches
from retrieval_heads.models.layout import Head, base_model, head_layout

# what makes an input; the rest of a call (cache, labels, which logits) is the target's own business
_INPUTS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "token_type_ids")


@contextmanager
def record_head_outputs(
    model: nn.Module, positions: Positions = None, layers: Iterable[int] | None = None
) -> Iterator[dict[int, torch.Tensor]]:
    """Record what the heads put out in the forward passes of the block; a later pass replaces an earlier one.

    Interventions that were entered before this block are seen in what is recorded.

    Args:
        positions: rows of the pass to keep; see `hooks.Positions`.
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
                index = row_index(positions, heads.shape[0], heads.shape[1], heads.device)
                outputs[layer] = heads[index].clone()

            stack.callback(layout.attentions[layer].o_proj.register_forward_pre_hook(keep).remove)
        yield outputs


@contextmanager
def write_head_outputs(
    model: nn.Module, heads: Iterable[Head], values: Mapping[int, torch.Tensor], positions: Positions = None
) -> Iterator[None]:
    """Replace the outputs of heads by recorded ones in every pass of the block.

    Args:
        heads: `(layer, head)` pairs to be replaced; the other heads of `values` are ignored.
        values: as `record_head_outputs` gives them, for every layer that has one of the heads.
        positions: rows of the pass that are replaced, as many as were recorded.

    Raises:
        HeadError: a head outside the model, a layer that was not recorded, or values of another shape.
    """
    layout = head_layout(model)
    masks = head_masks(layout, heads)
    missing = [layer for layer in masks if layer not in values]
    if missing:
        raise HeadError(
            "no outputs were recorded for these layers", where="values", value=missing,
            remedy="Run the source inside `record_head_outputs` first, over these layers.",
        )
    with output_hooks(layout, masks, values.__getitem__, positions):
        yield


@contextmanager
def patch_heads(
    target: nn.Module, source: nn.Module, heads: Iterable[Head], positions: Positions = None,
    inputs: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Inside the block, chosen heads of `target` put out what those of `source` put out on the same input.

    Every call of the target first runs the source on the call's tokens, without gradients. If the target keeps a cache,
    so does the source, and both go on from their own: `evaluate(target, ...)` and `target.generate` run patched. Pass
    `inputs` to run the source once instead, on entry, when the target is called several times on the same input.

    Args:
        target: a causal language model, plain or wrapped by PEFT; called as usual inside the block.
        source: a model with the same layers, heads, head size and vocabulary; may be the target itself.
        heads: `(layer, head)` pairs.
        positions: rows of each call that are patched, None for all; the answer positions are those that predict answer
            tokens. When decoding with a cache, the first call has the rows of the prompt, each later one a single row.
        inputs: keyword arguments of the source's pass.

    Raises:
        HeadError: a head outside the models, or positions outside a pass.
        ModelError: the models do not match, or the target is called with tokens in its cache that it did not read
            inside the block (the source would have to see them too).
    """
    layout = head_layout(target)
    check_match(target, source)
    masks = head_masks(layout, heads)
    recorded: dict[int, torch.Tensor] = {}
    caches, running, own_cache = SourceCaches(), False, None

    def run_source(call: Mapping[str, Any], cache: Any = None, keep: bool = False) -> None:
        """Record the source's head outputs on the inputs of one call, after the tokens in its own cache."""
        nonlocal running, own_cache
        device = source.get_input_embeddings().weight.device
        given = {name: value.to(device) for name, value in call.items() if name in _INPUTS and value is not None}
        running = True
        try:
            with torch.no_grad(), record_head_outputs(source, positions, masks) as outputs:
                output = source(**given, past_key_values=cache, use_cache=keep, logits_to_keep=1)
        finally:
            running = False
        own_cache = output.past_key_values if keep else None
        recorded.update(outputs)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not running:  # the source may be the target itself
            call = _named_arguments(module, args, kwargs)
            keep = call.get("use_cache")
            if keep is None:
                keep = getattr(target.config.get_text_config(), "use_cache", False)
            run_source(call, caches.of(call.get("past_key_values")), bool(keep))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal own_cache
        if not running:
            recorded.clear()
            caches.link(getattr(output, "past_key_values", None), own_cache)
            own_cache = None

    def values(layer: int) -> torch.Tensor | None:
        if running:
            return None
        if layer not in recorded:
            raise ModelError(
                "a part of the target was run without the whole", where=type(target).__name__,
                remedy="Call the target model itself inside `patch_heads`.",
            )
        return recorded[layer]

    with ExitStack() as stack:
        if inputs is not None:
            run_source(inputs)
        else:
            # PEFT's forward goes past the hooks of the model it wraps, its generate past its own
            for module in {id(module): module for module in (target, base_model(target))}.values():
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
        stack.enter_context(output_hooks(layout, masks, values, positions))
        yield


def check_match(target: nn.Module, source: nn.Module) -> None:
    """Raise `ModelError` unless both models have the same layers, heads, head size and vocabulary."""
    ours, theirs = (
        (layout.n_layers, layout.n_heads, layout.head_dim, model.get_input_embeddings().weight.shape[0])
        for model, layout in ((model, head_layout(model)) for model in (target, source))
    )
    if ours != theirs:
        raise ModelError(
            f"the target has (layers, heads, head size, vocabulary) {ours}", where="source", value=theirs,
            remedy="Patch between models of one architecture and tokenizer.",
        )


def _named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return {**bound.pop("kwargs", {}), **bound}
