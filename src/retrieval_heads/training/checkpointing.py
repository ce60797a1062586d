"""Training steps that fit: activation checkpointing that keeps what is dear to compute and cheap to hold.

Plain checkpointing keeps the input of each decoder layer and computes the whole layer once more in the backward pass.
At 32,768 tokens the attention is the dearest part of that per byte of its result, so its output is kept too, by
PyTorch's selective checkpointing, and only the rest is computed again. Where memory is left, the results of the
projections are kept in some layers as well. What is kept is what would be computed again, so gradients are the same.

An 8B model (32 layers, width 4096, 32 query and 8 key/value heads of 128, feed-forward 14,336, bf16) holds

    kept in each layer               bytes per token 32 layers x 32,768 tokens   operations saved a byte
    its input (always)                       8,192                     8.6 GB
    attention output, log-sum-exp            8,320                     8.7 GB                     32,000
    q, k, v, o, gate and up products        77,824                    81.6 GB                      4,100

beside 16 GB of weights and about 10 GB for the work on one layer: with the attention output 43 GB, and 14 of the 32
layers can keep their products within 80 GB. The product of `down_proj` is never computed again: nothing in the layer
needs it once it has been added to the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

ATTENTION_OPERATORS = frozenset({
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
})
"""What `scaled_dot_product_attention` comes down to, but for its fallback, which is made of ordinary products."""

PRODUCT_OPERATORS = frozenset({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})

KEPT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
"""Projections whose products the backward pass of a layer needs again."""

PLAIN_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes of transformers that compute weight x / sqrt(mean(x^2) + eps); Gemma's, for one, adds 1 to the weight."""


def keep_attention(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Policy of selective checkpointing: keep the attention output, compute the rest again."""
    return CheckpointPolicy.MUST_SAVE if operator in ATTENTION_OPERATORS else CheckpointPolicy.PREFER_RECOMPUTE


def keep_products(
    shapes: frozenset[tuple[int, int]], context: Any, operator: Any, *args: Any, **kwargs: Any,
) -> CheckpointPolicy:
    """Policy that keeps the attention output, and products with a matrix of one of these (inputs, outputs).

    A product is known by its shape and not by its weight, which autocast and FSDP replace by another copy in each pass.
    """
    if operator in PRODUCT_OPERATORS and tuple(args[-1].shape) in shapes:
        return CheckpointPolicy.MUST_SAVE
    return keep_attention(context, operator)


def checkpoint_layers(model: PreTrainedModel, n_products: int = 0) -> None:
    """Turn on selective checkpointing for training, before or after PEFT has put adapters in.

    All layers keep their attention output; `n_products` of them, from the first, the products of their projections too.
    """
    # the old name is deprecated within transformers 5, the new one is missing in its earlier releases
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": _contexts(keep_attention)})
    for layer in decoder_layers(model)[:n_products]:
        policy = partial(keep_products, frozenset(_projections(layer).values()))
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, context_fn=_contexts(policy))


def layers_with_products(model: PreTrainedModel, tokens: int, memory: float) -> int:
    """In how many layers the products can be kept: an estimate from shapes.

    `tokens` are those of the largest batch, with padding; `memory` is in bytes, of weights and activations together.
    """
    layers, element = decoder_layers(model), model.dtype.itemsize
    projections = [_projections(layer) for layer in layers]
    if not all(projections):
        return 0
    config = model.config.get_text_config()
    hidden, widest = config.hidden_size, max(out for sizes in projections for _, out in sizes.values())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    attention = max(sizes["o_proj"][0] for sizes in projections) * element + 4 * config.num_attention_heads
    # measured for the 8B shape: what one layer needs while it is computed again and differentiated
    working = (8 * widest + 10 * hidden) * element
    left = memory - weights - tokens * (working + len(layers) * (hidden * element + attention))
    kept = max(sum(out for _, out in sizes.values()) for sizes in projections) * element * tokens
    return int(min(max(left // kept, 0), len(layers)))


def _contexts(policy: Callable[..., CheckpointPolicy]) -> Callable[[], Any]:
    return partial(create_selective_checkpoint_contexts, policy)


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers that are checkpointed and sharded as units, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _projections(layer: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the projections by name; empty for a layer without one of them.

    By `endswith`, as PEFT's own layer of that name wraps the one whose weight counts.
    """
    found = {
        name.rpartition(".")[2]: (module.in_features, module.out_features) for name, module in layer.named_modules()
        if name.endswith(KEPT_PROJECTIONS)
    }
    return found if len(found) == len(KEPT_PROJECTIONS) else {}


@contextmanager
def lean_step(model: PeftModel) -> Iterator[None]:
    """Within the block, passes of a bf16 base leave out detours through fp32 that cost memory traffic and give nothing.

    At 32,768 tokens and width 4096 one activation in fp32 is half a gigabyte, and two habits of the libraries write
    many of them in each layer. PEFT casts the input of each adapter to fp32, the precision of the adapter's weights,
    and autocast casts it back to bf16 for the product: both casts are exact, so leaving them out changes no number.
    RMSNorm is written as six operations in fp32; PyTorch's own does them in one pass, in fp32 inside, and rounds once.
    """
    base = model.get_base_model()
    if base.dtype != torch.bfloat16:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(disable_input_dtype_casting(model))
        for norm in (module for module in base.modules() if type(module).__name__ in PLAIN_NORMS):
            # an attribute of the module hides the method of its class until it is deleted again
            norm.forward = partial(_one_pass, norm)
            stack.callback(delattr, norm, "forward")
        yield


def _one_pass(norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    # autocast would cast the input to fp32 first
    with torch.autocast(hidden.device.type, enabled=False):
        return nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
