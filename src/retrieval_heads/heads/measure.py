"""The arithmetic of the scores, on what was read of the attention: no model, no torch.

Everything rests on one quantity: the share of the answer's tokens for which a head's largest key lies inside some
spans. With the needles as spans that is the score (Wu et al. 2024, arXiv 2404.15574, section 2; here normalised by the
answer's tokens and not by the needle's); with displaced spans of the same lengths it is the score's chance level.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from retrieval_heads.data.encode import Encoded

KINDS = ("copy", "insight")
"""`copy`: the key also holds the token that is predicted; `insight`: any key inside the spans."""


def span_score(largest: np.ndarray, weights: np.ndarray, encoded: Encoded, kind: str) -> np.ndarray:
    """Share of the answer's tokens whose largest key lies inside the spans.

    Args:
        largest: int `[..., answer_length]`, position of the largest key at each of `encoded.query_rows`.
        weights: float `[len(ids)]`: 1 inside the spans and 0 outside, or an average of such masks.
        encoded: the example.
        kind: one of `KINDS`.

    Returns:
        float64 `[...]`, a fraction in [0, 1].
    """
    hits = weights[largest]
    if kind == "copy":
        ids = encoded.tokens
        predicted = ids[np.asarray(encoded.query_rows) + 1]
        hits = hits * (ids[largest] == predicted)
    return hits.mean(-1)


@lru_cache(maxsize=2048)  # many models are scored on the same examples
def displaced_spans(encoded: Encoded, draws: int = 32, seed: int = 0) -> np.ndarray | None:
    """Average mask of spans that have the needles' lengths and lie elsewhere in the prompt.

    Each draw places spans of the needles' lengths at random, within the prompt and disjoint from the needles and from
    one another. The draws depend on the prompt's tokens and the seed only, so the order of the examples, the model and
    the answer do not matter.

    Returns:
        float64 `[len(ids)]`: the share of the draws that cover each position; None when the prompt has no room.
    """
    content = encoded.tokens[: encoded.prompt_length].tobytes()
    rng = np.random.default_rng([seed, zlib.crc32(content)])
    lengths = sorted((end - start for start, end in encoded.needles), reverse=True)
    inside = encoded.needle_mask()
    inside[encoded.prompt_length :] = True
    covered, placed = np.zeros(len(encoded.ids)), 0
    free = _free_starts(lengths[0], inside) if lengths else None  # where the first can go is the same in all draws
    for _ in range(draws):
        taken = _place(lengths, inside, rng, free)
        if taken is not None:
            covered += taken
            placed += 1
    if not placed:
        return None
    covered /= placed
    covered.flags.writeable = False  # the cache hands the same array to every caller
    return covered


def _place(
    lengths: Sequence[int], occupied: np.ndarray, rng: np.random.Generator, free: np.ndarray | None
) -> np.ndarray | None:
    """One draw: bool mask of the placed spans, longest first; None when one of them finds no room.

    `free`: where the first span can begin.
    """
    occupied, placed = occupied.copy(), np.zeros(len(occupied), dtype=bool)
    for place, length in enumerate(lengths):
        starts = free if place == 0 else _free_starts(length, occupied)
        if not len(starts):
            return None
        start = starts[rng.integers(len(starts))]
        occupied[start : start + length] = placed[start : start + length] = True
    return placed


def _free_starts(length: int, occupied: np.ndarray) -> np.ndarray:
    """Where a span of that length can begin."""
    filled = np.concatenate(([0], np.cumsum(occupied)))
    return np.flatnonzero(filled[length:] == filled[: len(filled) - length])
