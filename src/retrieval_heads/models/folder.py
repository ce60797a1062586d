"""What can be said of a model's folder before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from retrieval_heads.data.tokenizer import as_model_error
from retrieval_heads.errors import ModelError


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
