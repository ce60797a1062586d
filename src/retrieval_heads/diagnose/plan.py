"""What a diagnosis will cost, before it is begun: counts, and time and memory from a short measured trial."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from pathlib import Path

import torch

from retrieval_heads.diagnose.inputs import Inputs, read_inputs
from retrieval_heads.diagnose.job import GROWING, TOKENS, WHAT, record
from retrieval_heads.diagnose.request import Request
from retrieval_heads.diagnose.work import Work, real_run
from retrieval_heads.keys import RunKey
from retrieval_heads.locks import check_claim, on_record
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import UNTUNED

TRIAL = 2
"""Examples of each kind in the trial."""


@dataclass(frozen=True)
class Plan:
    """What is to be done and what it takes.

    Attributes:
        trained: fine-tunings; given adapters are none.
        scored: models that are scored, the untuned one among them.
        steps: optimizer steps of all fine-tunings.
        tokens: training tokens of all fine-tunings.
        seconds: by part of the work, estimated for all runs.
        peak_gb: greatest memory of the trial: of the GPU, or of this process without one.
        device: that the trial ran on.
        there: models that are scored already.
        leaks: by set, evaluation examples that share prompt, question, or needle and answer with one of it.
    """

    trained: int
    scored: int
    steps: int
    tokens: int
    seconds: dict[str, float]
    peak_gb: float
    device: str
    there: int = 0
    leaks: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Some lines to be printed."""
        each = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in self.seconds.items())
        whose = "GPU memory" if self.device.startswith("cuda") else "memory of the process"
        return (
            f"runs: {self.trained} fine-tunings of {self.steps} steps and {self.tokens:,} tokens together; "
            f"{self.scored} models to score{f', {self.there} are there already' if self.there else ''}\n"
            f"{self._leaks()}"
            f"time: about {_duration(sum(self.seconds.values()))} on {self.device} ({each})\n"
            f"memory: at most {self.peak_gb:.1f} GB {whose} in the trial\n"
            f"Worked out from a trial on {TRIAL} test and probe examples and one batch of the longest training "
            "examples; rather high, as fixed costs count as if they grew."
        )

    def _leaks(self) -> str:
        return "".join(
            f"leak: {count} evaluation examples share prompt, question, or needle and answer with a training example "
            f"of {name}\n" for name, count in self.leaks.items()
        ) or "leaks: none\n"


def plan(request: Request, device: str = "auto") -> Plan:
    """Count the work and try a little of it in a folder that is removed again; nothing is written to `request.out`.

    Errors as in `diagnose`.
    """
    inputs, device = read_inputs(request, on_record(request.out).get(TOKENS)), resolve_device(device)
    check_claim(request.out, record(inputs), WHAT, GROWING)
    with tempfile.TemporaryDirectory() as folder:
        seconds, trained = _trial(inputs, device, Path(folder))
    work = Work(inputs, device, request.out)
    every = [key for condition in inputs.conditions for key in inputs.runs(condition)]

    def todo(kind: str, keys: list[RunKey]) -> list[RunKey]:
        return [key for key in keys if not work.has(kind, key)]

    fitted = todo("adapters", [key for key in every if key.condition in inputs.encoded])
    measured = todo("measured", every)
    tokens = {name: sum(len(one.ids) for one in examples) * request.epochs for name, examples in inputs.encoded.items()}
    all_tokens = sum(tokens[key.condition] for key in fitted)
    steps = sum(math.ceil(len(inputs.encoded[key.condition]) / request.batch_size) * request.epochs for key in fitted)
    scored = len(inputs.test) / TRIAL
    whole = {
        "fine-tuning": seconds.get("train", 0.0) * all_tokens / max(1, trained),
        "scoring": seconds["measure"] * (scored + len(inputs.probe) / TRIAL) / 2 * len(measured),
    }
    if inputs.finds_heads:
        patched = [key for key in every if key.condition in request.names]
        whole["knock-out"] = seconds["knockout"] * scored * len(todo("knockout", every))
        whole["patching"] = seconds.get("patch", 0.0) * scored * len(todo("patching", patched))
    there = len(every) - len(measured)
    leaks = {name: count for name, count in inputs.leaked.items() if count}
    return Plan(len(fitted), len(measured), steps, all_tokens, whole, _peak(device), device, there, leaks)


def _trial(inputs: Inputs, device: str, folder: Path) -> tuple[dict[str, float], int]:
    """Seconds of each part of the work on a few examples, and the tokens of the training."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    request = replace(inputs.request, epochs=1, seeds=inputs.request.seeds[:1])
    longest = {
        name: nlargest(request.batch_size, examples, key=lambda one: len(one.ids))
        for name, examples in inputs.encoded.items()
    }
    probe = sorted(inputs.probe, key=lambda one: not one.needles)[:TRIAL]
    few = replace(inputs, request=request, encoded=longest, probe=probe, test=inputs.test[:TRIAL])
    work = Work(few, device, folder)
    seconds: dict[str, float] = {}
    keys = {condition: work.inputs.runs(condition)[0] for condition in inputs.conditions}
    first = keys[next(iter(request.names))]
    real = real_run(work.inputs, first)
    chosen = [key for key in (first, real) if key is not None]
    trained = [key for key in chosen if key.condition in longest]
    _timed(seconds, "train", lambda: [work.train(key) for key in trained])
    _timed(seconds, "measure", lambda: work.measured(keys[UNTUNED]))
    if inputs.finds_heads:
        for key in chosen:
            work.measured(key)
        _timed(seconds, "knockout", lambda: work.knocked_out(first))
        if real is not None:
            _timed(seconds, "patch", lambda: work.patched(first, real))
    return seconds, sum(len(one.ids) for key in trained for one in longest[key.condition])


def _timed(seconds: dict[str, float], name: str, act: Callable[[], object]) -> None:
    start = time.perf_counter()
    act()
    seconds[name] = time.perf_counter() - start


def _peak(device: str) -> float:
    """Gigabytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
