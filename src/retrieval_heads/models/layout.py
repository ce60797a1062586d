"""The model inside PEFT's wrapper, and where the heads of a decoder are: one description for every supported family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrieval_heads.errors import HeadError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

Head = tuple[int, int]
"""A head as `(layer, head)`, both counted from 0; with grouped-query attention these are query heads."""

_WHOLE_INPUT = ("XLORA", "POLY", "SHADOW")
"""Adapters whose effect on a token depends on the rest of the input or on further arguments, by PEFT's names."""


@dataclass(frozen=True)
class HeadLayout:
    """The heads of one model.

    Attributes:
        attentions: the self-attention module of each layer.
        n_heads: query heads per layer.
        n_kv_heads: key/value heads per layer.
        head_dim: width of one head, which need not be hidden size / heads.
    """

    attentions: tuple[nn.Module, ...]
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def n_layers(self) -> int:
        return len(self.attentions)

    def check(self, heads: Iterable[Head]) -> list[Head]:
        """The heads as sorted unique `(layer, head)` pairs; `HeadError` for one that the model does not have."""
        return check_heads(heads, self.n_layers, self.n_heads)


def check_heads(heads: Iterable[Head], n_layers: int, n_heads: int) -> list[Head]:
    """`HeadLayout.check` for a model with this many layers and heads per layer."""
    try:
        pairs = sorted({(int(layer), int(head)) for layer, head in heads})
    except (TypeError, ValueError) as error:
        raise HeadError("heads are a list of (layer, head) pairs", where="heads", value=heads,
                        remedy="Write [(6, 1)] for one head.") from error
    for layer, head in pairs:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise HeadError(
                f"the model has layers 0 to {n_layers - 1} and heads 0 to {n_heads - 1}", where="heads",
                value=(layer, head), remedy="Take heads that were found in this model.",
            )
    return pairs


def vocabulary_size(model: nn.Module) -> int:
    """How many token ids a causal language model, plain or wrapped by PEFT, can read and write."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(end.weight) for end in ends if getattr(end, "weight", None) is not None)


def head_layout(model: nn.Module) -> HeadLayout:
    """Describe the heads of a causal language model, plain or wrapped by PEFT.

    Raises:
        ModelError: the decoder has no layers with `self_attn.o_proj`, or the projection's input width is not heads x
            head_dim, so that an intervention at its input could not be told apart by head; an adapter that does
            not change weights (see `base_model`).
    """
    base = base_model(model)
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    attentions = tuple(layer.self_attn for layer in getattr(decoder, "layers", ()) if hasattr(layer, "self_attn"))
    config = base.config.get_text_config()
    if not attentions or not all(hasattr(attention, "o_proj") for attention in attentions):
        raise ModelError(
            "no decoder layers with `self_attn.o_proj`", where=type(base).__name__,
            remedy="Use a decoder with that layout (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
        )
    n_heads = config.num_attention_heads
    try:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        layout = HeadLayout(attentions, n_heads, getattr(config, "num_key_value_heads", None) or n_heads, head_dim)
    except RuntimeError as error:  # a config with settings by layer has none for all
        raise ModelError(
            "the heads differ from layer to layer in number or size", where=type(base).__name__, value=str(error)[:60],
            remedy="Use a decoder whose layers have the same heads (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
        ) from error
    for index, attention in enumerate(attentions):
        width = getattr(inner_layer(attention.o_proj), "in_features", None)
        if width != n_heads * head_dim:
            raise ModelError(
                f"layer {index}: the output projection reads {width} values, not {n_heads} heads x {head_dim}",
                where=type(base).__name__, remedy="Per-head interventions need the heads side by side at that input.",
            )
    return layout


def base_model(model: nn.Module) -> nn.Module:
    """The causal language model of transformers: the model itself, or what PEFT has wrapped.

    An adapter that changes weights (LoRA and its variants, IA3, OFT, VeRA, ...) leaves every token at its place and
    treats all alike: what is read and changed in the model inside is then right, merged or not. Other adapters put
    tokens or keys in front of the prompt, or look at the whole input before they act, so that positions shift and a
    part of an input run on its own (the answer behind a cached prompt) is treated otherwise.

    Raises:
        ModelError: an active adapter that is not a change of weights: prompt, prefix or p-tuning, an activated LoRA,
            X-LoRA, Poly and the like; one on a weight that embedding and unembedding share.
    """
    wrapped = hasattr(model, "get_base_model")
    if not wrapped and not getattr(model, "_hf_peft_config_loaded", False):  # `add_adapter` of the model itself
        return model
    from peft.tuners.tuners_utils import BaseTuner

    active = model.active_adapters if wrapped else model.active_adapters()
    for name, config in model.peft_config.items():
        if name not in active:
            continue
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if config.is_prompt_learning or (wrapped and not isinstance(model.base_model, BaseTuner)):
            problem = "the adapter puts virtual tokens in front of the input, so that all positions shift"
        elif getattr(config, "alora_invocation_tokens", None) or kind in _WHOLE_INPUT:
            problem = "what the adapter does to a token depends on the rest of the input"
        else:
            continue
        raise ModelError(
            problem, where=f"adapter {name}", value=kind,
            remedy="Use an adapter that changes weights (LoRA, DoRA, IA3, OFT, ...), or the model without it.",
        )
    base = model.get_base_model() if wrapped else model
    _check_tied(base)
    return base


def _check_tied(base: nn.Module) -> None:
    """Raise where embedding and unembedding are one weight and an adapter acts on one of them, or on each.

    Merged, PEFT puts what is on one of them on both, and what is on each on both twice.
    """
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if None in ends or inner_layer(ends[0]).weight is not inner_layer(ends[1]).weight:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, end in zip(("embedding", "unembedding"), ends, strict=True)
               if isinstance(end, BaseTunerLayer)]
    if adapted:
        raise ModelError(
            "the adapter is on a weight that embedding and unembedding share", where=type(base).__name__, value=adapted,
            remedy="Train on a base with `tie_word_embeddings=False`, or with `trainable_token_indices`.",
        )


def matrix_of(module: nn.Module) -> torch.Tensor:
    """float32 `[out, in]`: the matrix by which a linear module multiplies its inputs.

    Of a plain layer its weight. Any other, such as one with an un-merged adapter or with quantised weights, is asked
    what it makes of each unit vector; hooks on it are left out.
    """
    import torch

    with torch.no_grad():
        if type(module) is torch.nn.Linear:
            return module.weight.float()
        inner = inner_layer(module)
        units = torch.eye(inner.in_features, device=inner.weight.device, dtype=compute_dtype(module))
        nothing = torch.zeros_like(units[:1])
        made = module.forward(torch.cat([units, nothing])[None])[0].float()
        return (made[:-1] - made[-1]).T


def inner_layer(module: nn.Module) -> nn.Module:
    """The layer itself under PEFT's wrappers, for its shape and dtype."""
    while (wrapped := getattr(module, "base_layer", None) or getattr(module, "original_module", None)) is not None:
        module = wrapped
    return module


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a projection's inputs: that of the weight under its adapters, float32 where that is quantised."""
    import torch

    weight = inner_layer(module).weight
    return weight.dtype if weight.is_floating_point() else torch.float32
