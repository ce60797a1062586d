"""Several processes that train one run together, as `accelerate launch` or `torchrun` start them.

    accelerate launch --num_processes 4 -m retrieval_heads run finetune --profile paper --task mdqa
    accelerate launch --num_processes 4 --use_fsdp -m retrieval_heads run finetune --profile paper --task mdqa
    torchrun --nproc-per-node 4 -m retrieval_heads run finetune --profile paper --task mdqa

The first process leads: it goes through the study as one process does, and whenever it fine-tunes, it tells the others
what. They do nothing but wait for a training and take part in it, so that tables and adapters are written once. Each
process has the whole model (DDP), or a part of each layer where the launcher was asked for FSDP.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed, nn

from retrieval_heads.errors import ModelError, StudyError

FSDP_VARIABLE = "ACCELERATE_USE_FSDP"
"""Set by `accelerate launch --use_fsdp`."""

_leading = _sharded = False


def several() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if several() else (0, 1)


def is_first() -> bool:
    """Whether it is this process that writes."""
    return place()[0] == 0


def sharded() -> bool:
    """Whether the launcher was asked for FSDP; known after `join`."""
    return _sharded


def join(device: str) -> None:
    """Meet the other processes, if there are any; with `cuda` each takes the GPU of its local number."""
    global _sharded
    if not several():
        return
    # the Trainer is not to see it: it would shard by accelerate, which quietly does not on a CPU
    _sharded = _sharded or os.environ.pop(FSDP_VARIABLE, "").lower() in ("1", "true", "yes")
    PartialState(cpu=device == "cpu")
    _patient_group()


def share(value: Any) -> Any:
    """The first process's value, in all processes. The others wait for it as long as it takes."""
    if not several():
        return value
    values = [value]
    distributed.broadcast_object_list(values, 0, group=_patient_group())
    return values[0]


@contextmanager
def together(device: str, follow: Callable[..., Any]) -> Iterator[bool]:
    """The block is for the process that leads: True there, and False in those that have followed it to its end.

    These call `follow` with what the leading one announces, by name.
    """
    global _leading
    if not several():
        yield True
        return
    join(device)
    if not is_first():
        while (job := share(None)) is not None:
            try:
                follow(**job)
            except StudyError as error:
                # what is wrong with a training is so in all processes, and the leading one reports it; if it were not,
                # that one would wait for this one, and this line would be all that says why
                print(f"process {place()[0]}: {error}", file=sys.stderr, flush=True)
        yield False
        return
    _leading = True
    try:
        yield True
    except SystemExit:
        raise  # the others may be anywhere
    except BaseException:
        share(None)
        raise
    else:
        share(None)
    finally:
        _leading = _sharded = False


def announce(**job: Any) -> None:
    """In the process that leads: let the others do the same; nothing where all were called alike."""
    if _leading:
        share(job)


@contextmanager
def all_or_none() -> Iterator[None]:
    """The part of a training in which processes wait for each other: who fails by what others do not know of, ends."""
    try:
        yield
    except ModelError:
        raise  # raised in all processes alike
    except Exception as error:
        if not several():
            raise
        traceback.print_exc(file=sys.stderr)
        raise SystemExit(1) from error


def shard(model: nn.Module, layers: list[nn.Module], device: torch.device) -> None:
    """Give each process a part of every parameter, in place (FSDP 2): each layer is put together when it is needed."""
    from torch.distributed.fsdp import fully_shard

    mesh = distributed.init_device_mesh(device.type, (place()[1],))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A parameter put together again, where processes have parts of it; all of them must call this."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


@cache
def _patient_group() -> distributed.ProcessGroup:
    """For messages between trainings: the first process may have hours of other work before it sends the next one."""
    return distributed.new_group(backend="gloo", timeout=timedelta(days=365))
