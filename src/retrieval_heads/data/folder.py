"""A folder of examples in files, from which a study is made instead of from the generated world.

    FOLDER/TASK/CONDITION.jsonl                  training examples of a condition
    FOLDER/TASK/held_out/probe_LENGTH.jsonl      held-out real examples for the detection of heads
    FOLDER/TASK/held_out/test_LENGTH.jsonl       held-out real examples for scores

A mixture, a size or `real_shuffled` (`conditions.py`) needs no file of its own: without one it is made of the files of
its members, as in the generated world.

LENGTH is in tokens of the model; files may be gzipped (`.jsonl.gz`). `python -m retrieval_heads prepare` makes such a
folder from official files; one of your own needs the training length in `probe` and the evaluation lengths in `test`.
"""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from retrieval_heads import paths
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import swap_answers, token_counter
from retrieval_heads.data.jsonl import iterate_examples
from retrieval_heads.errors import ConfigError, DataError


def data_folder(data: str, profile: str) -> Path:
    """The folder `data` of a profile; `ConfigError` where there is none."""
    folder = paths.from_checkout(data)
    if not folder.is_dir():
        raise ConfigError("no such folder of examples", where=f"profile {profile}, data", value=data,
                          remedy="Make it by `python -m retrieval_heads prepare`, or give the folder of your files.")
    return folder


def training_file(
    folder: Path, task: str, condition: str, n: int, seed: int = 0, tokenizer: Any = None,
) -> Iterator[Example]:
    """The first `n` training examples of a condition, one at a time; `DataError` for a missing or shorter file.

    `seed` is that of the order in which answers are swapped, and `tokenizer` counts their tokens, so that no example
    gets too long; they matter for `real_shuffled` only.
    """
    if not made_of_others(folder / task, condition):
        yield from _each(folder / task / condition, task, n)
        return
    kind = kind_of(condition)
    if kind.short:
        raise DataError("short examples cannot be made of long ones", where=folder / task / f"{condition}.jsonl",
                        value="no such file", remedy="Make the file: prepare --short-length.")
    # of each index the example of the member whose turn it is, so that a mixture has the very examples of its members
    rows = zip(*(_each(folder / task / member, task, n) for member in kind.members), strict=True)
    examples = (row[index % len(row)] for index, row in enumerate(rows))
    if kind.shuffled:
        examples = swap_answers(list(examples), condition, random.Random(f"train|{task}|{condition}|{seed}"),
                                token_counter(tokenizer))
    yield from examples


def made_of_others(folder: Path, condition: str) -> bool:
    """Whether a task's folder has no file of the condition, and its examples are made of those of other ones."""
    return bool(kind_of(condition).members) and _file(folder / condition) is None


@lru_cache(maxsize=32)
def held_out_file(folder: Path, task: str, split: str, length: int, n: int) -> tuple[Example, ...]:
    """The first `n` held-out real examples of that length; `split` is `probe` or `test`. Raises as `training_file`."""
    return tuple(_each(folder / task / "held_out" / f"{split}_{length}", task, n))


def data_digest(data: str | None, task: str, condition: str) -> str | None:
    """16 hexadecimal digits that identify what a run reads: its training file, or those of its members, and the
    held-out ones of its task.

    None for a study of generated examples, and where the folder is not here (any more).
    """
    folder = data and paths.from_checkout(data) / task
    if not folder or not folder.is_dir():
        return None
    names = kind_of(condition).members if made_of_others(folder, condition) else (condition,)
    files = sorted([*(path for name in names for path in folder.glob(f"{name}.jsonl*")),
                    *(path for split in ("probe", "test") for path in folder.glob(f"held_out/{split}_*.jsonl*"))])
    digests = [
        f"{path.name.removesuffix('.gz')}:{_file_digest(path, path.stat().st_size, path.stat().st_mtime_ns)}"
        for path in files
    ]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, modified: int) -> str:
    """Of the text, packed or not; size and time are part of the cache's key."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(stem: Path) -> Path | None:
    candidates = (stem.with_name(stem.name + ending) for ending in (".jsonl", ".jsonl.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _each(stem: Path, task: str, n: int) -> Iterator[Example]:
    path, count = _file(stem), 0
    if path is None:
        there = sorted(path.name for path in stem.parent.glob("*.jsonl*")) if stem.parent.is_dir() else []
        raise DataError("no such file of examples", where=f"{stem}.jsonl", value=there,
                        remedy="Add it, or leave its task, condition or length out of the profile.")
    for example in iterate_examples(path, task, limit=n):
        count += 1
        yield example
    if count < n:
        raise DataError(f"the profile asks for {n} examples", where=path, value=count,
                        remedy="Add examples, or lower n_train, n_probe or n_test.")
