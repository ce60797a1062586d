"""From text to tokens: an example's ids, its answer positions and its needles as token spans, in memory or on the disk.

Spans come from the offsets of a fast tokenizer, so any tokenizer with offsets works, and a needle that cannot be
mapped raises instead of being dropped.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_heads.data.example import Example
from retrieval_heads.data.markup import control_tokens
from retrieval_heads.data.prompt_format import QUESTION
from retrieval_heads.errors import DataError, ModelError
from retrieval_heads.files import unwritable

TOGETHER = 16
"""Examples that are tokenised at a time when they go to the disk."""

_AT_THE_SEAM = (
    "Nothing stands between this prompt and its answer (`joint`), as after a chat template that ends the prompt: give "
    "a `joint` of a space or a line break, or a template that ends in a line break or a special token."
)


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        ids: prompt, answer and the token that ends it: the chat template's where one wrote the prompt and has one, else
            the tokenizer's end of sequence, if it has that.
        prompt_length: number of prompt tokens; the first answer token is `ids[prompt_length]`.
        answer_length: number of answer tokens without the one that ends it.
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
    def end(self) -> tuple[int, ...]:
        """The token that ends the answer, if there is one."""
        return self.ids[self.prompt_length + self.answer_length :]

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


def encode(
    example: Example, tokenizer: Any, max_length: int | None = None, vocabulary: int | None = None,
) -> Encoded:
    """Tokenise one example; see `encode_all`."""
    return encode_all([example], tokenizer, max_length, vocabulary)[0]


def encode_all(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None = None, vocabulary: int | None = None,
) -> list[Encoded]:
    """Tokenise examples, prompt and answer in one piece so that the answer's tokens are those a reader would see.

    The tokens that the tokenizer puts before a text (`<s>`, say) come once: not before the text of a chat template,
    which has them if the model is to see them, and not before a prompt that is written with them. The size of the
    model's vocabulary is by default what `load_tokenizer` knows.

    Raises:
        ModelError: the tokenizer is not a fast one (no offsets).
        DataError: more than `max_length` tokens; ids beyond the model's; a prompt whose tokens change when the answer
            follows; a needle that no token covers; a control token where none may be.
    """
    if not examples:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer gives no character offsets", where=type(tokenizer).__name__,
            remedy="Use a fast tokenizer (a folder with tokenizer.json).",
        )
    frame = _Frame(tokenizer, max_length, vocabulary or getattr(tokenizer, "model_vocabulary", None))
    # verbose=False: the length warning of the tokenizer is replaced by our own check below
    batch = tokenizer([example.text for example in examples], return_offsets_mapping=True, verbose=False,
                      add_special_tokens=False)
    return [frame.encoded(*each) for each in zip(examples, batch["input_ids"], batch["offset_mapping"], strict=True)]


class _Frame:
    """What a tokenizer and a chat template put around a text, and the limits of the model that reads it."""

    def __init__(self, tokenizer: Any, max_length: int | None, vocabulary: int | None) -> None:
        self._tokenizer, self._max_length, self._vocabulary = tokenizer, max_length, vocabulary
        self._control = frozenset(control_tokens(tokenizer).values())
        marked = tokenizer("a", return_special_tokens_mask=True)
        pairs = zip(marked["input_ids"], marked["special_tokens_mask"], strict=True)
        self._before = [one for one, _ in takewhile(lambda pair: pair[1], pairs)]
        self._written = "".join(tokenizer.convert_ids_to_tokens(self._before))

    def encoded(self, example: Example, ids: list[int], offsets: list[tuple[int, int]]) -> Encoded:
        """The example, given the tokens of its text and their places in it; raises as `encode_all`."""
        where = example.place
        written = example.chat_template is not None or example.prompt.startswith(self._written)
        before = [] if written else self._before
        # those before the text have no place in it, and count to the prompt
        ids = [*before, *ids]
        bounds = np.asarray([*[(0, 0)] * len(before), *offsets], dtype=np.int64).reshape(-1, 2)  # also without a token
        starts, ends = bounds[:, 0], bounds[:, 1]
        boundary = len(example.prompt)
        prompt_length = int(np.count_nonzero(ends <= boundary))
        answer_length = len(ids) - prompt_length
        if ((starts < boundary) & (ends > boundary)).any():
            raise DataError(
                "the last characters of the prompt and the answer share a token", where=where,
                value=example.prompt[-20:] + example.joint + example.answer[:20],
                remedy=_AT_THE_SEAM if not example.joint else "End the prompt with punctuation.",
            )
        if answer_length < 1:
            raise DataError(
                "the tokenizer has no token for the answer", where=where, value=example.answer[:20],
                remedy="Give an answer that it can write, or use another tokenizer.",
            )
        self._refuse_control(example, ids, prompt_length)
        needles = tuple(_token_span(span, starts, ends, example) for span in example.needles)
        if (end := self._end(example)) is not None:
            ids.append(end)
        check_ids(ids, self._vocabulary, where)
        if self._max_length is not None and len(ids) > self._max_length:
            raise DataError(
                f"{len(ids)} tokens are more than the allowed {self._max_length}", where=where,
                value=example.prompt[:60],
                remedy="Make shorter examples (`length`), or extend the model (RoPE theta) and raise the limit.",
            )
        question = example.prompt.rfind(QUESTION)
        begins = int(np.count_nonzero(ends <= question)) if question >= 0 else None
        return Encoded(tuple(ids), prompt_length, answer_length, needles, begins)

    def _refuse_control(self, example: Example, ids: list[int], prompt_length: int) -> None:
        """`DataError` for a control token in the answer, or in a prompt that no template wrote, behind its opening."""
        opening = len(self._before) or ids[:1] == [self._tokenizer.bos_token_id]
        inside = ids[opening:prompt_length] if example.chat_template is None else []
        for part, name, remedy in (
            (ids[prompt_length:], "answer", "Give the answer's text alone: what ends it is added."),
            (inside, "prompt", "Take it out of the text; or, where a chat template wrote the prompt, say so by the key "
             "`chat_template` (as {})."),
        ):
            if found := self._control.intersection(part):
                raise DataError(f"the {name} holds a control token of the tokenizer", where=example.place,
                                value=self._tokenizer.convert_ids_to_tokens(min(found)), remedy=remedy)

    def _end(self, example: Example) -> int | None:
        """The token that ends the answer; None without any."""
        text = (example.chat_template or {}).get("end")
        if text is None:
            return self._tokenizer.eos_token_id
        if text not in self._tokenizer.get_added_vocab():
            raise DataError(
                "the end of a turn of the chat template is not a token of the tokenizer",
                where=example.place, value=text,
                remedy="Write the example out again for this model, by the template of its own tokenizer.",
            )
        return self._tokenizer.convert_tokens_to_ids(text)


def filled_up(rows: Sequence[Sequence[int]], multiple: int = 1) -> list[list[int]]:
    """The rows, each filled up on the right to the longest, or on to a `multiple`, by its own last token; an empty row
    by that of the longest.

    Nothing attends to what fills up, but a zero times NaN is NaN: a token that no row has could have such an embedding.
    """
    longest = max(rows, key=len, default=())
    length = -(-len(longest) // multiple) * multiple
    return [[*row, *list(row[-1:] or longest[-1:]) * (length - len(row))] for row in rows]


def check_ids(ids: Sequence[int], vocabulary: int | None, where: str) -> None:
    """`DataError` for an id that a model with a vocabulary of so many has no embedding for; None checks nothing."""
    if vocabulary is not None and ids and max(ids) >= vocabulary:
        raise DataError(
            f"a token id is beyond the {vocabulary} of the model", where=where, value=max(ids),
            remedy="Use the model's own tokenizer, or resize the model's embeddings to the tokenizer and train them.",
        )


def _token_span(span: tuple[int, int], starts: np.ndarray, ends: np.ndarray, example: Example) -> tuple[int, int]:
    inside = np.flatnonzero((starts < span[1]) & (ends > span[0]) & (ends > starts))
    if not len(inside):
        raise DataError(
            "no token covers the needle", where=example.place, value=example.prompt[span[0] : span[1]],
            remedy="Check the needle's character offsets and that the tokenizer keeps this text.",
        )
    return int(inside[0]), int(inside[-1]) + 1


class Spilled(Sequence[Encoded]):
    """Training examples as tokens in a file without a name, so that a set of any size takes next to no memory.

    A token takes 4 bytes on the disk, in the system's folder for temporary files (`TMPDIR`), which are free again when
    the process ends, however it ends; an example takes 24 bytes in memory. Needles and questions are not kept.
    """

    def __init__(self, examples: Iterable[Example], tokenizer: Any, max_length: int | None = None) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed with this object
        self._starts, self._prompts, self._answers = array("q", [0]), array("q"), array("q")
        left = iter(examples)
        try:
            while some := list(islice(left, TOGETHER)):
                for one in encode_all(some, tokenizer, max_length):
                    self._file.write(array("I", one.ids).tobytes())
                    self._starts.append(self._starts[-1] + len(one.ids))
                    self._prompts.append(one.prompt_length)
                    self._answers.append(one.answer_length)
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from error

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Encoded:
        place = range(len(self))[index]
        ids, start = array("I"), self._starts[place]
        ids.frombytes(os.pread(self._file.fileno(), 4 * (self._starts[place + 1] - start), 4 * start))
        return Encoded(tuple(ids), self._prompts[place], self._answers[place], ())
