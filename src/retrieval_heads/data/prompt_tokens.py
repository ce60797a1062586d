"""Tokens of long prompts as a sum over their documents, each of which is tokenised once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example
from retrieval_heads.data.markup import control_tokens
from retrieval_heads.data.prompt_format import Document, heading

CHECKED = 5
"""Examples that are counted in both ways before the sum is relied on."""
KEPT = 100_000
"""Texts whose tokens are remembered."""

_BEFORE, _BEHIND = "Document 1: a\nb\n\n", "Document 1:"
_TAIL = 40
"""Characters of the prompt that an answer is counted with."""


class Counted(NamedTuple):
    """An example with its documents and its tokens: prompt, answer and end of sequence."""

    example: Example
    documents: Sequence[Document]
    tokens: int


class PromptTokens:
    """Counts the tokens of examples with one tokenizer.

    Where documents meet, the text on both sides is the same in every prompt: `Document 7` stands behind a blank line
    and before a colon. No usual tokenizer has a token across these places, so tokens add up. The first examples are
    counted as a whole, too; where that gives another number, and for documents that `encode` might refuse, whole
    examples go on being tokenised.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._unchecked, self._adds_up = CHECKED, True
        self._counts: dict[str, float] = {}

    def of(self, example: Example, documents: Sequence[Document] = (), like: Counted | None = None) -> int:
        """Tokens of an example; sooner given its documents and another example with the same text around them, but for
        the answer."""
        tokens = math.inf
        if like is not None and self._adds_up:
            tokens = like.tokens + self._sum(documents) - self._sum(like.documents)
            if example.answer != like.example.answer:
                behind = example.prompt[-_TAIL:] + example.joint
                own, others = self._encoded([behind + example.answer, behind + like.example.answer])
                tokens += len(own) - len(others)
        if math.isfinite(tokens) and not self._unchecked:
            return int(tokens)
        whole = len(encode(example, self._tokenizer).ids)
        if math.isfinite(tokens):
            self._unchecked -= 1
            self._adds_up = tokens == whole
        return whole

    def _sum(self, documents: Sequence[Document]) -> float:
        """Tokens of the documents in a prompt; not finite where one holds what `encode` refuses."""
        texts = [heading(1, title) + f"{text}\n\n" for _, title, text in documents]
        numbers = [heading(number, "") for number, _, _ in documents]
        first = heading(1, "")
        self._count({"", first, *texts, *numbers})
        each = self._counts[""] + self._counts[first]
        return sum(self._counts[one] for one in (*texts, *numbers)) - each * len(documents)

    def _count(self, texts: set[str]) -> None:
        if len(self._counts) > KEPT:
            self._counts.clear()
        new = [text for text in texts if text not in self._counts]
        if not new:
            return
        control = frozenset(control_tokens(self._tokenizer).values())
        vocabulary = getattr(self._tokenizer, "model_vocabulary", None) or math.inf
        for text, ids in zip(new, self._encoded([_BEFORE + text + _BEHIND for text in new]), strict=True):
            sound = control.isdisjoint(ids) and max(ids) < vocabulary
            self._counts[text] = len(ids) if sound else math.inf

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]
