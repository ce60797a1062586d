"""Rotary embeddings whose frequencies depend on the length of the input (dynamic NTK, LongRoPE): held at one length.

Such a module takes the largest position of a batch for the length, and some remember the largest they have seen. So a
loss or a score depends on the examples beside it and before it, and keys in a cache were turned by other frequencies
than those that follow. Inside the block every pass has the frequencies of one length, as where a server is started for
a maximal length. Which modules depend on the length is tried out, not known by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from retrieval_heads.models.adapted import base_model
from retrieval_heads.models.rope import context_length


@contextmanager
def one_length(model: nn.Module, max_length: int | None = None) -> Iterator[None]:
    """Inside the block the RoPE is that of the longest input that the model reads, in every pass.

    Args:
        model: a causal language model, plain or wrapped by PEFT. Afterwards its RoPE is as if just built.
        max_length: tokens of the longest input, where that is more than the model's own length (`context_length`).
    """
    length = max(context_length(model) or 1, max_length or 1)
    with ExitStack() as stack:
        for module in _length_dependent(base_model(model), length):
            stack.callback(_forget, module)
            stack.callback(module.register_forward_pre_hook(_lengthened(length), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(_shortened).remove)
        yield


def _length_dependent(model: nn.Module, length: int) -> list[nn.Module]:
    """The rotary modules that turn the first positions otherwise when there is one at the end; all are left as new."""
    found = []
    for module in model.modules():
        for kind in _kinds(module):
            _forget(module)
            short, long = (_turned(module, positions, kind) for positions in ([0, 1], [0, 1, length - 1]))
            if any(not torch.equal(one[..., :2, :], other[..., :2, :]) for one, other in zip(short, long, strict=True)):
                found.append(module)
                break
        _forget(module)
    return found


def _kinds(module: nn.Module) -> list[str | None]:
    """The kinds of layers that a rotary module has frequencies for, None for one for all; empty for other modules and
    for those without scaling."""
    names = [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]
    scaling = getattr(module, "rope_type", None)
    if set(scaling.values() if isinstance(scaling, dict) else [scaling]) == {"default"}:  # the most, and some have
        return []  # positions of three dimensions
    return [name.removesuffix("inv_freq").rstrip("_") or None for name in names if "original" not in name]


def _turned(module: nn.Module, positions: list[int], kind: str | None) -> tuple[torch.Tensor, ...]:
    device = next(module.buffers()).device
    extra = {} if kind is None else {"layer_type": kind}
    return _parts(module(torch.zeros(1, device=device), torch.tensor([positions], device=device), **extra))


def _parts(output: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Cosines and sines, or both as complex numbers."""
    return (output,) if isinstance(output, torch.Tensor) else output


def _forget(module: nn.Module) -> None:
    """Short inputs put a module back that remembers longer ones."""
    for kind in _kinds(module):
        _turned(module, [0], kind)


def _lengthened(length: int) -> Any:
    def add(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        longer = torch.cat([positions, torch.full_like(positions[..., :1], length - 1)], -1)
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": longer}
        return (args[0], longer, *args[2:]), kwargs

    return add


def _shortened(module: nn.Module, args: tuple, output: Any) -> Any:
    parts = tuple(part[..., :-1, :] for part in _parts(output))
    return parts[0] if isinstance(output, torch.Tensor) else parts
