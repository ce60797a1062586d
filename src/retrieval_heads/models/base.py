"""The embedded base model: where it is, and its shape."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from retrieval_heads.errors import ModelError

BASE_PATH = Path(__file__).resolve().parents[3] / "models" / "base"
BASE_LENGTH = 512
"""Tokens that the base model is trained to read."""


def base_config(tokenizer: Any) -> Any:
    """Shape of the base model: a narrow, deep Llama with many small heads.

    Depth is for chains of facts (each hop costs two or three layers), many heads are for redundancy: a study of which
    heads are learned needs more than one that can do the work. Heads x head_dim (512) is twice the width (256).
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=BASE_LENGTH, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, attention_bias=False, attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )


@cache
def load_tokenizer(path: Path = BASE_PATH) -> Any:
    """The embedded model's tokenizer; `ModelError` when the folder has none."""
    from transformers import PreTrainedTokenizerFast

    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            "no tokenizer.json", where=path,
            remedy="Work in a checkout of the project, or give a tokenizer of your own.",
        )
    return PreTrainedTokenizerFast.from_pretrained(path)
