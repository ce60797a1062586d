"""Where numbers stop being finite: NaN or infinity in weights, adapters or activations.

Results are looked at where they are read anyway. Only when one of them is not finite the model is run once more on the
example, and every module's output is looked at, to name the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import torch
from torch import nn

from retrieval_heads.errors import ModelError


class _Found(Exception):  # noqa: N818 - not an error
    """Ends the pass at the first module whose output is not finite."""


@torch.no_grad()
def refuse_not_finite(model: nn.Module, ids: Sequence[int], what: str) -> NoReturn:
    """Raise the `ModelError` that says where a pass over these tokens is first not finite, and why.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        ids: tokens of the example.
        what: the result in which it was seen.
    """
    def look(name: str, module: nn.Module, output: Any) -> None:
        if not _finite(output):
            in_weights = [part for part, weight in module.named_parameters() if not _finite(weight)]
            raise _Found(f"{name}.{in_weights[0]}" if in_weights else name, bool(in_weights))

    place, in_weights = None, False
    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda one, _, output, name=name: look(name, one, output))
            stack.callback(hook.remove)
        try:
            model(input_ids=torch.tensor([list(ids)], device=next(model.parameters()).device), use_cache=False)
        except _Found as found:
            place, in_weights = found.args
    if place is None:
        raise ModelError(
            f"{what} is not finite, though the model alone is on this example", where=type(model).__name__,
            remedy="Look for NaN in the values that replace head outputs, or compute in float32.",
        )
    if in_weights:
        raise ModelError(
            f"a weight is NaN or infinite, so {what} has no value", where=place,
            remedy="Restore the weights of the model or adapter, or train again.",
        )
    raise ModelError(
        f"the activations become NaN or infinite here, so {what} has no value", where=place,
        value=str(next(model.parameters()).dtype), remedy="Compute in bfloat16 or float32: float16 ends at 65504.",
    )


def _finite(output: Any) -> bool:
    """Whether all numbers of a tensor, or of those in a tuple or list, are finite; true for anything else."""
    if isinstance(output, tuple | list):
        return all(_finite(part) for part in output)
    return not isinstance(output, torch.Tensor) or not output.is_floating_point() or bool(output.isfinite().all())
