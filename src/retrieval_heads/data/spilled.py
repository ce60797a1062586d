"""Training examples as tokens in a file without a name, so that a set of any size takes next to no memory.

A token takes 4 bytes on the disk, in the system's folder for temporary files (`TMPDIR`), which are free again when the
process ends, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.files import unwritable

TOGETHER = 16
"""Examples that are tokenised at a time."""


class Spilled(Sequence[Encoded]):
    """What training needs of encoded examples, read from the file when it is asked for: no needles, no question.

    In memory are 24 bytes an example.

    Args:
        examples: read once, one after the other.
        tokenizer, max_length: as in `encode_all`.

    Raises:
        DataError, ModelError: as in `encode_all`.
        ResultError: the file cannot be written.
    """

    def __init__(self, examples: Iterable[Example], tokenizer: Any, max_length: int | None = None) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed with this object
        self._starts, self._prompts, self._answers = array("q", [0]), array("q"), array("q")
        left = iter(examples)
        try:
            while some := list(islice(left, TOGETHER)):
                for one in encode_all(some, tokenizer, max_length):
                    self._append(one)
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from error

    def _append(self, one: Encoded) -> None:
        self._file.write(array("I", one.ids).tobytes())
        self._starts.append(self._starts[-1] + len(one.ids))
        self._prompts.append(one.prompt_length)
        self._answers.append(one.answer_length)

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        ids, start = array("I"), self._starts[place]
        ids.frombytes(os.pread(self._file.fileno(), 4 * (self._starts[place + 1] - start), 4 * start))
        return Encoded(tuple(ids), self._prompts[place], self._answers[place], ())
