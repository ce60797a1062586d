"""Training questions that are named: a list of ids, so that texts written for them find their examples again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from retrieval_heads.data.official.assemble import Source
from retrieval_heads.data.official.records import read_lines
from retrieval_heads.errors import DataError


def read_ids(path: str | Path) -> tuple[str, ...]:
    """The ids of a file, each once, in its order: one a line, or the `id` of each record of JSON Lines; gzipped or not.

    Raises:
        DataError: the file cannot be read, holds none, or a record has no `id`.
    """
    ids: dict[str, None] = {}
    for number, line in read_lines(path):
        if text := line.strip():
            ids[_id(text, f"{path}, line {number}")] = None
    if not ids:
        raise DataError("the file holds no id", where=path, remedy="Give one a line, or JSON Lines with `id`.")
    return tuple(ids)


def _id(text: str, where: str) -> str:
    if not text.startswith(("{", "[", '"')):
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    found = record.get("id") if isinstance(record, dict) else None
    if not isinstance(found, str) or not found:
        raise DataError("the record has no id", where=where, value=text[:60], remedy='Give it as `"id"`, a text.')
    return found


def named(sources: Sequence[Source], ids: Sequence[str]) -> list[Source]:
    """The records of these ids, in their order; `DataError` names those that are not there."""
    by_id = {source.id: source for source in sources}
    absent = [one for one in ids if one not in by_id]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(ids)} named training questions are not among the usable records",
            where="--train-ids", value=absent[:5],
            remedy="Give the official files that the ids were made from, under the same names; a question that several "
            "files ask has the id of the record with the most documents.",
        )
    return [by_id[one] for one in ids]
