"""The sentences of the boxes at the head of the chapters, made from tables of any profile; no number is written here.

Every function returns sentences, the most important first. What a small study does not have is left out.
"""

from __future__ import annotations

from collections.abc import Sequence


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`: a p-value is never nought."""
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
