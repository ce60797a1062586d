"""Prompts in the cache, one group of examples after the other: those on one haystack after one pass over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import nn

from retrieval_heads.attention.haystacks import Haystack, find_haystacks
from retrieval_heads.attention.shared_prefix import SharedPrefix
from retrieval_heads.data.encode import Encoded
from retrieval_heads.heads.cached import CachedPrompts, batches
from retrieval_heads.progress import progress

T = TypeVar("T")


def over_prompts(
    model: nn.Module, encoded: Sequence[Encoded], use: Callable[[list[int], CachedPrompts], T], copies: int = 1,
    description: str = "head sets",
) -> Iterator[tuple[list[int], T]]:
    """What `use` makes of the prompts of all examples, with the indices of the examples, group by group.

    Examples on one haystack (`find_haystacks`) are used one by one, each on the cached haystack; the others as many at
    once as share a pass of so many copies of their suffixes (`cached.batches`). Only the current group is in memory.
    """
    haystacks, others = find_haystacks(encoded, [one.prompt_length - 1 for one in encoded])
    for haystack in progress(haystacks, f"{description}, haystacks"):
        yield from _on_haystack(model, encoded, haystack, use)
    grouped = batches(model, [encoded[index] for index in others], copies)
    members = iter(others)
    for batch in progress(grouped, description):
        indices = [next(members) for _ in batch]
        yield indices, use(indices, CachedPrompts(model, batch))


def _on_haystack(
    model: nn.Module, encoded: Sequence[Encoded], haystack: Haystack, use: Callable[[list[int], CachedPrompts], T]
) -> Iterator[tuple[list[int], T]]:
    prefix = SharedPrefix(model, encoded[haystack.members[0]].ids[: haystack.length])
    for index in haystack.members:
        yield [index], use([index], CachedPrompts(model, [encoded[index]], prefix))
