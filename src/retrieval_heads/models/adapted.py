"""The model inside PEFT's wrapper, and the adapters that are more than other weights.

An adapter that changes weights (LoRA and its variants, IA3, OFT, VeRA, ...) leaves every token at its place and treats
all alike: what is read and changed in the model inside is then right, merged or not. Other adapters put tokens or keys
in front of the prompt, or look at the whole input before they act, so that positions shift and a part of an input run
on its own (the answer behind a cached prompt) is treated otherwise. These are refused.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from retrieval_heads.errors import ModelError

_WHOLE_INPUT = ("XLORA", "POLY", "SHADOW")
"""Adapters whose effect on a token depends on the rest of the input or on further arguments, by PEFT's names."""


def base_model(model: nn.Module) -> nn.Module:
    """The causal language model of transformers: the model itself, or what PEFT has wrapped.

    Raises:
        ModelError: an active adapter that is not a change of weights: prompt, prefix or p-tuning, an activated LoRA,
            X-LoRA, Poly and the like; one on a weight that embedding and unembedding share.
    """
    wrapped = hasattr(model, "get_base_model")
    if not wrapped and not getattr(model, "_hf_peft_config_loaded", False):  # `add_adapter` of the model itself
        return model
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
    adapted = [name for name, end in zip(("embedding", "unembedding"), ends, strict=True)
               if isinstance(end, BaseTunerLayer)]
    if adapted:
        raise ModelError(
            "the adapter is on a weight that embedding and unembedding share", where=type(base).__name__, value=adapted,
            remedy="Train on a base with `tie_word_embeddings=False`, or with `trainable_token_indices`.",
        )


@torch.no_grad()
def matrix_of(module: nn.Module) -> torch.Tensor:
    """float32 `[out, in]`: the matrix by which a linear module multiplies its inputs.

    Of a plain layer its weight. Any other, such as one with an un-merged adapter or with quantised weights, is asked
    what it makes of each unit vector; hooks on it are left out.
    """
    if type(module) is nn.Linear:
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
    weight = inner_layer(module).weight
    return weight.dtype if weight.is_floating_point() else torch.float32
