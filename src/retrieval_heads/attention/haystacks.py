"""Which examples ask about one haystack: their tokens begin alike for so long that the beginning is run once for all.

Only tokens count: the same documents with other questions, or one prompt with other answers, are found wherever they
come from and in whatever order. Examples are sorted by their tokens, so that those that begin alike are neighbours, and
joined as long as that saves tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval_heads.data.encode import Encoded

SHORTEST, SHARE = 256, 0.75
"""A common beginning is used when it is longer than so many tokens and is at least this share of every prompt: what
follows it is run with a mask over all that is before, which a fast causal kernel does not take."""


@dataclass(frozen=True)
class Haystack:
    """Examples with a common beginning.

    Attributes:
        members: their indices, in the order of the examples.
        length: tokens of the common beginning.
    """

    members: tuple[int, ...]
    length: int


def find_haystacks(encoded: Sequence[Encoded], ends: Sequence[int]) -> tuple[list[Haystack], list[int]]:
    """Examples to be run together, in order of their first members, and the indices of the others.

    Args:
        encoded: the examples.
        ends: for each of them how many leading tokens can be in a common beginning: those before the first position
            that something is wanted of. Less than `prompt_length`.
    """
    groups: list[tuple[list[int], np.ndarray]] = []
    for index in sorted(range(len(encoded)), key=lambda index: (encoded[index].ids, index)):
        tokens = encoded[index].tokens[: ends[index]]
        if groups:
            members, common = groups[-1]
            length = _common_length(common, tokens)
            longest = max(encoded[member].prompt_length for member in (*members, index))
            # with n members run once up to L, (n - 1) L tokens are saved; one more member may shorten L
            saves = len(members) == 1 or len(members) * length > (len(members) - 1) * len(common)
            if saves and length > SHORTEST and length >= SHARE * longest:
                groups[-1] = ([*members, index], common[:length])
                continue
        groups.append(([index], tokens))
    found = [Haystack(tuple(sorted(members)), len(common)) for members, common in groups if len(members) > 1]
    shared = {index for haystack in found for index in haystack.members}
    return sorted(found, key=lambda one: one.members), [index for index in range(len(encoded)) if index not in shared]


def _common_length(one: np.ndarray, other: np.ndarray) -> int:
    shorter = min(len(one), len(other))
    different = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(different[0]) if len(different) else shorter
