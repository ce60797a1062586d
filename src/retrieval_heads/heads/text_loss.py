"""Next-token loss on plain text without chosen heads: the control that tells retrieval from being of use at all.

If heads are special to retrieval, knocking them out costs much where an answer has to be fetched from the context, and
little where text only goes on. The heads are out at every position here, as every position predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from retrieval_heads.data.encode import check_ids
from retrieval_heads.heads.ablate import ablate_heads
from retrieval_heads.models.finite import refuse_not_finite
from retrieval_heads.models.layout import Head, vocabulary_size
from retrieval_heads.models.modes import evaluation_mode


@torch.no_grad()
def text_losses(
    model: nn.Module, ids: torch.Tensor, head_sets: Mapping[str, Iterable[Head]], mode: str = "zero", means: Any = None,
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Loss of every row under every set of heads.

    Args:
        model: a causal language model, plain or wrapped by PEFT.
        ids: int64 `[n, length]`, without padding; see `examples.plain_text`.
        head_sets: heads by label; an empty set gives the model as it is.
        mode, means: as in `ablate_heads`.
        batch_size: rows a forward pass.

    Returns:
        for each label float64 `[n]`, nats a token, mean over the row's tokens but the first.

    Raises:
        HeadError, ConfigError, ModelError: see `ablate_heads`.
        ModelError: weights or activations that are NaN or infinite.
        DataError: a token id that the model does not have.
    """
    for index, row in enumerate(ids.tolist()):
        check_ids(row, vocabulary_size(model), f"row {index}")
    device = model.get_input_embeddings().weight.device
    batches, found = ids.to(device).split(batch_size), {}
    with evaluation_mode(model):
        for label, heads in head_sets.items():
            with ablate_heads(model, heads, mode, means=means):
                found[label] = np.concatenate([_row_losses(model, batch) for batch in batches])
    return found


def _row_losses(model: nn.Module, ids: torch.Tensor) -> np.ndarray:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    losses = each.view(len(ids), -1).double().mean(dim=1).cpu().numpy()
    for row in np.flatnonzero(np.isnan(losses)):
        refuse_not_finite(model, ids[row].tolist(), "the loss on text")
    return losses
