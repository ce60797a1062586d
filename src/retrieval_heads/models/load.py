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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from retrieval_heads.data.tokenizer import as_model_error, load_tokenizer, quiet
from retrieval_heads.errors import ModelError
from retrieval_heads.models.extension import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Extension, fingerprint, read_extension
from retrieval_heads.models.random_weights import draw_model, random_seed
from retrieval_heads.models.rope import check_rope, context_length, raise_length, with_rope_theta


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
        rope_theta: base frequency of RoPE; None keeps the base's, or the adapter's if there is one.
        max_length: tokens; raises `max_position_embeddings` if that is lower.
        allow_download: whether a hub id may be fetched.

    Returns:
        The model and its tokenizer.

    Raises:
        ModelError: a folder that is missing or lacks config, weights or tokenizer, or has an adapter in it; a slow
            tokenizer; a model without RoPE although theta is given, or with a dynamic RoPE that does not reach
            `max_length`; an adapter without `extension.json`, made for another base or theta, with weights that are
            NaN or infinite, or that does not change weights (prompt tuning, say).
    """
    device = usable_device(device)
    folder = model_folder(path_or_id, allow_download)
    extension = read_extension(adapter) if adapter is not None else None
    if extension is not None:
        _check_fits(extension, folder, rope_theta, adapter)
        rope_theta, max_length = extension.rope_theta, max(extension.max_length, max_length or 0)
    tokenizer = load_tokenizer(folder)
    model = build_model(folder, dtype, rope_theta, max_length, device)
    tokenizer.model_max_length = context_length(model) or tokenizer.model_max_length  # or it warns of lengths that fit
    if extension is not None:
        with quiet(), as_model_error(Path(adapter), "cannot be loaded as an adapter"):
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        _adapter_weights(model, Path(adapter))  # PEFT only warns of missing ones
        check_rope(model, extension.rope_theta)
        model.extension = extension
    return model.to(device).eval().requires_grad_(False), tokenizer


def model_folder(path_or_id: str | Path, allow_download: bool = False) -> Path:
    """The local folder of a model, checked for config and safetensors weights; errors as in `load_model`."""
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
            if path.exists():
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
    with as_model_error(Path(adapter) / ADAPTER_CONFIG, "cannot be read"):
        settings = _settings(PeftConfig.from_pretrained(str(adapter)))
    own = _settings(model.peft_config["default"])
    if other := sorted(name for name in {*own, *settings} if own.get(name) != settings.get(name)):
        raise ModelError(
            "the adapter has other settings than the present one", where=Path(adapter) / ADAPTER_CONFIG, value=other,
            remedy="Load it afresh by `load_model(base, adapter=...)`.",
        )
    set_peft_model_state_dict(model, _adapter_weights(model, Path(adapter)))
    raise_length(model, new.max_length)
    model.extension = new


def sibling_model(model: nn.Module, adapter: str | Path) -> nn.Module:
    """A second model with its own adapter on the *same* base weights, for patching between two adapters.

    Only the adapter's weights are new memory. Raises `ModelError` as `swap_adapter` does.
    """
    own = {weight.data_ptr() for weight in get_peft_model_state_dict(model, save_embedding_layers=False).values()}
    shared = {
        id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.data_ptr() not in own
    }
    twin = copy.deepcopy(model, shared)
    swap_adapter(twin, adapter)
    return twin


def load_config(folder: Path) -> PreTrainedConfig:
    """The config of a model folder; `ModelError` where it cannot be loaded."""
    with quiet(), as_model_error(folder, "the config cannot be loaded"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def build_model(
    folder: Path, dtype: torch.dtype | str, rope_theta: float | None = None, max_length: int | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The causal language model of a checked folder on the CPU, theta set before building and proved after.

    One with random weights is drawn on `device`.
    """
    config = load_config(folder)
    if rope_theta is not None:
        config = with_rope_theta(config, rope_theta, max_length)
    elif max_length is not None:
        raise_length(config, max_length)
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        raise ModelError(
            "the model caps its attention scores, which the attention used here (SDPA) does not do", where=folder,
            value=config.model_type, remedy="Use one that does not: Llama, Mistral, Qwen 2 and 3, the first Gemma.",
        )
    seed = random_seed(folder)
    if seed is not None:
        with quiet(), as_model_error(folder, "no model of this shape can be made"):
            return draw_model(config, seed, dtype, device)
    with quiet(), as_model_error(folder, "the model cannot be loaded"):
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


def _adapter_weights(model: PeftModel, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter folder, which are those that the PEFT model has a place for, no more and no less."""
    with as_model_error(adapter / ADAPTER_WEIGHTS, "cannot be read"):
        weights = load_file(adapter / ADAPTER_WEIGHTS)
    places = get_peft_model_state_dict(model, save_embedding_layers=False)
    wrong = sorted(set(weights) ^ set(places)) or sorted(n for n in weights if weights[n].shape != places[n].shape)
    if wrong:
        raise ModelError(
            "the weights are not those of the model's adapted modules", where=adapter / ADAPTER_WEIGHTS,
            value=wrong[:3], remedy="Restore the file, or fine-tune again.",
        )
    if wrong := sorted(name for name, values in weights.items() if not values.isfinite().all()):
        raise ModelError(
            "weights of the adapter are NaN or infinite", where=adapter / ADAPTER_WEIGHTS, value=wrong[:3],
            remedy="Restore the file, or fine-tune again.",
        )
    return weights


def _settings(config: PeftConfig) -> dict[str, Any]:
    """What an adapter's config says about its effect, without names, paths and versions."""
    said = {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
    values = {name: value for name, value in config.to_dict().items() if name not in said}
    return {name: sorted(value, key=str) if isinstance(value, set | list) else value for name, value in values.items()}


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
