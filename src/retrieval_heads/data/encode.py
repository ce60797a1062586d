"""From text to tokens: an example's ids, its answer positions and its needles as token spans.

Spans come from the offsets of a fast tokenizer, so any tokenizer with offsets works, and a needle that cannot be
mapped raises instead of being dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retrieval_heads.data.example import Example
from retrieval_heads.data.layout import QUESTION
from retrieval_heads.errors import DataError, ModelError

_AT_THE_SEAM = (
    "Nothing stands between this prompt and its answer (`joint`), as after a chat template that ends the prompt: give "
    "a `joint` of a space or a line break, or a template that ends in a line break or a special token."
)


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        ids: prompt, answer and, where the tokenizer has one, the end-of-sequence token.
        prompt_length: number of prompt tokens; the first answer token is `ids[prompt_length]`.
        answer_length: number of answer tokens without the end-of-sequence token.
        needles: `(start, end)` token spans, end exclusive, in order of position.
        question: index of the first token of the question after the documents; None for a prompt without one.
    """

    ids: tuple[int, ...]
    prompt_length: int
    answer_length: int
    needles: tuple[tuple[int, int], ...]
    question: int | None = None

    @cached_property
    def tokens(self) -> np.ndarray:
        """int64 `[len(ids)]`: `ids` as an array, not to be written to; made once, as that takes a while when long."""
        tokens = np.asarray(self.ids, dtype=np.int64)
        tokens.flags.writeable = False
        return tokens

    @property
    def query_rows(self) -> range:
        """Positions that predict the answer's tokens: each answer token is predicted one position earlier."""
        return range(self.prompt_length - 1, self.prompt_length + self.answer_length - 1)

    def needle_mask(self) -> np.ndarray:
        """bool `[len(ids)]`: which positions lie inside a needle."""
        mask = np.zeros(len(self.ids), dtype=bool)
        for start, end in self.needles:
            mask[start:end] = True
        return mask


def encode(example: Example, tokenizer: Any, max_length: int | None = None) -> Encoded:
    """Tokenise one example; see `encode_all`."""
    return encode_all([example], tokenizer, max_length)[0]


def encode_all(examples: Sequence[Example], tokenizer: Any, max_length: int | None = None) -> list[Encoded]:
    """Tokenise examples, prompt and answer in one piece so that the answer's tokens are those a reader would see.

    Raises:
        ModelError: the tokenizer is not a fast one (no offsets).
        DataError: more than `max_length` tokens; a prompt whose tokens change when the answer follows; a needle that
            no token covers.
    """
    if not examples:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer gives no character offsets", where=type(tokenizer).__name__,
            remedy="Use a fast tokenizer (a folder with tokenizer.json).",
        )
    # verbose=False: the length warning of the tokenizer is replaced by our own check below
    encoded: dict[int, Encoded] = {}
    for add in (True, False):
        # a prompt that a chat template wrote brings its special tokens along
        places = [place for place, example in enumerate(examples) if _opened(example.prompt, tokenizer) != add]
        if not places:
            continue
        batch = tokenizer([examples[place].text for place in places], return_offsets_mapping=True, verbose=False,
                          add_special_tokens=add)
        for place, ids, offsets in zip(places, batch["input_ids"], batch["offset_mapping"], strict=True):
            encoded[place] = _encoded(examples[place], ids, offsets, tokenizer, max_length)
    return [encoded[place] for place in range(len(examples))]


def _opened(prompt: str, tokenizer: Any) -> bool:
    """Whether the prompt already begins with the token that opens a sequence."""
    opening = getattr(tokenizer, "bos_token", None)
    return bool(opening) and prompt.startswith(opening)


def _encoded(example: Example, ids: list[int], offsets: list, tokenizer: Any, max_length: int | None) -> Encoded:
    where = place_of_record(example)
    ids, bounds = list(ids), np.asarray(offsets, dtype=np.int64).reshape(-1, 2)  # also where there is no token
    if ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id:
        ids, bounds = ids[:-1], bounds[:-1]
    starts, ends = bounds[:, 0], bounds[:, 1]
    boundary = len(example.prompt)
    prompt_length = int(np.count_nonzero(ends <= boundary))
    # zero-width special tokens (a leading <bos>) have offsets (0, 0) and count to the prompt
    straddling = (starts < boundary) & (ends > boundary)
    answer_length = len(ids) - prompt_length
    if answer_length < 1 and not straddling.any():
        raise DataError(
            "the tokenizer has no token for the answer", where=where, value=example.answer[:20],
            remedy="Give an answer that it can write, or use another tokenizer.",
        )
    if straddling.any():
        raise DataError(
            "the last characters of the prompt and the answer share a token", where=where,
            value=example.prompt[-20:] + example.joint + example.answer[:20],
            remedy=_AT_THE_SEAM if not example.joint else "End the prompt with punctuation.",
        )
    needles = tuple(_token_span(span, starts, ends, where, example) for span in example.needles)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if max_length is not None and len(ids) > max_length:
        raise DataError(
            f"{len(ids)} tokens are more than the allowed {max_length}", where=where, value=example.prompt[:60],
            remedy="Make shorter examples (`length`), or extend the model (RoPE theta) and raise the limit.",
        )
    question = example.prompt.rfind(QUESTION)
    begins = int(np.count_nonzero(ends <= question)) if question >= 0 else None
    return Encoded(tuple(ids), prompt_length, answer_length, needles, begins)


def place_of_record(example: Example) -> str:
    """The file and line that an example was read from, for a message; its id where it was not read."""
    if {"file", "line"} <= set(example.meta):
        return f"{example.meta['file']}, line {example.meta['line']}"
    return f"example {example.meta.get('id', '')}".strip()


def _token_span(span: tuple[int, int], starts: np.ndarray, ends: np.ndarray, where: str, example: Example):
    inside = np.flatnonzero((starts < span[1]) & (ends > span[0]) & (ends > starts))
    if not len(inside):
        raise DataError(
            "no token covers the needle", where=where, value=example.prompt[span[0] : span[1]],
            remedy="Check the needle's character offsets and that the tokenizer keeps this text.",
        )
    return int(inside[0]), int(inside[-1]) + 1
