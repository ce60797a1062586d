"""What an answer looks at in a short text: the weights of all heads, and the text cut at its tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example


@torch.no_grad()
def answer_attention(model: nn.Module, tokenizer: Any, example: Example) -> np.ndarray:
    """The largest attention that any answer position pays to each token of the prompt.

    Returns:
        float `[n_layers, n_heads, prompt tokens]`, in [0, 1].
    """
    one, before = encode(example, tokenizer), model.config._attn_implementation
    model.set_attn_implementation("eager")  # which alone hands out its weights; the text is short
    try:
        read = model(input_ids=torch.tensor([one.ids]), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    rows = torch.cat(read)[:, :, list(one.query_rows), : one.prompt_length]
    return rows.amax(2).numpy()


def tokens_of(tokenizer: Any, example: Example) -> tuple[list[str], list[int]]:
    """The prompt cut at its tokens, and 1 for each of them that lies in a needle, else 0."""
    one = encode(example, tokenizer)
    offsets = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"][: one.prompt_length]
    starts = [start for start, _ in offsets] + [len(example.prompt)]
    inside = one.needle_mask()[: one.prompt_length]
    return [example.prompt[a:b] for a, b in pairwise(starts)], inside.astype(int).tolist()
