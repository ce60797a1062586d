"""A GGUF file as a model folder that `load_model` takes: config, weights as safetensors, tokenizer, card.

transformers reads the file. What it passes over without a word (tensors that the model has no place for, the scaling
of RoPE, how text is cut before byte-pair encoding) is looked at here, since a model that is slightly another one gives
numbers all the same.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrieval_heads.data.tokenizer import as_model_error, load_tokenizer, quiet
from retrieval_heads.errors import ModelError
from retrieval_heads.files import content_digest, new_folder, written_by_others
from retrieval_heads.models.load import build_model
from retrieval_heads.models.rope import rope_theta

DTYPE = torch.bfloat16
_BYTES = 2  # of DTYPE
_MAGIC = b"GGUF"
_THETA = 10_000.0
"""RoPE theta of a file that does not name one, as llama.cpp has it."""

_NOT_SAFE = "Use the model's safetensors."
_KNOWN_CUTS = (None, "default", "gpt-2", "smollm")
"""Ways to cut text into words before byte-pair encoding that are set right here, beside those of transformers."""


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
    fields = _read_fields(file)
    digest = content_digest(file)
    with new_folder(out, _BYTES * fields.n_values) as folder:
        model, tokenizer = _model(file, fields), _tokenizer(file, fields)
        with quiet(), written_by_others(folder):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_card(file.name, digest, fields, model, origin), encoding="utf-8")
        del model
        try:
            build_model(folder, DTYPE)
            load_tokenizer(folder)
        except ModelError as error:  # which names the hidden folder
            raise ModelError(error.problem, where=file, value=error.value, remedy=error.remedy) from error
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
    if (found := rope_theta(read.config)) != fields.rope_theta:
        raise ModelError(f"transformers reads another RoPE theta than the file's {fields.rope_theta:g}", where=file,
                         value=found, remedy=_NOT_SAFE)
    plain = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        plain.pop(key, None)
    with quiet(), as_model_error(file, "no model of this shape can be made"):
        fresh = AutoModelForCausalLM.from_config(type(read.config).from_dict(plain), dtype=DTYPE)
        fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    return fresh


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


@dataclass(frozen=True)
class GgufFields:
    """What a GGUF file that can be converted says of itself.

    Attributes:
        length: tokens that the model was made for.
        weights: the types of the tensors, most values first, such as `Q4_1, F32`.
        odd_tensors: names of tensors that belong to no layer and are not embeddings, norm or output.
        pre_tokenizer: name of the cut into words before byte-pair encoding; None for SentencePiece.
        pre_tokenizer_known: whether the tokenizer written will cut so.
    """

    architecture: str
    name: str
    licence: str
    length: int
    rope_theta: float
    weights: str
    n_values: int
    odd_tensors: tuple[str, ...]
    pre_tokenizer: str | None
    pre_tokenizer_known: bool


def _read_fields(file: Path) -> GgufFields:
    """Read a file's fields, and refuse one that cannot be converted before its weights are read."""
    from transformers.integrations import GGUF_CONFIG_MAPPING

    reader, pre = _reader(file), "tokenizer.ggml.pre"
    values = {name: field.contents() for name, field in reader.fields.items()
              if name == pre or not name.startswith("tokenizer.ggml.")}
    architecture, known = values.get("general.architecture"), {*GGUF_CONFIG_MAPPING} - {"general", "tokenizer"}
    if architecture not in known:
        raise ModelError("transformers does not read this architecture from GGUF files", where=file,
                         value=architecture, remedy=f"It reads {', '.join(sorted(known))}. {_NOT_SAFE}")
    if values.get("split.count", 1) > 1:
        raise ModelError(f"the file is one of {values['split.count']} parts", where=file,
                         remedy="Join them first: llama-gguf-split --merge.")
    scaling = values.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise ModelError("its RoPE is scaled, which transformers does not read from GGUF files", where=file,
                         value=scaling, remedy=_NOT_SAFE)
    length = values.get(f"{architecture}.context_length")
    if not length:
        raise ModelError("it does not say how many tokens the model reads", where=file,
                         value=f"no {architecture}.context_length", remedy=_NOT_SAFE)
    types: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += int(tensor.n_elements)
    odd = (one.name for one in reader.tensors if not one.name.startswith(("blk.", "token_embd.", "output")))
    cut = values.get(pre)
    return GgufFields(
        architecture, str(values.get("general.name", "")), str(values.get("general.license", "")), int(length),
        float(values.get(f"{architecture}.rope.freq_base", _THETA)), ", ".join(name for name, _ in types.most_common()),
        sum(types.values()), tuple(odd), cut, cut in _KNOWN_CUTS or cut in _cuts(),
    )


def need_gguf(file: object) -> None:
    """Raise `ModelError` where the package `gguf` is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModelError("the package gguf, which reads such files, is not installed", where=file,
                         remedy="Install it: pip install 'retrieval-heads[gguf]', or pip install gguf.") from error


def _reader(file: Path) -> Any:
    try:
        with file.open("rb") as opened:
            begins = opened.read(4)
    except OSError as error:
        raise ModelError("the file cannot be read", where=file, value=error.strerror,
                         remedy="Check the path.") from error
    if begins != _MAGIC:
        raise ModelError("it is not a GGUF file", where=file, value=begins, remedy="Give a file NAME.gguf.")
    need_gguf(file)
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    except Exception as error:  # numpy's and its own, of a file that ends early or has nonsense in it
        raise ModelError("the GGUF file is damaged", where=file, value=f"{type(error).__name__}: {error}",
                         remedy="Get it again.") from error


def _cuts() -> Any:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # an older or newer transformers keeps them elsewhere
        return {}
    return GGUF_PRE_TOKENIZER_SPLITS


def _card(name: str, digest: str, fields: GgufFields, model: PreTrainedModel, origin: str = "") -> str:
    """Text of the README.md: shape, origin, licence, what was done to the weights, digest (sha256) of the file."""
    config = model.config.get_text_config()
    rows = {
        "Architecture": f"{fields.architecture}: {config.num_hidden_layers} layers of {config.num_attention_heads} "
                        f"query heads and {getattr(config, 'num_key_value_heads', config.num_attention_heads)} "
                        f"key/value heads, width {config.hidden_size}, {fields.n_values / 1e6:.1f} million parameters",
        "Context": f"{fields.length:,} tokens, RoPE theta {fields.rope_theta:,.0f}",
        "Name in the file": fields.name or "none",
        "Licence in the file": fields.licence or "none",
        "Made of": f"`{name}`, sha256 {digest}",
        "Weights": f"bfloat16 safetensors, made of {fields.weights}",
        "Tokenizer": f"as in the file (cut into words: {fields.pre_tokenizer or 'SentencePiece'})",
    }
    origin = f"{origin.strip()}\n\n" if origin else ""
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {fields.name or name}\n\n"
        f"Converted from a GGUF file by `python -m retrieval_heads convert-gguf`.\n\n{origin}"
        f"| | |\n|---|---|\n{table}\n\n"
        "**The weights are those of the file.** Where its types are of few bits (Q4_1: 4 bits a weight), the model was "
        "rounded to them before; writing them with 16 bits does not bring back what was lost. Figures of this model "
        "are not those of the publisher's original.\n"
    )
