"""The two official files of `mdqa` that the pretrained study is made from: all golds, and 300 records of 20 documents.

    python tools/pretrained_official.py --to official/mdqa

Downloads what is not there into a folder of its own below. Of the file with the gold passage at place 9 the first 300
records are kept, in a file of the name that `data/written/records_mdqa.json` has; the study's haystacks are drawn from
these two files alone.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

from retrieval_heads.data.official.sources import Remote, origin
from retrieval_heads.errors import DataError, StudyError
from retrieval_heads.fetch import fetch
from retrieval_heads.files import UNREADABLE, write_whole

ORACLE, WHOLE = "nq-open-oracle.jsonl.gz", "nq-open-20_total_documents_gold_at_9.jsonl.gz"
CUT, RECORDS = "nq-open-20_total_documents_gold_at_9.first300.jsonl.gz", 300
DIGEST = "ba9f4a42684cca3faccc0b89f026dd25fd85dd576e2d832e10da69ed2f6460f1"
"""Of questions, answers and documents of these records, whatever else stands in them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", required=True, type=Path, help="folder for the two files")
    try:
        provide(parser.parse_args().to)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from None


def provide(folder: Path) -> None:
    """Put the two files into the folder, those that are not there."""
    known = origin("mdqa")
    oracle = next(remote for remote in known.files if remote.name == ORACLE)
    whole = Remote(WHOLE, f"{oracle.url.rpartition('/')[0]}/20_total_documents/{WHOLE}")
    wanted = [one for one, name in ((oracle, ORACLE), (whole, CUT)) if not (folder / name).is_file()]
    for path in fetch(replace(known, files=tuple(wanted)), folder / "downloads") if wanted else ():
        content = gzip.compress(first_records(path), mtime=0) if path.name == WHOLE else path.read_bytes()
        write_whole(folder / (CUT if path.name == WHOLE else path.name), content)
    print(f"{folder}: {ORACLE} and {CUT}")


def first_records(path: Path) -> bytes:
    """The first records of the whole file as they stand there; `DataError` where they are not those of the study."""
    try:
        with gzip.open(path, "rb") as file:
            lines = [line for line, _ in zip(file, range(RECORDS), strict=False)]
        found = digest(lines)
    except (EOFError, *UNREADABLE) as error:
        found = f"{type(error).__name__}: {error}"
    if found != DIGEST:
        raise DataError("the first records are not those of the study", where=path, value=found,
                        remedy="Delete the file and try again. If it stays so, the publisher has changed it, and the "
                        "study cannot be made again from it.")
    return b"".join(lines)


def digest(lines: list[bytes]) -> str:
    """sha256 of questions, answers and documents."""
    kept = [
        [record["question"], record["answers"], [[one["title"], one["text"], one["isgold"]] for one in record["ctxs"]]]
        for record in map(json.loads, lines)
    ]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


if __name__ == "__main__":
    main()
