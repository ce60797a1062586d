"""`HeadScores`: the scores of every head of a model on some examples, with what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """Scores of every head of a model on some examples; `numpy.asarray` gives the array `scores`.

    Attributes:
        scores: float32 `[n_layers, n_heads]`, fraction in [0, 1], mean over the examples used.
        chance: float32 `[n_layers, n_heads]`, the same measure on spans of the same lengths that are no needles; over
            the examples whose prompt has room for them, nan when none has.
        mass: float32 `[n_layers, n_heads]`, mean attention probability inside the needles at the same rows.
        query_mass: float32 `[n_layers, n_heads]`, the same from the tokens of the question (after QRHead).
        contribution: float32 `[n_layers, n_heads]`, mean logit contribution of the needles (after LOCOS).
        per_example: float32 `[n_used, n_layers, n_heads]`, the score on each example, in the order of `used`.
        chance_per_example: the same of the chance level; NaN for an example without room for displaced spans.
        contribution_per_example: the same of the contribution; NaN for an example without room for displaced spans.
        used: indices of the examples used.
        dropped: number of examples left out, by reason: `no needle`, `too long`, `empty generation`.
        kind: `copy` or `insight`.
        mode: `forced` or `generated`.
        contribution_reason: why all contributions are NaN, in words; empty where the model has a direct path.
    """

    scores: np.ndarray
    chance: np.ndarray
    mass: np.ndarray
    query_mass: np.ndarray
    contribution: np.ndarray
    per_example: np.ndarray
    chance_per_example: np.ndarray
    contribution_per_example: np.ndarray
    used: tuple[int, ...]
    dropped: Mapping[str, int]
    kind: str
    mode: str
    contribution_reason: str = ""

    @property
    def n_used(self) -> int:
        """Number of examples the scores rest on."""
        return len(self.used)

    @property
    def shape(self) -> tuple[int, int]:
        return self.scores.shape

    def __repr__(self) -> str:
        return _in_short(self)

    def __getitem__(self, key: Any) -> Any:
        return self.scores[key]

    def __len__(self) -> int:
        return len(self.scores)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.scores, dtype=dtype, copy=copy)


def _in_short(scores: HeadScores) -> str:
    """What was scored, on how many examples, and the three strongest heads."""
    strongest = np.argsort(-scores.scores, axis=None, kind="stable")[:3]
    heads = ", ".join(f"{layer}-{head} {scores.scores[layer, head]:.2f}" for layer, head in
                      zip(*np.unravel_index(strongest, scores.shape), strict=True))
    dropped = "".join(f", {count} left out ({reason})" for reason, count in scores.dropped.items())
    chance = "unknown" if np.isnan(scores.chance).all() else f"{np.nanmean(scores.chance):.3f} on average"
    return (f"HeadScores({scores.kind}, {scores.mode}; {scores.shape[0]} layers x {scores.shape[1]} heads,\n"
            f"  {scores.n_used} examples used{dropped};\n"
            f"  strongest (layer-head): {heads}; chance {chance})")
