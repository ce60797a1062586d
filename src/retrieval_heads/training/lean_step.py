"""Training steps of a bf16 base without the detours through fp32 that cost memory traffic and give nothing.

At 32,768 tokens and width 4096 one activation in fp32 is half a gigabyte, and two habits of the libraries write many of
them in each layer:

* PEFT casts the input of each adapter to fp32, the precision of the adapter's weights, and autocast casts it back to
  bf16 for the product. Both casts are exact, so leaving them out changes no number.
* RMSNorm is written as six operations in fp32. PyTorch's own `rms_norm` does them in one pass, in fp32 inside, and
  rounds once at the end instead of twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import nn

PLAIN_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes of transformers that compute weight x / sqrt(mean(x^2) + eps); Gemma's, for one, adds 1 to the weight."""


@contextmanager
def lean_step(model: PeftModel) -> Iterator[None]:
    """Within the block, forward and backward passes of `model` take no detours; nothing if its base is not in bf16."""
    base = model.get_base_model()
    if base.dtype != torch.bfloat16:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(disable_input_dtype_casting(model))
        for norm in (module for module in base.modules() if type(module).__name__ in PLAIN_NORMS):
            # an attribute of the module hides the method of its class until it is deleted again
            norm.forward = _one_pass(norm)
            stack.callback(delattr, norm, "forward")
        yield


def _one_pass(norm: nn.Module):
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        # autocast would cast the input to fp32 first
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)

    return forward
