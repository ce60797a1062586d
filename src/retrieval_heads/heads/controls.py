"""Controls for a set of heads that are matched more closely than by layer: by key/value group, or by being weak.

With grouped-query attention, the heads of a group read the same keys and values. Retrieval heads stand together in few
groups, and heads that are drawn from whole layers are spread over more of them. And most heads have a retrieval score
of exactly 0: the weakest heads of a whole model, with ties in any fixed order, are those of its first layers, which are
needed for everything. What these two controls leave open is drawn at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from retrieval_heads.errors import HeadError
from retrieval_heads.heads.select import checked_heads, score_table, spread_counts
from retrieval_heads.models.layout import Head

Group = tuple[int, int]
"""A key/value group: its layer and its number there, both counted from 0."""


def group_heads(
    heads: Iterable[Head], shape: tuple[int, int], group_size: int, seed: int, exclude: Iterable[Head] = (),
) -> list[Head]:
    """A random control: as many other heads as `heads`, from the same key/value groups.

    Where a group has too few free heads, the missing ones come from other groups of its layer, first from those that
    `heads` is in; where the layer has too few, from the nearest layers. `group_mismatch` counts them.

    Args:
        heads: the set to be compared with; its order does not matter.
        shape: `(n_layers, n_heads)`.
        group_size: query heads a key/value head.
        seed: of the draw.
        exclude: further heads that are not to be drawn.

    Returns:
        The heads in order of layer and head, disjoint from `heads` and `exclude`.

    Raises:
        HeadError: heads outside the model, a size that does not divide the heads of a layer, or too few free heads.
    """
    n_layers, n_heads = shape
    if group_size < 1 or n_heads % group_size:
        raise HeadError(f"groups do not divide the {n_heads} heads of a layer", where="group_size", value=group_size,
                        remedy="Give query heads / key/value heads of the model.")
    chosen = checked_heads(heads, n_layers, n_heads)
    barred = chosen | checked_heads(exclude, n_layers, n_heads)
    free: dict[Group, list[Head]] = {
        (layer, first // group_size): [
            (layer, head) for head in range(first, first + group_size) if (layer, head) not in barred
        ]
        for layer in range(n_layers) for first in range(0, n_heads, group_size)
    }
    wanted = Counter(_group(head, group_size) for head in chosen)
    rng = np.random.default_rng(seed)
    place = dict(zip(free, rng.permutation(len(free)).tolist(), strict=True))

    def distance(group: Group, other: Group) -> tuple[int, bool, int]:
        """Layers apart; then whether the set is in it; then at random."""
        return abs(group[0] - other[0]), other not in wanted, place[other]

    counts = _counts(wanted, free, distance)
    drawn = [free[group][index] for group, count in sorted(counts.items())
             for index in rng.permutation(len(free[group]))[:count]]
    return sorted(drawn)


def weakest_heads(scores: Any, heads: Iterable[Head], seed: int, exclude: Iterable[Head] = ()) -> list[Head]:
    """The heads of the lowest scores in the layers of `heads`, as many in each; of equal scores, any at random.

    Where a layer has too few free heads, the nearest ones give some (`layer_mismatch` counts them).

    Args:
        scores: `[n_layers, n_heads]`, array or tensor.
        heads, exclude: as in `group_heads`.
        seed: of the order of equal scores.

    Returns:
        The heads in order of layer and head, disjoint from `heads` and `exclude`.

    Raises:
        HeadError: scores that are not a finite table, heads outside the model, or too few free heads.
    """
    table = score_table(scores)
    n_layers, n_heads = table.shape
    chosen = checked_heads(heads, n_layers, n_heads)
    barred = chosen | checked_heads(exclude, n_layers, n_heads)
    any_order = np.random.default_rng(seed).random(table.shape)
    free = {
        layer: sorted(((layer, head) for head in range(n_heads) if (layer, head) not in barred),
                      key=lambda head: (table[head], any_order[head]))
        for layer in range(n_layers)
    }
    counts = _counts(Counter(layer for layer, _ in chosen), free, lambda layer, other: abs(layer - other))
    return sorted(head for layer, count in counts.items() for head in free[layer][:count])


def group_mismatch(heads: Iterable[Head], drawn: Iterable[Head], group_size: int) -> int:
    """How many heads of a control come from another key/value group than the set that it is compared with."""
    wanted, found = (Counter(_group(head, group_size) for head in part) for part in (heads, drawn))
    return sum((found - wanted).values())


def groups_filled(heads: Iterable[Head], group_size: int) -> int:
    """In how many key/value groups the heads are."""
    return len({_group(head, group_size) for head in heads})


def _group(head: Head, size: int) -> Group:
    return head[0], head[1] // size


def _counts(wanted: Counter[Any], free: Mapping[Any, list[Head]], distance: Any) -> Counter[Any]:
    """Heads that each place gives; `HeadError` where there are too few in the whole model."""
    counts = spread_counts(wanted, {place: len(found) for place, found in free.items()}, distance)
    if any(count > len(free[place]) for place, count in counts.items()):
        raise HeadError(
            f"the model has {sum(map(len, free.values()))} free heads, {sum(wanted.values())} are wanted",
            where="control", value=dict(wanted), remedy="Take a smaller set or exclude fewer.",
        )
    return counts
