"""Official files: where they come from (`origins.yaml` names places, licence, citation and sha256), their records with
what was left out and why, and the pool of all their documents, each text once, from which haystacks are drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic.dataclasses import dataclass

from retrieval_heads.data.markup import control_tokens, held_token
from retrieval_heads.data.official.formats import Source, mdqa_source, musique_source, summhay_source, topic_items
from retrieval_heads.data.official.loaders import built
from retrieval_heads.data.official.records import read_records
from retrieval_heads.errors import ConfigError, DataError

Text = tuple[str, str]
"""A document as `(title, text)`."""
REPEATED = "another record asks the same question"


@dataclass(frozen=True)
class Remote:
    """One file to download; `members` are taken out of a zip archive, which is then removed."""

    name: str
    url: str
    sha256: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """A task's official data: where it is described, its licence and citation, and its files."""

    task: str
    page: str
    licence: str
    citation: str
    files: tuple[Remote, ...]


@cache
def origins() -> dict[str, Origin]:
    """The origins of all tasks, from `origins.yaml`."""
    text = files("retrieval_heads").joinpath("origins.yaml").read_text(encoding="utf-8")
    return {task: Origin(task, **entry) for task, entry in yaml.safe_load(text).items()}


def origin(task: str) -> Origin:
    """A task's origin; `ConfigError` for an unknown task."""
    if task not in origins():
        raise ConfigError("unknown task", where="task", value=task, remedy=f"Give one of {', '.join(origins())}.")
    return origins()[task]


class _Reader(NamedTuple):
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
    """The files of a task in `FOLDER/TASK` or in `FOLDER` itself, by name; `DataError` where none is there."""
    folder = Path(folder)
    for place in (folder / task, folder):
        found = sorted(path for path in place.glob("*") if re.fullmatch(_READERS[task].pattern, path.name))
        if found:
            return found
    raise DataError(
        f"there is no official file of {task}", where=folder,
        remedy=f"Get the files with `python -m retrieval_heads fetch {task} --to FOLDER`; their names are those of the "
        "publishers.",
    )


def read_sources(task: str, paths: Sequence[Path], dropped: Counter[str] | None = None) -> list[Source]:
    """All usable records of the files, with the loaders' default needles; `dropped` counts the others by reason."""
    reader = _READERS[task]
    counted: Counter[str] = Counter() if dropped is None else dropped
    return [
        source for path in paths
        for source in built(reader.items(path), lambda item: reader.source(item, reader.needle), "drop", counted)
    ]


def without_repeats(sources: Sequence[Source], dropped: Counter[str] | None = None) -> list[Source]:
    """One record per question (whatever its case and punctuation): the one with the most documents, first of equals.

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
    found = cache(lambda text: held_token(text, tokens))  # the insights of a topic share its documents
    kept = []
    for source in read:
        texts = (source.question, *source.answers, *(part for document in source.documents for part in document))
        if any(map(found, texts)):
            dropped["a text holds a control token of the tokenizer"] += 1
        else:
            kept.append(source)
    return kept


def text_key(text: str) -> str:
    """What makes two documents the same one: their text, whatever its case and white space."""
    return " ".join(text.split()).casefold()


class Pool:
    """By `text_key`, the documents of records (the first title of a text is kept), and the ids of the records of which
    a document is gold."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.documents: dict[str, Text] = {}
        self.gold_of: dict[str, set[str]] = {}
        key_of = cache(text_key)  # the insights of a topic share its documents
        for source in sources:
            for index, (title, text) in enumerate(source.documents):
                key = key_of(text)
                self.documents.setdefault(key, (title, text))
                if index in source.marked:
                    self.gold_of.setdefault(key, set()).add(source.id)
        self.items = list(self.documents.items())  # to draw from

    def __len__(self) -> int:
        return len(self.documents)
