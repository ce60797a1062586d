"""Load a causal language model and its tokenizer, with or without a LoRA adapter, and never with the wrong RoPE theta.

    model, tokenizer = load_model("models/base")
    model, tokenizer = load_model("models/base", adapter="runs/mdqa-real-0")   # PEFT model, not merged
    swap_adapter(model, "runs/mdqa-symbolic-0")                                # same base, other adapter, in place
    source = sibling_model(model, "runs/mdqa-real-0")                          # second model on the same base weights

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from retrieval_heads.errors import ModelError
from retrieval_heads.models.extension import ADAPTER_WEIGHTS, Extension, fingerprint, read_extension
from retrieval_heads.models.rope import check_rope, with_rope_theta

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_model(
    path_or_id: str | Path, adapter: str | Path | None = None, device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32, rope_theta: float | None = None, max_length: int | None = None,
    allow_download: bool = False,
) -> tuple[nn.Module, Any]:
    """Load a model for reading (evaluation mode, no gradients, SDPA attention) and its fast tokenizer.

    Args:
        path_or_id: a local folder, or a hub id: one in the local cache, or any with `allow_download`.
        adapter: a folder written by `finetune`; the model is then a PEFT model, not merged, with the adapter's RoPE
            theta in force and its `Extension` as attribute `extension`.
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: of the weights.
        rope_theta: base frequency of RoPE; None keeps the base's, or the adapter's where there is one.
        max_length: tokens; raises `max_position_embeddings` where that is lower.
        allow_download: whether a hub id may be fetched.

    Raises:
        ModelError: a folder that is missing or lacks config, weights or tokenizer; a slow tokenizer; a model without
            RoPE where theta is asked for; an adapter without `extension.json`, made for another base or theta.
    """
    device = usable_device(device)
    folder = model_folder(path_or_id, allow_download)
    extension = read_extension(adapter) if adapter is not None else None
    if extension is not None:
        _check_fits(extension, folder, rope_theta, adapter)
        rope_theta, max_length = extension.rope_theta, max(extension.max_length, max_length or 0)
    tokenizer = load_tokenizer(folder)
    model = build_model(folder, dtype, rope_theta, max_length)
    if extension is not None:
        with quiet(), _as_model_error(Path(adapter), "cannot be loaded as an adapter"):
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        check_rope(model, extension.rope_theta)
        model.extension = extension
    return model.to(device).eval().requires_grad_(False), tokenizer


def swap_adapter(model: nn.Module, adapter: str | Path) -> None:
    """Put another adapter into a model that has one, in place: base weights, modules and hooks stay (milliseconds).

    Raises:
        ModelError: `model` does not come from `load_model(adapter=...)`, or the adapter differs from the present one in
            base, theta, rank, alpha or target modules.
    """
    present = getattr(model, "extension", None)
    if not isinstance(present, Extension):
        raise ModelError(
            "the model has no adapter to be swapped", where=type(model).__name__,
            remedy="Load the first adapter by `load_model(base, adapter=...)`.",
        )
    new = read_extension(adapter)
    if replace(new, base_name=present.base_name, max_length=present.max_length) != present:
        raise ModelError(
            f"the adapter was made for another base, theta or LoRA setting than the present {present}",
            where=adapter, value=new, remedy="Load it afresh by `load_model(base, adapter=...)`.",
        )
    with _as_model_error(Path(adapter), "cannot be loaded as an adapter"):
        result = set_peft_model_state_dict(model, load_file(Path(adapter) / ADAPTER_WEIGHTS))
        if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
            raise KeyError("its weights are not those of the model's adapted modules")
    text = model.get_base_model().config.get_text_config()
    text.max_position_embeddings = max(text.max_position_embeddings, new.max_length)
    model.extension = new


def sibling_model(model: nn.Module, adapter: str | Path) -> nn.Module:
    """A second model with its own adapter on the *same* base weights, for patching between two adapters.

    Only the LoRA matrices are new memory. Raises `ModelError` as `swap_adapter` does.
    """
    shared = {
        id(tensor): tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if "lora_" not in name
    }
    twin = copy.deepcopy(model, shared)
    swap_adapter(twin, adapter)
    return twin


def model_folder(path_or_id: str | Path, allow_download: bool = False) -> Path:
    """The local folder of a model, checked for config and safetensors weights; see `load_model`."""
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
                remedy="Give a folder with config.json, safetensors and tokenizer.json, "
                + ("or check id and network." if allow_download else "or allow the download of a hub id."),
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError("the model folder has no config.json", where=folder, remedy="Give a model's folder.")
    weights = {path.name for path in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    with _as_model_error(index, "cannot be read"):
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    if not weights or not needed <= weights:
        raise ModelError(
            "the model folder lacks weights", where=folder, value=sorted(needed - weights) or "no *.safetensors",
            remedy="Complete the folder; other weight formats than safetensors are not read.",
        )
    return folder


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder; `ModelError` where there is none or only a slow one."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            "the model folder has no tokenizer", where=folder, remedy="Add tokenizer.json and tokenizer_config.json.",
        )
    with quiet(), _as_model_error(folder, "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(
            "the tokenizer is not a fast one and gives no character offsets", where=folder,
            value=type(tokenizer).__name__, remedy="Add a tokenizer.json (convert the slow tokenizer).",
        )
    return tokenizer


def build_model(
    folder: Path, dtype: torch.dtype | str, rope_theta: float | None = None, max_length: int | None = None,
) -> PreTrainedModel:
    """The causal language model of a checked folder on the CPU, theta set before building and proved after."""
    with quiet(), _as_model_error(folder, "the config cannot be loaded"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if rope_theta is not None:
        config = with_rope_theta(config, rope_theta, max_length)
    elif max_length is not None:
        text: PreTrainedConfig = config.get_text_config()
        text.max_position_embeddings = max(text.max_position_embeddings, max_length)
    with quiet(), _as_model_error(folder, "the model cannot be loaded"):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True,
            local_files_only=True, trust_remote_code=False, output_loading_info=True,
        )
    if info["missing_keys"]:
        raise ModelError(
            "the weight files lack parameters of the model", where=folder, value=sorted(info["missing_keys"])[:5],
            remedy="Complete the weight files, or correct config.json.",
        )
    if rope_theta is not None:
        check_rope(model, rope_theta)
    return model


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device of that name; `ModelError` where this machine has none."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was compiled without CUDA
        raise ModelError(
            "torch cannot use this device here", where="device", value=str(device), remedy="Use cpu, or cuda on a GPU.",
        ) from error


def _check_fits(extension: Extension, folder: Path, asked_theta: float | None, adapter: str | Path) -> None:
    if asked_theta is not None and asked_theta != extension.rope_theta:
        raise ModelError(
            f"the adapter was trained at RoPE theta {extension.rope_theta:g}", where=adapter, value=asked_theta,
            remedy="Leave `rope_theta` out: it comes with the adapter.",
        )
    found = fingerprint(folder)
    if found != extension.base_fingerprint:
        raise ModelError(
            f"the adapter was made for another base ({extension.base_name}, {extension.base_fingerprint[:12]})",
            where=adapter, value=f"{folder.name}, {found[:12]}", remedy="Load it on the base it was trained on.",
        )


@contextmanager
def _as_model_error(where: Path, problem: str) -> Iterator[None]:
    """Turn whatever a library raises on bad files into one `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
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
