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
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from retrieval_heads.errors import ModelError
from retrieval_heads.heads.hooks import Masks, Positions, head_masks, output_hooks, record_head_outputs
from retrieval_heads.models.layout import Head, base_model, head_layout

# what makes an input; the rest of a call (cache, labels, which logits) is the target's own business
_INPUTS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "token_type_ids")


@contextmanager
def patch_heads(
    target: nn.Module, source: nn.Module, heads: Iterable[Head], positions: Positions = None,
    inputs: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Inside the block, the outputs of chosen heads of `target` are those of `source` on the same input.

    Every call of the target first runs the source on the call's tokens, without gradients. If the target keeps a cache,
    so does the source, and each continues from its own: `evaluate(target, ...)` and `target.generate` run patched. Pass
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
    beside = _SourceBeside(target, source, masks, positions)
    with ExitStack() as stack:
        if inputs is not None:
            beside.run(inputs)
        else:
            # PEFT's forward goes past the hooks of the model it wraps, its generate past its own
            for module in {id(module): module for module in (target, base_model(target))}.values():
                stack.enter_context(module.register_forward_pre_hook(beside.before, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(beside.after, always_call=True))
        stack.enter_context(output_hooks(layout, masks, beside.outputs, positions))
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


class _SourceBeside:
    """The source of a patch, run before each call of the target on the same tokens.

    Each model keeps its own keys and values; `_caches` says which cache of the source belongs to which of the target,
    for as long as that of the target lives. A cache that was filled outside, or altered since (cropped, or reordered by
    a beam search), belongs to none.
    """

    def __init__(self, target: nn.Module, source: nn.Module, masks: Masks, positions: Positions) -> None:
        self.target, self.source, self.masks, self.positions = target, source, masks, positions
        self._recorded: dict[int, torch.Tensor] = {}
        self._running, self._own_cache = False, None
        self._caches: weakref.WeakKeyDictionary[Any, tuple[Any, weakref.ref | None]] = weakref.WeakKeyDictionary()

    def run(self, call: Mapping[str, Any], cache: Any = None, keep: bool = False) -> None:
        """Record the source's head outputs on the inputs of one call, after the tokens in its own cache."""
        device = self.source.get_input_embeddings().weight.device
        given = {name: value.to(device) for name, value in call.items() if name in _INPUTS and value is not None}
        self._running = True  # the source may be the target itself
        try:
            with torch.no_grad(), record_head_outputs(self.source, self.positions, self.masks) as outputs:
                output = self.source(**given, past_key_values=cache, use_cache=keep, logits_to_keep=1)
        finally:
            self._running = False
        self._own_cache = output.past_key_values if keep else None
        self._recorded.update(outputs)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before a call of the target."""
        if self._running:
            return
        call = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        keep = call.get("use_cache")
        if keep is None:
            keep = getattr(self.target.config.get_text_config(), "use_cache", False)
        self.run(call, self._cache_beside(call.get("past_key_values")), bool(keep))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hook after a call of the target, also of one that failed: its values are not used again."""
        if self._running:
            return
        self._recorded.clear()
        cache = getattr(output, "past_key_values", None)
        if cache is not None and self._own_cache is not None:
            keys = _first_keys(cache)
            self._caches[cache] = self._own_cache, None if keys is None else weakref.ref(keys)
        self._own_cache = None

    def outputs(self, layer: int) -> torch.Tensor | None:
        """What the source's heads of a layer have put out in the call that goes on; None while it runs itself."""
        if self._running:
            return None
        if layer not in self._recorded:
            raise ModelError(
                "a part of the target was run without the whole", where=type(self.target).__name__,
                remedy="Call the target model itself inside `patch_heads`.",
            )
        return self._recorded[layer]

    def _cache_beside(self, cache: Any) -> Any | None:
        """The source's cache for a call of the target with this one; None where no token is in it."""
        if cache is None or not cache.get_seq_length():
            return None
        found, keys = self._caches.get(cache, (None, None))
        if found is None or keys is None or keys() is not _first_keys(cache):
            raise ModelError(
                "the target is called with tokens in its cache, which the source has not seen", where="past_key_values",
                value=int(cache.get_seq_length()),
                remedy="Fill the cache inside the same `patch_heads`, and do not crop or reorder it (no beam search); "
                "or call the target on the whole input without a cache (in `generate`: use_cache=False).",
            )
        return found


def _first_keys(cache: Any) -> Any | None:
    """The keys of the first layer that has some: every change of a cache but that of a pass makes a new tensor."""
    return next((keys for layer in cache.layers if (keys := getattr(layer, "keys", None)) is not None), None)
