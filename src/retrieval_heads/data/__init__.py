"""Examples: the generated text world, the official files, and tokens with needle spans."""

from __future__ import annotations

from typing import Any

__all__ = ["Example", "make_examples"]


def __getattr__(name: str) -> Any:
    if name == "make_examples":
        from retrieval_heads.data.examples import make_examples

        return make_examples
    if name == "Example":
        from retrieval_heads.data.example import Example

        return Example
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
