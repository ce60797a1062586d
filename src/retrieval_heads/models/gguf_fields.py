"""What a GGUF file says of itself, and the files that are refused before their weights are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ModelError

_MAGIC = b"GGUF"
_THETA = 10_000.0
"""RoPE theta of a file that does not name one, as llama.cpp has it."""

_NOT_SAFE = "Use the model's safetensors."
_KNOWN_CUTS = (None, "default", "gpt-2", "smollm")
"""Ways to cut text into words before byte-pair encoding that are set right here, beside those of transformers."""


@dataclass(frozen=True)
class GgufFields:
    """Of a GGUF file that can be converted.

    Attributes:
        architecture: `llama`, `qwen2`, ...
        name, licence: as the file says; empty where it does not.
        length: tokens that the model was made for.
        rope_theta: base frequency of RoPE.
        weights: the types of the tensors, most values first, such as `Q4_1, F32`.
        n_values: of all tensors.
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


def read_fields(file: Path) -> GgufFields:
    """Read and check a file's fields; `ModelError` as `convert_gguf` says."""
    reader = _reader(file)
    values = {name: _plain(field) for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    architecture = values.get("general.architecture")
    if architecture not in (known := _architectures()):
        raise ModelError("transformers does not read this architecture from GGUF files", where=file,
                         value=architecture, remedy=f"It reads {', '.join(known)}. {_NOT_SAFE}")
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
    cut = _plain(reader.fields["tokenizer.ggml.pre"]) if "tokenizer.ggml.pre" in reader.fields else None
    return GgufFields(
        architecture, str(values.get("general.name", "")), str(values.get("general.license", "")), int(length),
        float(values.get(f"{architecture}.rope.freq_base", _THETA)), ", ".join(name for name, _ in types.most_common()),
        sum(types.values()), tuple(one.name for one in reader.tensors if _odd(one.name)), cut,
        cut in _KNOWN_CUTS or cut in _cuts(),
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


def _architectures() -> list[str]:
    from transformers.integrations import GGUF_CONFIG_MAPPING

    return sorted(set(GGUF_CONFIG_MAPPING) - {"general", "tokenizer"})


def _cuts() -> Any:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # an older or newer transformers keeps them elsewhere
        return {}
    return GGUF_PRE_TOKENIZER_SPLITS


def _plain(field: Any) -> Any:
    return field.contents()


def _odd(name: str) -> bool:
    return not name.startswith(("blk.", "token_embd.", "output"))
