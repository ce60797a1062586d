"""What the source of a patch has kept of the tokens in the target's key/value cache, so that both decode step by step.

Each model keeps its own keys and values; here stands which cache of the source belongs to which of the target. A cache
that was filled outside, or altered since (cropped, or reordered by a beam search), belongs to none.
"""

from __future__ import annotations

import weakref
from typing import Any

from retrieval_heads.errors import ModelError


class SourceCaches:
    """The source's caches by the target's; each lives as long as that of the target."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, tuple[Any, weakref.ref | None]] = weakref.WeakKeyDictionary()

    def of(self, cache: Any) -> Any | None:
        """The source's cache for a call of the target with this one; None where no token is in it.

        Raises:
            ModelError: the source has not seen the tokens in it, or they were altered since.
        """
        if cache is None or not cache.get_seq_length():
            return None
        found, keys = self._known.get(cache, (None, None))
        if found is None or keys is None or keys() is not _first_keys(cache):
            raise ModelError(
                "the target is called with tokens in its cache, which the source has not seen", where="past_key_values",
                value=int(cache.get_seq_length()),
                remedy="Fill the cache inside the same `patch_heads`, and do not crop or reorder it (no beam search); "
                "or call the target on the whole input without a cache (in `generate`: use_cache=False).",
            )
        return found

    def link(self, cache: Any, source: Any) -> None:
        """Remember that both hold the same tokens; nothing where one of them is None."""
        if cache is not None and source is not None:
            keys = _first_keys(cache)
            self._known[cache] = source, None if keys is None else weakref.ref(keys)


def _first_keys(cache: Any) -> Any | None:
    """The keys of the first layer that has some: every change of a cache but that of a pass makes a new tensor."""
    return next((keys for layer in cache.layers if (keys := getattr(layer, "keys", None)) is not None), None)
