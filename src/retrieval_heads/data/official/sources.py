"""The records of a task's official files, with what was left out and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval_heads.data.markup import control_tokens, held_token
from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.mdqa import mdqa_source
from retrieval_heads.data.official.musique import musique_source
from retrieval_heads.data.official.records import read_records
from retrieval_heads.data.official.summhay import summhay_source, topic_items
from retrieval_heads.data.official.usable import built, check_choice
from retrieval_heads.errors import DataError

REPEATED = "another record asks the same question"


@dataclass(frozen=True)
class _Reader:
    pattern: str
    items: Callable[[Path], Iterator[Any]]
    source: Callable[[Any, str], Source]
    needle: str


_READERS = {
    "mdqa": _Reader(r"nq-open-.*\.jsonl?(\.gz)?", read_records, mdqa_source, "sentence"),
    "musique": _Reader(r"musique_.*\.jsonl?(\.gz)?", read_records, musique_source, "sentence"),
    "summhay": _Reader(r"topic_.*\.jsonl?(\.gz)?", topic_items, summhay_source, "document"),
}


def official_files(folder: str | Path, task: str) -> list[Path]:
    """The files of a task in `FOLDER/TASK` or in `FOLDER` itself, by name.

    Raises:
        DataError: none is there.
        ConfigError: an unknown task.
    """
    check_choice("task", task, tuple(_READERS))
    folder = Path(folder)
    for place in (folder / task, folder):
        files = sorted(path for path in place.glob("*") if re.fullmatch(_READERS[task].pattern, path.name))
        if files:
            return files
    raise DataError(
        f"there is no official file of {task}", where=folder,
        remedy=f"Get the files with `python -m retrieval_heads fetch {task} --to FOLDER`; their names are those of the "
        "publishers.",
    )


def read_sources(task: str, files: Sequence[Path], dropped: Counter[str] | None = None) -> list[Source]:
    """All usable records of the files, with the loaders' default needles.

    Args:
        dropped: counts what was left out by reason.

    Raises:
        DataError: a file or record that is not in the official format, or a file without a usable record.
    """
    reader = _READERS[task]
    counted: Counter[str] = Counter() if dropped is None else dropped
    return [
        source for path in files
        for source in built(reader.items(path), lambda item: reader.source(item, reader.needle), "drop", counted)
    ]


def without_repeats(sources: Sequence[Source], dropped: Counter[str] | None = None) -> list[Source]:
    """One record a question (whatever its case and punctuation): the one with the most documents, the first of equals.

    Files of multi-document question answering ask the same questions with other documents.
    """
    best: dict[str, Source] = {}
    for source in sources:
        key = " ".join(re.findall(r"\w+", source.question.casefold()))
        if key not in best or len(source.documents) > len(best[key].documents):
            best[key] = source
    if dropped is not None and len(best) < len(sources):
        dropped[REPEATED] += len(sources) - len(best)
    chosen = {id(source) for source in best.values()}
    return [source for source in sources if id(source) in chosen]


def without_control_tokens(read: Sequence[Source], tokenizer: Any, dropped: Counter[str]) -> list[Source]:
    """The records whose texts the tokenizer reads as text; `<s>` in one would open a sequence in its middle."""
    tokens = control_tokens(tokenizer)
    held: dict[str, bool] = {}  # the insights of a topic share its documents
    kept = []
    for source in read:
        texts = (source.question, *source.answers, *(part for document in source.documents for part in document))
        for text in texts:
            if text not in held:
                held[text] = held_token(text, tokens) is not None
        if any(held[text] for text in texts):
            dropped["a text holds a control token of the tokenizer"] += 1
        else:
            kept.append(source)
    return kept
