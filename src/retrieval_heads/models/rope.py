"""The base frequency theta of rotary position embeddings (RoPE): read it, raise it, and prove that it is in force.

A model reads theta from `config.rope_parameters` once, when it is built. Editing the config of a built model, or
setting `config.rope_theta`, is accepted and changes nothing, so theta is set on a config *before* building and checked
against the frequencies of the model afterwards.

RoPE: Su et al., "RoFormer", arXiv 2104.09864. Raising theta for longer contexts: Xiong et al., "Effective long-context
scaling of foundation models", arXiv 2309.16039.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from transformers import PreTrainedConfig

from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model


def rope_theta(model: nn.Module | PreTrainedConfig) -> float:
    """The theta of a model (plain or PEFT) or config; `ModelError` without RoPE, or with one theta a layer type."""
    return float(_rope_parameters(text_config(model))["rope_theta"])


def extended_theta(config: PreTrainedConfig, length: int) -> float:
    """The theta for a greater length by NTK-aware scaling (bloc97 2023); the model's own for no greater one.

    What the config's scaling reaches already (see `context_length`) is no greater length. Errors as in `rope_theta`.
    """
    text = text_config(config)
    partial = _rope_parameters(text).get("partial_rotary_factor", 1.0)
    size = int((getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) * partial)
    if size <= 2:
        raise ModelError("RoPE turns a single pair of dimensions, which theta does not change",
                         where=type(text).__name__, value=size, remedy="Use a model that turns more of each head.")
    return rope_theta(text) * max(1.0, length / (context_length(text) or length)) ** (size / (size - 2))


def context_length(model: nn.Module | PreTrainedConfig) -> int | None:
    """Tokens that a model (plain or PEFT) or config can read as it is; None where its config does not say.

    `max_position_embeddings`, or more where the RoPE is scaled: the factor of a scaling (linear, dynamic, yarn, llama3,
    longrope) counts from `original_max_position_embeddings`, or from `max_position_embeddings` where the scaling does
    not name the former. Some configs have raised `max_position_embeddings` and left a factor without its origin; these
    are taken for longer than they are, and theta is left alone.
    """
    text = text_config(model)
    length, parameters = getattr(text, "max_position_embeddings", None), getattr(text, "rope_parameters", None) or {}
    if length is None:
        return length
    return max(length, _scaled(parameters.get("original_max_position_embeddings") or length, parameters))


def _scaled(length: int, parameters: dict) -> int:
    """What a scaling makes of the length that it counts from."""
    scaled = parameters.get("rope_type", "default") != "default"  # which passes over a factor
    return max(length, int(length * (parameters.get("factor") or 1))) if scaled else length


def raise_length(model: nn.Module | PreTrainedConfig, length: int) -> None:
    """Let a model, or one of this config, read so many tokens, where it does not yet; its frequencies stay.

    `ModelError` where these follow from the length that would be raised (dynamic scaling).
    """
    config = text_config(model)
    reach, parameters = context_length(config), getattr(config, "rope_parameters", None) or {}
    if reach is None or length <= reach:
        return
    if "dynamic" in str(parameters.get("rope_type")):
        raise ModelError(
            f"the model's dynamic RoPE reaches {reach} tokens", where="length", value=length,
            remedy="Give no greater length, or another scaling in config.json (`yarn`, or `default` and a theta).",
        )
    if "original_max_position_embeddings" in parameters and not parameters.get("factor"):
        # it would be the ratio of the two lengths, and change the scale of the attention
        origin = parameters["original_max_position_embeddings"]
        config.rope_parameters = {**parameters, "factor": config.max_position_embeddings / origin}
    factor = 1 if "original_max_position_embeddings" in parameters else length / _scaled(length, parameters)
    config.max_position_embeddings = math.ceil(length * factor)


def with_rope_theta(config: PreTrainedConfig, theta: float, max_length: int | None = None) -> PreTrainedConfig:
    """A copy of `config` with RoPE's base frequency `theta`, for building a model from; other RoPE settings stay.

    `max_position_embeddings` is raised to `max_length` tokens where the model reads fewer. `ModelError` for a theta not
    above 1, and as in `rope_theta` and `raise_length`.
    """
    if not theta > 1:
        raise ModelError("RoPE theta must be above 1", where="rope_theta", value=theta, remedy="The usual is 10000 up.")
    changed = copy.deepcopy(config)
    text = text_config(changed)
    text.rope_parameters = {**_rope_parameters(text), "rope_theta": float(theta)}
    if max_length is not None:
        raise_length(text, max_length)
    return changed


def check_rope(model: nn.Module, theta: float) -> None:
    """Assure that a built model really turns its queries and keys by the frequencies of `theta`, else `ModelError`.

    They are compared with those of a rotary module newly built for `theta`, so every scaling type is covered.
    """
    base = base_model(model)
    where = type(base).__name__
    if rope_theta(base) != theta:
        raise ModelError(
            f"RoPE theta is {rope_theta(base):g}, not {theta:g}", where=where,
            remedy="Load the model by `load_model`, which sets theta before building.",
        )
    rotaries = [module for module in base.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    if not rotaries:
        raise ModelError("no rotary embedding in the model", where=where, remedy="Use a model with RoPE.")
    expected_config = with_rope_theta(text_config(base), theta)
    for rotary in rotaries:
        expected = type(rotary)(expected_config).inv_freq
        found = rotary.inv_freq.to("cpu", torch.float32)
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-5, atol=0):
            raise ModelError(
                f"the rotary frequencies are not those of theta {theta:g}", where=where, value=found[-1].item(),
                remedy="Theta was changed after building, or the frequencies were cast to a shorter dtype: load again.",
            )


def text_config(model: nn.Module | PreTrainedConfig) -> PreTrainedConfig:
    """The config of the decoder, for plain and PEFT models, or inside a config."""
    return (model if isinstance(model, PreTrainedConfig) else base_model(model).config).get_text_config()


def _rope_parameters(config: PreTrainedConfig) -> dict:
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" not in parameters:
        kind = "more than one RoPE, one per layer type" if parameters else "no rotary position embedding (RoPE)"
        raise ModelError(
            f"the model has {kind}", where=type(config).__name__, value=config.model_type,
            remedy="Extension by theta needs one RoPE for all layers (Llama, Mistral, Qwen, Gemma, ...).",
        )
    return parameters
