"""The record of a fine-tuning, and how its folder comes to be: whole or not at all.

An adapter is trained in a hidden folder beside its place, which holds its checkpoints and what they belong to.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from transformers.trainer_callback import TrainerState

from retrieval_heads.data.encode import Encoded
from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.errors import ModelError, ResultError
from retrieval_heads.files import UNREADABLE
from retrieval_heads.models.extension import ADAPTER_CONFIG, Extension, read_extension

TRAINING_FILE = "training.json"
TIMING_FILE = "timing.json"


def read_training(adapter: str | Path) -> dict[str, Any]:
    """The record of a finished adapter folder, as `finetune` returns it; `ResultError` if it is incomplete."""
    return {**read_record(adapter), "timing": _read(Path(adapter), TIMING_FILE)}


def read_record(adapter: str | Path) -> dict[str, Any]:
    """The record of an adapter folder without its timing, which need not be there; `ResultError` if incomplete."""
    return _read(Path(adapter), TRAINING_FILE)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        read_extension(folder)
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except UNREADABLE as error:  # a `ModelError` is a ValueError
        raise ResultError(
            "not a finished adapter folder", where=folder, value=str(error), remedy="Delete it, or give another one.",
        ) from error


def publish(
    model: PeftModel, weights: dict[str, torch.Tensor], extension: Extension, record: dict[str, Any],
    timing: dict[str, Any], work: Path, out_dir: Path,
) -> None:
    """Write the adapter and its records inside the working folder, then make it `out_dir` in one step.

    `weights` are the whole adapter's, by the names of the model's parameters.
    """
    # an adapter that was trained in bfloat16 has not been multiplied in any other precision
    if record["settings"]["bf16"]:
        weights = {name: values.to(torch.bfloat16) for name, values in weights.items()}
    folder = work / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    with quiet():
        model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["target_modules"].sort()  # a set in PEFT, so in another order in each process
    extension.write(folder)
    for name, content in ((ADAPTER_CONFIG, config), (TRAINING_FILE, record), (TIMING_FILE, timing)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(folder, out_dir)
    shutil.rmtree(work)


def outcome(examples: Sequence[Encoded], epochs: int, state: TrainerState, device: torch.device) -> dict[str, Any]:
    """What the record says of a training that has ended.

    Tokens read and tokens with a loss, over all epochs, without padding; the loss in nats an answer token, the gradient
    norm before clipping and the learning rate of each optimizer step; versions and device.
    """
    names = ("step", "loss", "grad_norm", "learning_rate")
    return {
        "tokens_seen": epochs * sum(len(example.ids) for example in examples),
        "answer_tokens_seen": epochs * sum(len(example.ids) - example.prompt_length for example in examples),
        "steps": state.global_step,
        "loss": [{name: entry.get(name) for name in names} for entry in state.log_history if "loss" in entry],
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "peft": peft.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
    }


def examples_digest(examples: Sequence[Encoded]) -> str:
    """sha256 (hex) over what training sees of the examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.prompt_length} {example.ids}\n".encode())
    return digest.hexdigest()


@contextmanager
def left_tidy(work: Path, own: bool) -> Iterator[None]:
    """A failure of the block leaves whole checkpoints to go on from, or no folder; `own`: this process cleans up."""
    try:
        yield
    except BaseException as error:
        if own:
            shutil.rmtree(work / "adapter", ignore_errors=True)
            # a run that diverged would only diverge again
            if isinstance(error, ModelError) or last_checkpoint(work) is None:
                shutil.rmtree(work, ignore_errors=True)
        raise


def open_work(work: Path, inputs: dict[str, Any]) -> str | None:
    """Make the working folder, or take up that of an interrupted call; returns its last whole checkpoint."""
    if _read_or_none(work / "inputs.json") != inputs:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
    return last_checkpoint(work)


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint of a working folder, from which half ones are removed; None without any."""
    last = None
    for folder in sorted((work / "checkpoints").glob("checkpoint-*"), key=step_of):
        # the Trainer writes this file last
        if _read_or_none(folder / "trainer_state.json") is None:
            shutil.rmtree(folder)
        else:
            last = str(folder)
    return last


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _read_or_none(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE:
        return None
