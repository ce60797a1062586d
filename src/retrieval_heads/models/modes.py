"""How a model is read: without dropout, with the RoPE of one length, and with numbers that are finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model
from retrieval_heads.models.rope import context_length


@contextmanager
def evaluation_mode(model: nn.Module, max_length: int | None = None) -> Iterator[None]:
    """Without dropout inside the block, and with the RoPE of one length (see `one_length`); afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with one_length(model, max_length):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def one_length(model: nn.Module, max_length: int | None = None) -> Iterator[None]:
    """Inside the block the RoPE is that of the longest input that the model reads, in every pass.

    Rotary embeddings whose frequencies depend on the length of the input (dynamic NTK, LongRoPE) take the largest
    position of a batch for the length, and some remember the largest they have seen. So a loss or a score depends on
    the examples beside it and before it, and keys in a cache were turned by other frequencies than those that follow.
    Here every pass has the frequencies of one length, as where a server is started for a maximal length. Which modules
    depend on the length is tried out, not known by name.

    `max_length` is in tokens, where that is more than the model's own length. Afterwards the RoPE is as if just built.
    """
    length = max(context_length(model) or 1, max_length or 1)
    with ExitStack() as stack:
        for module in _length_dependent(base_model(model), length):
            stack.callback(_forget, module)
            stack.callback(module.register_forward_pre_hook(partial(_lengthened, length), with_kwargs=True).remove)
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


def _lengthened(length: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
    longer = torch.cat([positions, torch.full_like(positions[..., :1], length - 1)], -1)
    if "position_ids" in kwargs:
        return args, {**kwargs, "position_ids": longer}
    return (args[0], longer, *args[2:]), kwargs


def _shortened(module: nn.Module, args: tuple, output: Any) -> Any:
    parts = tuple(part[..., :-1, :] for part in _parts(output))
    return parts[0] if isinstance(output, torch.Tensor) else parts


@torch.no_grad()
def refuse_not_finite(model: nn.Module, ids: Sequence[int], what: str) -> NoReturn:
    """Raise the `ModelError` that says where a pass over these tokens is first not finite, and why.

    Results are looked at where they are read anyway. Only when one of them, `what`, is not finite the model is run once
    more on the example, and every module's output is looked at, to name the first.
    """
    first = next(model.parameters())

    def look(name: str, module: nn.Module, _: tuple, output: Any) -> None:
        """Raise if the output is not finite; a broken weight is named before it."""
        if _finite(output):
            return
        if broken := [part for part, weight in module.named_parameters() if not _finite(weight)]:
            raise ModelError(
                f"a weight is NaN or infinite, so {what} has no value", where=f"{name}.{broken[0]}",
                remedy="Restore the weights of the model or adapter, or train again.",
            )
        raise ModelError(
            f"the activations become NaN or infinite here, so {what} has no value", where=name,
            value=str(first.dtype), remedy="Compute in bfloat16 or float32: float16 ends at 65504.",
        )

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(partial(look, name)).remove)
        model(input_ids=torch.tensor([list(ids)], device=first.device), use_cache=False)
    raise ModelError(
        f"{what} is not finite, though the model alone is on this example", where=type(model).__name__,
        remedy="Look for NaN in the values that replace head outputs, or compute in float32.",
    )


def _finite(output: Any) -> bool:
    """Whether all numbers of a tensor, or of those in a tuple or list, are finite; true for anything else."""
    if isinstance(output, tuple | list):
        return all(_finite(part) for part in output)
    return not isinstance(output, torch.Tensor) or not output.is_floating_point() or bool(output.isfinite().all())
