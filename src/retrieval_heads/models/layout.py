"""Where the heads of a decoder are: one description for plain and PEFT models of every supported family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from retrieval_heads.errors import HeadError, ModelError
from retrieval_heads.models.adapted import base_model, inner_layer

Head = tuple[int, int]
"""A head as `(layer, head)`, both counted from 0; with grouped-query attention these are query heads."""


@dataclass(frozen=True)
class HeadLayout:
    """The heads of one model.

    Attributes:
        attentions: the self-attention module of each layer.
        n_heads: query heads a layer.
        n_kv_heads: key/value heads a layer.
        head_dim: width of one head, which need not be hidden size / heads.
    """

    attentions: tuple[nn.Module, ...]
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def n_layers(self) -> int:
        return len(self.attentions)

    def check(self, heads: Iterable[Head]) -> list[Head]:
        """The heads as sorted unique `(layer, head)` pairs; `HeadError` for one that the model does not have."""
        return check_heads(heads, self.n_layers, self.n_heads)


def check_heads(heads: Iterable[Head], n_layers: int, n_heads: int) -> list[Head]:
    """`HeadLayout.check` for a model of so many layers and heads a layer."""
    pairs = sorted({(int(layer), int(head)) for layer, head in heads})
    for layer, head in pairs:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise HeadError(
                f"the model has layers 0 to {n_layers - 1} and heads 0 to {n_heads - 1}", where="heads",
                value=(layer, head), remedy="Take heads that were found in this model.",
            )
    return pairs


def vocabulary_size(model: nn.Module) -> int:
    """How many token ids a causal language model, plain or wrapped by PEFT, can read and write."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(end.weight) for end in ends if getattr(end, "weight", None) is not None)


def head_layout(model: nn.Module) -> HeadLayout:
    """Describe the heads of a causal language model, plain or wrapped by PEFT.

    Raises:
        ModelError: the decoder has no layers with `self_attn.o_proj`, or the projection's input width is not heads x
            head_dim, so that an intervention at its input could not be told apart by head; an adapter that is no
            change of weights (see `base_model`).
    """
    base = base_model(model)
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    attentions = tuple(layer.self_attn for layer in getattr(decoder, "layers", ()) if hasattr(layer, "self_attn"))
    config = base.config.get_text_config()
    if not attentions or not all(hasattr(attention, "o_proj") for attention in attentions):
        raise ModelError(
            "no decoder layers with `self_attn.o_proj`", where=type(base).__name__,
            remedy="Use a decoder with that layout (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
        )
    n_heads = config.num_attention_heads
    try:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        layout = HeadLayout(attentions, n_heads, getattr(config, "num_key_value_heads", None) or n_heads, head_dim)
    except RuntimeError as error:  # a config with settings by layer has none for all
        raise ModelError(
            "the heads differ from layer to layer in number or size", where=type(base).__name__, value=str(error)[:60],
            remedy="Use a decoder whose layers have the same heads (Llama, Mistral, Qwen2, Qwen3, Gemma, ...).",
        ) from error
    for index, attention in enumerate(attentions):
        width = getattr(inner_layer(attention.o_proj), "in_features", None)
        if width != n_heads * head_dim:
            raise ModelError(
                f"layer {index}: the output projection reads {width} values, not {n_heads} heads x {head_dim}",
                where=type(base).__name__, remedy="Per-head interventions need the heads side by side at that input.",
            )
    return layout
