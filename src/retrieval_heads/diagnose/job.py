"""`diagnose`: from a request to `report.html` and `tables/*.csv`; and `plan`: what that will cost.

What an earlier call has made is not made again. A plan counts the work, and takes time and memory from a short trial.
"""

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

from retrieval_heads.diagnose.compare import Result, result
from retrieval_heads.diagnose.inputs import Inputs, Request, read_inputs
from retrieval_heads.diagnose.work import Work
from retrieval_heads.errors import ConfigError
from retrieval_heads.files import clear_shortages, write_whole
from retrieval_heads.keys import RunKey
from retrieval_heads.locks import check_claim, claimed, on_record
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import UNTUNED
from retrieval_heads.tables import to_csv
from retrieval_heads.training_sets import TOKENS

WHAT = "a diagnosis"
GROWING = ("train", "adapter", "seeds", "real_train")
"""What a later request in the same folder may add: runs are independent of one another."""

TRIAL = 2
"""Examples of each kind in the trial of a plan."""


@clear_shortages()
def diagnose(request: Request, device: str = "auto") -> Result:
    """Fine-tune, evaluate, detect, compare, knock out and patch; write tables and report to the request's folder.

    Args:
        request: model, files and settings.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DataError, ConfigError, ModelError: as in `inputs.read_inputs`; matplotlib is missing.
        ResultError: the folder holds something else, or results of other arguments; another process is at work in it;
            memory or disk do not suffice.
    """
    inputs, device = read_inputs(request, on_record(request.out).get(TOKENS)), resolve_device(device)
    try:
        from retrieval_heads.diagnose.report import charts, report
    except ImportError as error:
        raise ConfigError("the report needs matplotlib and seaborn", where="diagnose", value=str(error),
                          remedy='Install them: pip install "retrieval-heads[book]".') from error
    with claimed(request.out, inputs.record(), WHAT, GROWING):
        found = _compute(inputs, Work(inputs, device, request.out))
        for name, table in found.tables.items():
            if len(table):
                write_whole(request.out / "tables" / f"{name}.csv", to_csv(table))
        write_whole(report_path(request.out), report(found, charts(found)).encode("utf-8", "replace"))
    return found


def report_path(out: Path) -> Path:
    return Path(out) / "report.html"


def _compute(inputs: Inputs, work: Work) -> Result:
    """Every part that is missing, and what all say together."""
    keys = inputs.every_run
    measured = {key: work.measured(key) for key in keys}
    if not inputs.finds_heads:
        return result(inputs, measured, {}, {})
    knocked_out = {key: work.knocked_out(key) for key in keys}
    # runs of one seed one after the other: they are patched from one real run, which is loaded once
    patchable = sorted((key for key in keys if key.condition in inputs.request.names), key=lambda key: key.seed)
    patched = {key: work.patched(key, real) for key in patchable if (real := inputs.real_run(key)) is not None}
    return result(inputs, measured, knocked_out, patched)


@dataclass(frozen=True)
class Plan:
    """The work to be done, and what it takes.

    Attributes:
        trained: number of fine-tunings; given adapters do not count.
        scored: models that are scored, the untuned one among them.
        steps: optimizer steps of all fine-tunings.
        tokens: training tokens of all fine-tunings.
        seconds: by part of the work, estimated for all runs.
        peak_gb: greatest memory of the trial: of the GPU, or of this process without one.
        device: the device that the trial ran on.
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
        """Some lines to print."""
        each = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in self.seconds.items())
        whose = "GPU memory" if self.device.startswith("cuda") else "memory of the process"
        leaks = [f"leak: {count} evaluation examples share prompt, question, or needle and answer with a training "
                 f"example of {name}" for name, count in self.leaks.items()]
        return "\n".join([
            f"runs: {self.trained} fine-tunings of {self.steps} steps and {self.tokens:,} tokens together; "
            f"{self.scored} models to score{f', {self.there} are there already' if self.there else ''}",
            *(leaks or ["leaks: none"]),
            f"time: about {_duration(sum(self.seconds.values()))} on {self.device} ({each})",
            f"memory: at most {self.peak_gb:.1f} GB {whose} in the trial",
            f"Worked out from a trial on {TRIAL} test and probe examples and one batch of the longest training "
            "examples; rather high, as fixed costs count as if they grew.",
        ])


def plan(request: Request, device: str = "auto") -> Plan:
    """Count the work and try a little of it in a temporary folder; nothing is written to `request.out`.

    Errors as in `diagnose`.
    """
    inputs, device = read_inputs(request, on_record(request.out).get(TOKENS)), resolve_device(device)
    check_claim(request.out, inputs.record(), WHAT, GROWING)
    with tempfile.TemporaryDirectory() as folder:
        seconds, tried = _trial(inputs, device, Path(folder))
    work = Work(inputs, device, request.out)
    every = inputs.every_run

    def todo(kind: str, keys: list[RunKey]) -> list[RunKey]:
        return [key for key in keys if not work.has(kind, key)]

    trained = todo("adapters", [key for key in every if key.condition in inputs.encoded])
    scored = todo("measured", every)
    lengths = {name: [len(one.ids) for one in examples] for name, examples in inputs.encoded.items()}
    tokens = sum(sum(lengths[key.condition]) for key in trained) * request.epochs
    steps = sum(math.ceil(len(lengths[key.condition]) / request.batch_size) for key in trained) * request.epochs
    tests = len(inputs.test) / TRIAL
    whole = {
        "fine-tuning": seconds.get("train", 0.0) * tokens / max(1, tried),
        "scoring": seconds["measure"] * (tests + len(inputs.probe) / TRIAL) / 2 * len(scored),
    }
    if inputs.finds_heads:
        patched = [key for key in every if key.condition in request.names]
        whole["knock-out"] = seconds["knockout"] * tests * len(todo("knockout", every))
        whole["patching"] = seconds.get("patch", 0.0) * tests * len(todo("patching", patched))
    gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Plan(len(trained), len(scored), steps, tokens, whole, peak / 1e9, device, len(every) - len(scored),
                {name: count for name, count in inputs.leaked.items() if count})


def _trial(inputs: Inputs, device: str, folder: Path) -> tuple[dict[str, float], int]:
    """Seconds of each part of the work on a few examples, and the tokens of the training."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    request = replace(inputs.request, epochs=1, seeds=inputs.request.seeds[:1])
    longest = {name: nlargest(request.batch_size, examples, key=lambda one: len(one.ids))
               for name, examples in inputs.encoded.items()}
    probe = sorted(inputs.probe, key=lambda one: not one.needles)[:TRIAL]
    few = replace(inputs, request=request, encoded=longest, probe=probe, test=inputs.test[:TRIAL])
    work, seconds = Work(few, device, folder), {}

    def timed(name: str, act: Callable[[], object]) -> None:
        start = time.perf_counter()
        act()
        seconds[name] = time.perf_counter() - start

    [untuned], [first, *_] = few.runs(UNTUNED), few.runs(request.names[0])
    real = few.real_run(first)
    chosen = [key for key in (first, real) if key is not None]
    trained = [key for key in chosen if key.condition in longest]
    timed("train", lambda: [work.train(key) for key in trained])
    timed("measure", lambda: work.measured(untuned))
    if inputs.finds_heads:
        for key in chosen:
            work.measured(key)
        timed("knockout", lambda: work.knocked_out(first))
        if real is not None:
            timed("patch", lambda: work.patched(first, real))
    return seconds, sum(len(one.ids) for key in trained for one in longest[key.condition])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
