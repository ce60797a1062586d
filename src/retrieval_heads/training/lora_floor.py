"""The operations that a LoRA step cannot do without, the floor that a measured step is held against."""

from __future__ import annotations

from typing import Any


def floor_tflop(shape: Any) -> dict[str, float]:
    """TFLOP (10^12 operations) of one step by part: products of the frozen projections, attention, adapters.

    Products with frozen weights count in the forward pass and, for the gradient of activations, once more in the
    backward pass; causal attention has 2 products forward and 5 backward, on half of the square each. Neither anything
    computed again nor the logits count.

    Args:
        shape: has the attributes `layers`, `tokens`, `hidden`, `intermediate`, `heads`, `kv_heads`, `head_dim` and
            `rank`: parsed options, or a named tuple of the table `lora_step`.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    shapes = [(shape.hidden, queries), (shape.hidden, keys), (shape.hidden, keys), (queries, shape.hidden)]
    frozen = sum(a * b for a, b in shapes) + 3 * shape.hidden * shape.intermediate
    adapters = sum(shape.rank * (a + b) for a, b in shapes)
    each = shape.layers * shape.tokens / 1e12
    return {
        "projections": 2 * 2 * frozen * each,
        "attention": (2 + 5) * shape.tokens * queries * each,  # 2 operations, half of the square
        "adapters": 3 * 2 * adapters * each,
    }
