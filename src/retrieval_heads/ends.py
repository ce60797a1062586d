"""Which tokens end an answer: a chat model ends its turns by another token than its texts, and may name several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from retrieval_heads.data.chat import turn_end
from retrieval_heads.data.encode import Encoded
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import base_model


def end_tokens(model: nn.Module, *more: int | Iterable[int] | None) -> frozenset[int]:
    """All tokens that end an answer of a model: those that its generation config and its config name, and `more`.

    Raises:
        ModelError: a config names something else than token ids.
    """
    base = base_model(model)
    configs = (getattr(base, "generation_config", None), base.config, base.config.get_text_config())
    found: set[int] = set()
    for one in (*(getattr(config, "eos_token_id", None) for config in configs), *more):
        ids = [] if one is None else list(one) if isinstance(one, Iterable) and not isinstance(one, str) else [one]
        if not all(type(token) is int for token in ids):  # a text would never be met, and true would be the token 1
            raise ModelError(
                "the tokens that end an answer are not token ids", where="eos_token_id", value=one,
                remedy="Mend generation_config.json or config.json: give a number or a list of numbers.",
            )
        found.update(ids)
    return frozenset(found)


def answer_ends(model: nn.Module, tokenizer: Any, encoded: Sequence[Encoded]) -> frozenset[int]:
    """All tokens that end an answer to the examples: the model's, the tokenizer's, its chat template's, their own."""
    return end_tokens(model, tokenizer.eos_token_id, turn_end(tokenizer), *(one.end for one in encoded))
