"""What can be said of a model's folder before it is loaded, and errors and silence around the model libraries."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers.utils import logging as transformers_logging

from retrieval_heads.errors import ModelError
from retrieval_heads.shortage import shortage


def model_folder(path_or_id: str | Path, allow_download: bool = False) -> Path:
    """The local folder of a model, checked for config and safetensors weights; see `load_model`.

    Raises:
        ModelError: no such folder; one without these files, or with an adapter beside the model.
    """
    folder = Path(path_or_id)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(
                str(path_or_id), local_files_only=not allow_download,
                allow_patterns=["*.json", "*.safetensors", "tokenizer.model", "*.txt"],
            ))
        except Exception as error:  # a hub client raises a dozen kinds, none of which tells the user what to do
            raise ModelError(
                "no such folder, and no hub model of that id " + ("to be had" if allow_download else "in the cache"),
                where="model", value=str(path_or_id),
                remedy="Give a folder with config.json, safetensors and tokenizer.json, or "
                + ("check id and network." if allow_download else
                   "fetch the id into the hub's cache first: `hf download ID`, or load_model(allow_download=True)."),
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError("the model folder has no config.json", where=folder, remedy="Give a model's folder.")
    if (folder / "adapter_config.json").is_file():  # transformers would put it on the model unasked
        raise ModelError(
            "an adapter lies in the folder of the base model", where=folder / "adapter_config.json",
            remedy="Move it (adapter_config.json and its weights) to a folder of its own, and name that as adapter.",
        )
    for path in (folder / "config.json", folder / "generation_config.json"):  # transformers passes over a broken second
        with as_model_error(path, "the config cannot be loaded"):
            if path.name == "config.json" or path.exists():
                json.loads(path.read_text(encoding="utf-8"))
    weights = {path.name for path in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    with as_model_error(index, "cannot be read"):
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    if (not weights or not needed <= weights) and not (folder / "random_weights.json").is_file():
        raise ModelError(
            "the model folder lacks weights", where=folder, value=sorted(needed - weights) or "no *.safetensors",
            remedy="Complete the folder; other weight formats than safetensors are not read.",
        )
    return folder


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device of that name; `ModelError` where this machine has none."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was compiled without CUDA
        raise ModelError(
            "torch cannot use this device here", where="device", value=str(device), remedy="Use cpu, or cuda on a GPU.",
        ) from error


@contextmanager
def as_model_error(where: Path, problem: str) -> Iterator[None]:
    """Turn whatever a library raises on bad files into one `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if short := shortage(error):
            raise short from error
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            problem, where=where, value=f"{type(error).__name__}: {lines[0]}", remedy="Check its files.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines, warnings or progress bars of the model libraries inside the block."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
