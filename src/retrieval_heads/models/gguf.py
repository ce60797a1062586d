"""A GGUF file as a model folder that `load_model` takes: config, weights as safetensors, tokenizer, card.

transformers reads the file. What it passes over without a word (tensors that the model has no place for, the scaling
of RoPE, how text is cut before byte-pair encoding) is looked at here, since a model that is slightly another one gives
numbers all the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrieval_heads.data.tokenizer import as_model_error, load_tokenizer, quiet
from retrieval_heads.errors import ModelError
from retrieval_heads.files import content_digest, new_folder, written_by_others
from retrieval_heads.models.gguf_card import card
from retrieval_heads.models.gguf_fields import GgufFields, read_fields
from retrieval_heads.models.load import build_model
from retrieval_heads.models.rope import rope_theta

DTYPE = torch.bfloat16
_BYTES = 2  # of DTYPE


def convert_gguf(
    file: str | Path, out: str | Path, *, origin: str = "", say: Callable[[str], None] = print,
) -> Path:
    """Write the model of a GGUF file as a folder of config, bfloat16 safetensors, tokenizer and card.

    Args:
        file: one whole GGUF file of a causal language model that transformers reads and `load_model` takes.
        out: the folder, which must not be there yet.
        origin: where the file comes from, a sentence of the card.
        say: takes a line for the user.

    Returns:
        `out`. The model in it is loaded once before it takes its place.

    Raises:
        ModelError: the package `gguf` is missing; not a GGUF file, or a damaged one; an architecture that transformers
            does not read or `load_model` does not take; tensors without a place, or parameters without a tensor;
            scaled RoPE.
        ResultError: `out` exists, or cannot be written, or lacks room. Nothing is left.
    """
    file, out = Path(file), Path(out)
    fields = read_fields(file)
    digest = content_digest(file)
    with new_folder(out, _BYTES * fields.n_values) as folder:
        model, tokenizer = _model(file, fields), _tokenizer(file, fields)
        with quiet(), written_by_others(folder):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card(file.name, digest, fields, model, origin), encoding="utf-8")
        del model
        _check_loads(folder, file)
    say(f"{out}: {fields.architecture}, {fields.n_values / 1e6:.0f} million parameters, {fields.weights} made bfloat16")
    if not fields.pre_tokenizer_known:
        say(f"how text is cut into words ({fields.pre_tokenizer}) is not known to transformers: digits and runs of "
            "spaces may become other tokens than the model was trained on")
    return out


def _model(file: Path, fields: GgufFields) -> PreTrainedModel:
    """The model in `DTYPE` under a fresh config: the one that transformers returns refuses to be saved."""
    # the bar over the tensors is one that `quiet` does not reach
    with quiet(), redirect_stderr(io.StringIO()), as_model_error(file, "transformers cannot read the model"):
        read, info = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=DTYPE, local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise ModelError("the file lacks parameters of the model", where=file, value=sorted(info["missing_keys"])[:5],
                         remedy="Use another file of this model.")
    placed = sum(values.numel() for values in read.parameters())
    if placed != fields.n_values:
        raise ModelError(
            f"its tensors hold {fields.n_values} values and the model has a place for {placed}", where=file,
            value=fields.odd_tensors, remedy="transformers would leave a part of the file out, such as the scaling of "
            "RoPE; use the model's safetensors.",
        )
    _check_theta(read, fields, file)
    plain = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        plain.pop(key, None)
    with quiet(), as_model_error(file, "no model of this shape can be made"):
        fresh = AutoModelForCausalLM.from_config(type(read.config).from_dict(plain), dtype=DTYPE)
        fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    return fresh


def _check_loads(folder: Path, file: Path) -> None:
    try:
        build_model(folder, DTYPE)
        load_tokenizer(folder)
    except ModelError as error:  # which names the hidden folder
        raise ModelError(error.problem, where=file, value=error.value, remedy=error.remedy) from error


def _check_theta(model: PreTrainedModel, fields: GgufFields, file: Path) -> None:
    found = rope_theta(model.config)
    if found != fields.rope_theta:
        raise ModelError(f"transformers reads another RoPE theta than the file's {fields.rope_theta:g}", where=file,
                         value=found, remedy="Use the model's safetensors.")


def _tokenizer(file: Path, fields: GgufFields) -> Any:
    with quiet(), as_model_error(file, "transformers cannot read the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True,
                                                  trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer is not a fast one", where=file, value=type(tokenizer).__name__,
                         remedy="Use the model's own tokenizer.json.")
    if fields.pre_tokenizer == "smollm":
        # transformers cuts as GPT-2 does; SmolLM takes digits apart first, so that spaces before one stay together
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
        ])
    tokenizer.clean_up_tokenization_spaces = tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    tokenizer.model_max_length = fields.length
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer
