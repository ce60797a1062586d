"""What every head looks at while an answer is written: one forward pass over prompt and answer, few numbers kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from retrieval_heads.attention.capture import Reducer, capture_attention
from retrieval_heads.data.encode import Encoded
from retrieval_heads.decoding import length_batches
from retrieval_heads.progress import progress


def read_heads(
    model: nn.Module, encoded: Sequence[Encoded], batch_size: int = 8
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """What every head looks at while the answer is written: `(index, largest, mass)` of each example, in any order.

    `largest` int32 and `mass` float32 are `[n_layers, n_heads, answer_length]`: the position of the largest key, and
    the attention probability inside the needles. Call it with the model in evaluation mode and without gradients.

    Batches are padded on the right and have no mask: in a causal model no real position sees what follows it.
    """
    device = next(model.parameters()).device
    for batch in progress(length_batches([len(one.ids) for one in encoded], batch_size), "score heads"):
        chosen = [encoded[index] for index in batch]
        width = max(len(one.ids) for one in chosen)
        n_rows = max(one.answer_length for one in chosen)
        ids = torch.tensor([[*one.ids, *[0] * (width - len(one.ids))] for one in chosen], device=device)
        rows = torch.tensor(
            [[*one.query_rows, *[one.query_rows[-1]] * (n_rows - one.answer_length)] for one in chosen], device=device
        )
        inside = np.stack([np.pad(one.needle_mask(), (0, width - len(one.ids))) for one in chosen])
        with capture_attention(model, rows, largest_and_mass(torch.as_tensor(inside, device=device))) as layers:
            model(input_ids=ids, logits_to_keep=1, use_cache=False)
        # all layers at once, [batch, n_layers, n_heads, n_rows]: nothing waits for the device before
        largest, mass = (
            torch.stack([kept.to(device) for kept in part], 1).cpu().numpy() for part in zip(*layers, strict=True)
        )
        for place, (index, one) in enumerate(zip(batch, chosen, strict=True)):
            yield index, largest[place, :, :, : one.answer_length], mass[place, :, :, : one.answer_length]


def largest_and_mass(inside: torch.Tensor) -> Reducer:
    """Reducer to the position of the largest key (int32) and the probability inside `inside`, bool `[batch, n_keys]`.

    Both are `[batch, n_heads, n_rows]`. Of equal keys one is taken, on a CPU the first.
    """
    column = inside.float().unsqueeze(-1)

    def reduce(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_heads, n_rows = probabilities.shape[1:3]
        mass = probabilities.flatten(1, 2) @ column.to(probabilities.device)
        return probabilities.argmax(-1).int(), mass.view(-1, n_heads, n_rows)

    return reduce
