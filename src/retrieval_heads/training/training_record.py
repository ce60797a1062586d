"""The record of a fine-tuning, and how its folder comes to be: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
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
    return {**read_record(adapter), "timing": _read_json(Path(adapter), TIMING_FILE)}


def read_record(adapter: str | Path) -> dict[str, Any]:
    """The record of an adapter folder without its timing, which need not be there; `ResultError` if incomplete."""
    try:
        read_extension(adapter)
    except ModelError as error:
        raise _unfinished(Path(adapter), error) from error
    return _read_json(Path(adapter), TRAINING_FILE)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise _unfinished(folder, error) from error


def _unfinished(folder: Path, error: Exception) -> ResultError:
    return ResultError(
        "not a finished adapter folder", where=folder, value=str(error), remedy="Delete it, or give another one.",
    )


def publish(
    model: PeftModel, weights: dict[str, torch.Tensor], extension: Extension, record: dict[str, Any],
    timing: dict[str, Any], work: Path, out_dir: Path,
) -> None:
    """Write the adapter and its records inside the working folder, then make it `out_dir` in one step.

    `weights` are the whole adapter's, by the names of the model's parameters. One that was trained in bfloat16 is
    written in it: it has not been multiplied in any other precision.
    """
    if record["settings"]["bf16"]:
        weights = {name: values.to(torch.bfloat16) for name, values in weights.items()}
    folder = work / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    with quiet():
        model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["target_modules"].sort()  # a set in PEFT, so in another order in each process
    _write_json(folder / ADAPTER_CONFIG, config)
    extension.write(folder)
    _write_json(folder / TRAINING_FILE, record)
    _write_json(folder / TIMING_FILE, timing)
    os.replace(folder, out_dir)
    shutil.rmtree(work)


def count_tokens(examples: Sequence[Encoded], epochs: int) -> dict[str, int]:
    """Tokens read and tokens with a loss, over all epochs, without padding."""
    return {
        "tokens_seen": epochs * sum(len(example.ids) for example in examples),
        "answer_tokens_seen": epochs * sum(len(example.ids) - example.prompt_length for example in examples),
    }


def loss_log(state: TrainerState) -> list[dict[str, float]]:
    """One entry an optimizer step: loss in nats an answer token, gradient norm before clipping, learning rate."""
    names = ("step", "loss", "grad_norm", "learning_rate")
    return [{name: entry.get(name) for name in names} for entry in state.log_history if "loss" in entry]


def examples_digest(examples: Sequence[Encoded]) -> str:
    """sha256 (hex) over what training sees of the examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.prompt_length} {example.ids}\n".encode())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, str]:
    """Versions and device."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
