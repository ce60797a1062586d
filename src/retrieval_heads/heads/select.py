"""Sets of heads: the best and the worst by a score, and random controls that can be compared with them.

A random control has as many heads in each layer as the set it is compared with (layers differ in what a head of
theirs can do) and shares no head with it; otherwise a control can hit the very heads it should spare.
"""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from retrieval_heads.errors import HeadError
from retrieval_heads.models.layout import Head, HeadLayout

MATCHES = ("layer", "nearest")


def select_heads(scores: Any, threshold: float = 0.1, k: int | None = None) -> list[Head]:
    """The retrieval heads of a score table, best first; equal scores are in order of layer and head.

    Args:
        scores: `[n_layers, n_heads]`, array or tensor.
        threshold: heads strictly above it are taken (0.1 in Wu et al. 2024, arXiv 2404.15574).
        k: take the k best heads instead, whatever their scores.

    Returns:
        `(layer, head)` pairs, both counted from 0.

    Raises:
        HeadError: scores that are no finite table, or a k outside 0 to the number of heads.
    """
    table = score_table(scores)
    ranked = _ranked(-table)
    if k is not None:
        return ranked[: _checked_count(k, table.size)]
    return [(layer, head) for layer, head in ranked if table[layer, head] > threshold]


def bottom_heads(scores: Any, k: int) -> list[Head]:
    """The k heads of the lowest scores, lowest first; see `select_heads`."""
    table = score_table(scores)
    return _ranked(table)[: _checked_count(k, table.size)]


def random_heads(
    heads: Iterable[Head], shape: HeadLayout | tuple[int, int], seed: int, exclude: Iterable[Head] = (),
    match: str = "layer",
) -> list[Head]:
    """A random control: as many other heads as `heads`, from the same layers.

    Args:
        heads: the set to be compared with; its order does not matter.
        shape: `(n_layers, n_heads)`, or the layout of the model.
        seed: of the draw; the same seed gives the same heads.
        exclude: further heads that are not to be drawn.
        match: `layer`: as many in each layer as in `heads`; `nearest`: where a layer has too few free heads, the
            missing ones come from the nearest layers that have some, with a warning (count them by `layer_mismatch`).

    Returns:
        The heads in order of layer and head, disjoint from `heads` and `exclude`.

    Raises:
        HeadError: heads outside the model, an unknown `match`, or too few free heads.
    """
    n_layers, n_heads = (shape.n_layers, shape.n_heads) if isinstance(shape, HeadLayout) else shape
    chosen, barred = checked_heads(heads, n_layers, n_heads), checked_heads(exclude, n_layers, n_heads)
    if match not in MATCHES:
        raise HeadError("unknown way of matching", where="match", value=match, remedy=f"Use {' or '.join(MATCHES)}.")
    free = {
        layer: [head for head in range(n_heads) if (layer, head) not in chosen | barred] for layer in range(n_layers)
    }
    wanted = Counter(layer for layer, _ in chosen)
    sizes = {layer: len(found) for layer, found in free.items()}
    counts = spread_counts(wanted, sizes, _layers_apart) if match == "nearest" else wanted
    hint = ", or ask for match='nearest'" if match == "layer" else ""
    for layer, count in sorted(counts.items()):
        if count > len(free[layer]):
            raise HeadError(
                f"layer {layer} has {len(free[layer])} free heads, {count} are wanted", where="random control",
                value=sorted(chosen), remedy=f"Take a smaller set or exclude fewer{hint}.",
            )
    rng = np.random.default_rng(seed)
    drawn = [
        (layer, int(head)) for layer, count in sorted(counts.items())
        for head in sorted(rng.permutation(free[layer])[:count].tolist())
    ]
    moved = layer_mismatch(chosen, drawn)
    if moved:
        warnings.warn(f"random control: {moved} of {len(drawn)} heads come from another layer", stacklevel=2)
    return drawn


def layer_mismatch(heads: Iterable[Head], drawn: Iterable[Head]) -> int:
    """How many heads of a random control come from another layer than the set it is compared with."""
    wanted, found = (Counter(layer for layer, _ in pairs) for pairs in (heads, drawn))
    return sum((found - wanted).values())


def head_names(heads: Iterable[Head]) -> list[str]:
    """Heads as `layer-head` names, the exchange format of Wu et al.'s score files: `(12, 3)` is `12-3`."""
    return [f"{layer}-{head}" for layer, head in heads]


def parse_heads(names: Iterable[str]) -> list[Head]:
    """Heads from `layer-head` names, in the order given; a score file's mapping can be passed as it is.

    Raises:
        HeadError: a name of another form.
    """
    heads = []
    for name in names:
        layer, dash, head = str(name).partition("-")
        if not (dash and all(part.isascii() and part.isdecimal() for part in (layer, head))):
            raise HeadError("not a head's name", where="heads", value=name, remedy="Write layer-head, as in 12-3.")
        heads.append((int(layer), int(head)))
    return heads


def score_table(scores: Any) -> np.ndarray:
    """Scores as a finite array `[n_layers, n_heads]`, float32 as it is and float64 otherwise; `HeadError` if not."""
    if hasattr(scores, "detach"):  # bf16 and CUDA tensors have no direct way to numpy
        scores = scores.detach().cpu()
        scores = scores.float() if scores.itemsize < 4 else scores
    table = np.asarray(scores)
    # float32 stays: a score of 1/10 is then equal to the threshold 0.1, and not above it by its rounding
    table = table if table.dtype == np.float32 else table.astype(np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise HeadError(
            "scores are no finite table of layers x heads", where="scores", value=list(table.shape),
            remedy="Pass the [n_layers, n_heads] array of `retrieval_scores`.",
        )
    return table


def _ranked(keys: np.ndarray) -> list[Head]:
    order = np.argsort(keys, axis=None, kind="stable")
    return [(int(index) // keys.shape[1], int(index) % keys.shape[1]) for index in order]


def _checked_count(k: int, size: int) -> int:
    try:
        count = operator.index(k)
    except TypeError:
        count = -1
    if not 0 <= count <= size:
        raise HeadError(f"the model has {size} heads", where="k", value=k, remedy=f"Use a number from 0 to {size}.")
    return count


def checked_heads(heads: Iterable[Head], n_layers: int, n_heads: int) -> set[Head]:
    """The heads as a set of pairs; `HeadError` for one that the model does not have."""
    pairs = {(int(layer), int(head)) for layer, head in heads}
    for layer, head in sorted(pairs):
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise HeadError(
                f"the model has layers 0 to {n_layers - 1} and heads 0 to {n_heads - 1}", where="heads",
                value=(layer, head), remedy="Take heads that were found in this model.",
            )
    return pairs


def spread_counts(
    wanted: Counter[Any], free: Mapping[Any, int], distance: Callable[[Any, Any], Any],
) -> Counter[Any]:
    """How many heads each place gives, where what a place lacks is taken from the nearest ones.

    Args:
        wanted: heads of each place (a layer, or a group of heads).
        free: heads that each place can give.
        distance: of two places; of equal ones the first in `free` gives first.
    """
    counts = Counter({place: min(count, free[place]) for place, count in wanted.items()})
    for place, count in sorted(wanted.items()):
        missing = max(0, count - free[place])
        for other in sorted(free, key=lambda other, place=place: distance(place, other)):
            moved = min(missing, max(0, free[other] - counts[other]))
            counts[other] += moved
            missing -= moved
        counts[place] += missing  # nowhere left: the caller says so
    return +counts  # without the places that give none


def _layers_apart(layer: int, other: int) -> int:
    return abs(layer - other)
