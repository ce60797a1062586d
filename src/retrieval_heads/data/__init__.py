"""Examples: the generated text world, the official files, and tokens with needle spans."""

from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import make_examples

__all__ = ["Example", "make_examples"]
