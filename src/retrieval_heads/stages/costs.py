"""What a study costs: its stages tried on a few examples at full size, and the time of the whole worked out from that.

The time of a stage is taken to grow with its examples, but for loading the model, which is measured apart. Any other
fixed cost of a stage counts as if it grew too, so that the estimates are rather high.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from retrieval_heads.config import limited
from retrieval_heads.keys import RunKey, study_grid
from retrieval_heads.manifest import device_name
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import grid, patch
from retrieval_heads.stages.common import adapter_path, load_run
from retrieval_heads.stages.provide import make_part
from retrieval_heads.store import Store

TRIED = ("finetune", "detect", "knockout", "patch")
"""Stages whose cost is told."""

COLUMNS = ["task", "condition", "stage", "examples", "seconds", "load_seconds", "peak_gb", "disk_mb", "device"]


def small(profile: Profile, n: int) -> Profile:
    """The profile on `n` examples of each kind, with one pass over the training examples and no further lengths."""
    settings = limited(profile, n).model_dump(mode="json")
    settings["lora"] |= {"epochs": 1, "accumulation": 1, "save_steps": None}
    settings["knockout"]["text_n"] = 1
    settings |= {"bootstrap": 100, "seeds": [profile.seeds[0]], "bases": [profile.bases[0]], "workers": 1}
    settings["lengths"]["conditions"] = ["none"] if profile.data else settings["lengths"]["conditions"]
    return Profile.model_validate_json(json.dumps(settings))


def measure(profile: Profile, out: Path, conditions: Sequence[str], seconds: float | None = None) -> pd.DataFrame:
    """Take the real runs of a `small` profile and those of `conditions` through their stages.

    A row each is written to `out` as it ends, with the columns `COLUMNS`: `disk_mb` is the size of what the stage left,
    `peak_gb` None without a GPU. No stage is begun after so many `seconds`. It goes one task after the other, so that
    what a limit of time leaves out are whole tasks and not whole stages.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    device, store, rows = resolve_device(profile.device), Store(profile), []
    made: dict[str, list[RunKey]] = {}
    keys = [key for key in study_grid(profile) if key.condition in (REFERENCE, *conditions)]
    store.prepare(keys)
    # the real run first, as the others are patched from it
    for key in sorted(keys, key=lambda key: (profile.tasks.index(key.task), key.condition != REFERENCE)):
        for step in (step for step in grid.steps(profile, key) if step.name in TRIED):
            if ends is not None and time.monotonic() > ends:
                break
            rows += _measured(profile, store, key, step, device)
            pd.DataFrame(rows, columns=COLUMNS).to_csv(out, index=False)
            for table in step.tables:
                made.setdefault(table, []).append(key)
    for table, done in made.items():
        store.merge(table, done)
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(profile: Profile, store: Store, key: RunKey, step: grid.Step, device: str) -> list[dict[str, Any]]:
    on_gpu = device.startswith("cuda")
    patch.let_go()  # the real run of the task before would take of the memory that the training plans with
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    make_part(store, step.tables, step.function, key, device)
    taken = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    start = time.perf_counter()
    loaded = load_run(profile, key, device)
    load = time.perf_counter() - start
    del loaded
    row = {"task": key.task, "condition": key.condition, "load_seconds": load, "peak_gb": peak,
           "device": device_name(device)}
    if step.name != "finetune":
        examples = {"detect": profile.n_probe, "knockout": profile.knockout.n, "patch": profile.patch.n}[step.name]
        return [{**row, "stage": step.name, "examples": examples, "seconds": taken, "disk_mb": 0.0}]
    adapter = adapter_path(profile, key)
    training = json.loads((adapter / "timing.json").read_text(encoding="utf-8"))["seconds"]
    size = sum(path.stat().st_size for path in adapter.rglob("*") if path.is_file()) / 1e6
    return [
        {**row, "stage": "train", "examples": profile.n_train, "seconds": training, "load_seconds": 0.0,
         "disk_mb": size},
        {**row, "stage": "evaluate", "examples": profile.n_test, "seconds": max(0.0, taken - training - load),
         "load_seconds": load, "disk_mb": 0.0},
    ]


def estimate(measured: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The whole study's cost by stage, from a table of `measure`, with one further row `all`.

    The columns are `stage`, `runs`, `examples` (a run), `seconds` (a run, mean over what was tried), `hours` (all
    runs), `peak_gb` (highest), `disk_gb` (all runs).
    """
    full = {
        "train": profile.n_train * profile.lora.epochs, "evaluate": profile.n_test, "detect": profile.n_probe,
        "knockout": profile.knockout.n, "patch": profile.patch.n,
    }
    n_runs, n_real = len(study_grid(profile)), sum(key.condition == REFERENCE for key in study_grid(profile))
    rows = []
    for stage, part in measured.groupby("stage", sort=False):
        each = part.load_seconds + (part.seconds - part.load_seconds).clip(lower=0) * full[stage] / part.examples
        runs = n_runs - n_real if stage == "patch" else n_runs
        rows.append({
            "stage": stage, "runs": runs, "examples": full[stage], "seconds": each.mean(),
            "hours": each.mean() * runs / 3600, "peak_gb": part.peak_gb.max(),
            "disk_gb": part.disk_mb.mean() * runs / 1e3,
        })
    table = pd.DataFrame(rows)
    whole = {"stage": "all", "runs": n_runs, "hours": table.hours.sum(), "peak_gb": table.peak_gb.max(),
             "disk_gb": table.disk_gb.sum()}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
