"""Head scores as a few lines, where Python would print whole arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from retrieval_heads.attention.scores import HeadScores


def in_short(scores: HeadScores) -> str:
    """What was scored, on how many examples, and the three strongest heads."""
    strongest = np.argsort(-scores.scores, axis=None, kind="stable")[:3]
    heads = ", ".join(f"{layer}-{head} {scores.scores[layer, head]:.2f}" for layer, head in
                      zip(*np.unravel_index(strongest, scores.shape), strict=True))
    dropped = "".join(f", {count} left out ({reason})" for reason, count in scores.dropped.items())
    chance = "unknown" if np.isnan(scores.chance).all() else f"{np.nanmean(scores.chance):.3f} on average"
    return (f"HeadScores({scores.kind}, {scores.mode}; {scores.shape[0]} layers x {scores.shape[1]} heads,\n"
            f"  {scores.n_used} examples used{dropped};\n"
            f"  strongest (layer-head): {heads}; chance {chance})")
