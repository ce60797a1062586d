"""Logit contribution: how much each head's look at the needles raises the logit of the answer's tokens.

After LOCOS (Gema et al., see the book's references): at the position that predicts an answer token y, head h writes
W_O^h sum_j a_j v_j into the residual stream, where a_j is its attention to key j and v_j the value there. Its direct
effect on the logit of y through the keys of the needles is u_y . W_O^h sum_{j in needles} a_j v_j. As a head may
favour y wherever it looks, the same over spans of equal lengths elsewhere in the prompt is taken off (their average
over draws, see `measure.displaced_spans`).

u_y is the unembedding row of y times the weight of the final norm. The norm's division by the length of the residual
stream is left out: it is one factor for all heads of a position, so contributions rank heads and are no logits.
"""

from __future__ import annotations

import torch
from torch import nn

from retrieval_heads.models.layout import head_layout


class Contribution:
    """Computes the contributions of all heads of a layer from its attention rows and values.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        targets: int64 `[batch, n_rows]`, the token that each row predicts.
        contrast: float `[batch, n_keys]`, 1 inside the needles less the average mask of the displaced spans. Keys
            where it is 0 can be left out, here and in what is called.
    """

    def __init__(self, model: nn.Module, targets: torch.Tensor, contrast: torch.Tensor) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.attentions, self.contrast = head_layout(model).attentions, contrast
        weight = base.get_output_embeddings().weight
        rows = weight[targets.to(weight.device)]
        self.directions = rows.float() * _norm_weight(base, weight)  # [batch, n_rows, hidden]

    def __call__(self, probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> torch.Tensor:
        """float32 `[batch, n_heads, n_rows]`; arguments as of `capture.ValueReducer`, of the keys of `contrast`."""
        batch, n_heads, n_rows, n_keys = probabilities.shape
        n_kv_heads, head_dim = value.shape[1], value.shape[3]
        contrast = self.contrast[:, None, None].to(probabilities.device, torch.float32)
        weighed = (probabilities * contrast).view(batch, n_kv_heads, -1, n_keys)
        written = (weighed @ value.float()).view(batch, n_heads, n_rows, head_dim)
        weight = output_weight(self.attentions[layer].o_proj)
        wanted = self.directions.to(weight.device) @ weight  # [batch, n_rows, n_heads x head_dim]
        return (written * wanted.view(batch, n_rows, n_heads, head_dim).transpose(1, 2)).sum(-1)


def output_weight(projection: nn.Module) -> torch.Tensor:
    """float32 `[hidden, n_heads x head_dim]`: an output projection's weight with its active, un-merged adapters."""
    weight = getattr(projection, "base_layer", projection).weight.float()
    if getattr(projection, "merged", False) or getattr(projection, "disable_adapters", False):
        return weight
    for name in getattr(projection, "active_adapters", ()):
        if name in projection.lora_A:
            weight = weight + projection.get_delta_weight(name).float()
    return weight


def _norm_weight(base: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """The final norm's weight of each dimension, float32 `[hidden]`; ones for a model without such a norm.

    Read off what the norm makes of a vector of ones, as some families store the weight less one.
    """
    norm = getattr(base.get_decoder(), "norm", None)
    ones = torch.ones(like.shape[1], device=like.device)
    return ones if norm is None else norm(ones.to(like.dtype)).float()
