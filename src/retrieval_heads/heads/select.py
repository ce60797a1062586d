"""Sets of heads: the best and the worst by a score, and controls that can be compared with them.

A random control has as many heads in each layer as the set it is compared with (layers differ in what a head of
theirs can do) and shares no head with it; otherwise a control can hit the very heads it should spare.

Two controls are matched more closely. With grouped-query attention, the heads of a key/value group read the same keys
and values. Retrieval heads stand together in few groups, and heads that are drawn from whole layers are spread over
more of them: `group_heads` come from the same groups. And most heads have a retrieval score of exactly 0: the weakest
heads of a whole model, with ties in any fixed order, are those of its first layers, which are needed for everything.
`weakest_heads` are of the same layers. What these two leave open is drawn at random.
"""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from retrieval_heads.errors import HeadError
from retrieval_heads.models.layout import Head, HeadLayout, check_heads

MATCHES = ("layer", "nearest")

Free = dict[Any, list[Head]]
"""By place (a layer, or a key/value group), the heads that can be drawn."""


def select_heads(scores: Any, threshold: float = 0.1, k: int | None = None) -> list[Head]:
    """The retrieval heads of a score table, best first; equal scores are in order of layer and head.

    Args:
        scores: `[n_layers, n_heads]`, array or tensor.
        threshold: heads strictly above it are taken (0.1 in Wu et al. 2024, arXiv 2404.15574).
        k: take the k best heads instead, whatever their scores.

    Returns:
        `(layer, head)` pairs, both counted from 0.

    Raises:
        HeadError: scores that are not a finite table, or a k outside 0 to the number of heads.
    """
    table = _score_table(scores)
    ranked = _ranked(-table)
    if k is not None:
        return ranked[: _checked_count(k, table.size)]
    return [(layer, head) for layer, head in ranked if table[layer, head] > threshold]


def bottom_heads(scores: Any, k: int) -> list[Head]:
    """The k heads of the lowest scores, lowest first; see `select_heads`."""
    table = _score_table(scores)
    return _ranked(table)[: _checked_count(k, table.size)]


def random_heads(
    heads: Iterable[Head], shape: HeadLayout | tuple[int, int], seed: int, exclude: Iterable[Head] = (),
    match: str = "layer",
) -> list[Head]:
    """A random control: as many other heads as `heads`, from the same layers.

    Args:
        heads: the set to compare with; its order does not matter.
        shape: `(n_layers, n_heads)`, or the layout of the model.
        seed: seed of the draw; the same seed gives the same heads.
        exclude: further heads that must not be drawn.
        match: `layer`: as many in each layer as in `heads`; `nearest`: where a layer has too few free heads, the
            missing ones come from the nearest layers that have some, with a warning (count them by `layer_mismatch`).

    Returns:
        The heads in order of layer and head, disjoint from `heads` and `exclude`.

    Raises:
        HeadError: heads outside the model, an unknown `match`, or too few free heads.
    """
    shape = (shape.n_layers, shape.n_heads) if isinstance(shape, HeadLayout) else shape
    chosen, free = _chosen_and_free(heads, exclude, shape, _layer)
    if match not in MATCHES:
        raise HeadError("unknown way of matching", where="match", value=match, remedy=f"Use {' or '.join(MATCHES)}.")
    counts = Counter(map(_layer, chosen))
    if match == "nearest":
        counts = _spread(counts, free, _layers_apart)
    for layer, count in sorted(counts.items()):
        if count > len(free[layer]):
            raise HeadError(
                f"layer {layer} has {len(free[layer])} free heads, {count} are wanted", where="random control",
                value=chosen, remedy="Take a smaller set or exclude fewer, or ask for match='nearest'.",
            )
    drawn = _draw(free, counts, np.random.default_rng(seed))
    moved = layer_mismatch(chosen, drawn)
    if moved:
        warnings.warn(f"random control: {moved} of {len(drawn)} heads come from another layer", stacklevel=2)
    return drawn


def group_heads(
    heads: Iterable[Head], shape: tuple[int, int], group_size: int, seed: int, exclude: Iterable[Head] = (),
) -> list[Head]:
    """A random control: as many other heads as `heads`, from the same key/value groups.

    Where a group has too few free heads, the missing ones come from other groups of its layer, first from those that
    `heads` is in; where the layer has too few, from the nearest layers. `group_mismatch` counts them. `group_size` are
    the query heads of a key/value head; other arguments and errors as in `random_heads`.
    """
    if group_size < 1 or shape[1] % group_size:
        raise HeadError(f"groups do not divide the {shape[1]} heads of a layer", where="group_size", value=group_size,
                        remedy="Give query heads / key/value heads of the model.")
    group = _group_of(group_size)
    chosen, free = _chosen_and_free(heads, exclude, shape, group)
    wanted, rng = Counter(map(group, chosen)), np.random.default_rng(seed)
    order = dict(zip(free, rng.permutation(len(free)).tolist(), strict=True))

    def distance(own: tuple[int, int], other: tuple[int, int]) -> tuple[int, bool, int]:
        """Layers apart; then whether the set is in it; then at random."""
        return abs(own[0] - other[0]), other not in wanted, order[other]

    return _draw(free, _spread(wanted, free, distance), rng)


def weakest_heads(scores: Any, heads: Iterable[Head], seed: int, exclude: Iterable[Head] = ()) -> list[Head]:
    """The heads of the lowest scores in the layers of `heads`, as many in each; of equal scores, any at random.

    Where a layer has too few free heads, the nearest ones give some (`layer_mismatch` counts them). `scores` are
    `[n_layers, n_heads]`, array or tensor; other arguments and errors as in `random_heads`.
    """
    table = _score_table(scores)
    chosen, free = _chosen_and_free(heads, exclude, table.shape, _layer)
    any_order = np.random.default_rng(seed).random(table.shape)
    counts = _spread(Counter(map(_layer, chosen)), free, _layers_apart)
    return sorted(
        head for layer, count in counts.items()
        for head in sorted(free[layer], key=lambda head: (table[head], any_order[head]))[:count]
    )


def layer_mismatch(heads: Iterable[Head], drawn: Iterable[Head]) -> int:
    """How many heads of a random control come from another layer than the set it is compared with."""
    return (Counter(map(_layer, drawn)) - Counter(map(_layer, heads))).total()


def group_mismatch(heads: Iterable[Head], drawn: Iterable[Head], group_size: int) -> int:
    """How many heads of a control come from another key/value group than the set that it is compared with."""
    group = _group_of(group_size)
    return (Counter(map(group, drawn)) - Counter(map(group, heads))).total()


def groups_filled(heads: Iterable[Head], group_size: int) -> int:
    """In how many key/value groups the heads are."""
    return len(set(map(_group_of(group_size), heads)))


def _score_table(scores: Any) -> np.ndarray:
    """Scores as a finite array `[n_layers, n_heads]`, float32 as it is and float64 otherwise; `HeadError` if not."""
    if hasattr(scores, "detach"):  # bf16 and CUDA tensors have no direct way to numpy
        scores = scores.detach().cpu()
        scores = scores.float() if scores.itemsize < 4 else scores
    table = np.asarray(scores)
    # float32 stays: a score of 1/10 is then equal to the threshold 0.1, and not above it by its rounding
    table = table if table.dtype == np.float32 else table.astype(np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise HeadError(
            "scores are not a finite table of layers x heads", where="scores", value=list(table.shape),
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


def _layer(head: Head) -> int:
    return head[0]


def _layers_apart(layer: int, other: int) -> int:
    return abs(layer - other)


def _group_of(size: int) -> Callable[[Head], tuple[int, int]]:
    """Gives the key/value group of a head: its layer and its number there, both counted from 0."""
    return lambda head: (head[0], head[1] // size)


def _chosen_and_free(
    heads: Iterable[Head], exclude: Iterable[Head], shape: Sequence[int], place_of: Callable[[Head], Any],
) -> tuple[list[Head], Free]:
    """The heads, checked and sorted, and by place those that are neither among them nor excluded."""
    chosen = check_heads(heads, *shape)
    barred, free = {*chosen, *check_heads(exclude, *shape)}, {}
    for head in np.ndindex(*shape):
        free.setdefault(place_of(head), []).extend([head] if head not in barred else [])
    return chosen, free


def _spread(wanted: Mapping[Any, int], free: Free, distance: Callable[[Any, Any], Any]) -> Counter[Any]:
    """How many heads each place gives, where what a place lacks is taken from the nearest ones.

    `distance` is of two places; of equal ones the first in `free` gives first. `HeadError` where the whole model has
    too few free heads.
    """
    n_wanted, n_free = sum(wanted.values()), sum(map(len, free.values()))
    if n_wanted > n_free:
        raise HeadError(
            f"the model has {n_free} free heads, {n_wanted} are wanted", where="control", value=dict(wanted),
            remedy="Take a smaller set or exclude fewer.",
        )
    counts = Counter({place: min(count, len(free[place])) for place, count in wanted.items()})
    for place, count in sorted(wanted.items()):
        missing = max(0, count - len(free[place]))
        for other in sorted(free, key=lambda other, place=place: distance(place, other)):
            moved = min(missing, max(0, len(free[other]) - counts[other]))
            counts[other] += moved
            missing -= moved
    return +counts  # without the places that give none


def _draw(free: Free, counts: Mapping[Any, int], rng: np.random.Generator) -> list[Head]:
    """So many of the free heads of each place, in order of layer and head."""
    return sorted(
        free[place][index] for place, count in sorted(counts.items())
        for index in rng.permutation(len(free[place]))[:count]
    )
