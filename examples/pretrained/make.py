"""Make the files of this folder anew (see the card beside it).

    python examples/pretrained/make.py OFFICIAL_FILE    questions.jsonl
    python examples/pretrained/make.py --tables         the tables, with the model in models/smollm2

OFFICIAL_FILE is `nq-open-20_total_documents_gold_at_9.jsonl.gz` of Lost in the Middle, or its first 300 lines, which
hold all that is taken. No set of the study has these questions. Of each, three documents are kept: the gold one and
the first two others.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.official.formats import mdqa_source
from retrieval_heads.data.official.loaders import assemble
from retrieval_heads.data.official.records import read_records
from retrieval_heads.files import write_whole
from retrieval_heads.ten_questions import ATTENTION, LOSSES, RUNS, SCORES, at_hand, attention, losses, scores

FOLDER, ROOT = Path(__file__).parent, Path(__file__).parents[2]
N, DOCUMENTS = 10, 3
MOST_CHARACTERS = 24
"""Of an answer: short ones, as most of the test's are."""


def main(official: str) -> None:
    used = json.loads((ROOT / "data" / "written" / "records_mdqa.json").read_text(encoding="utf-8"))
    taken, found = {one for ids in used.values() for one in ids}, []
    for record in read_records(Path(official), None):
        source = mdqa_source(record, "sentence")
        if f"nq-open-20_total_documents_gold_at_9.first300.jsonl.gz:{source.line}" in taken:
            continue
        if len(source.marked) > 1 or len(source.answers[0]) > MOST_CHARACTERS or not source.meta["whole_words"]:
            continue
        kept = [index for index in range(len(source.documents)) if index not in source.marked][: DOCUMENTS - 1]
        kept.insert(len(found) % DOCUMENTS, *source.marked)
        found.append(assemble(source, kept, ""))
        if len(found) == N:
            break
    write_examples(FOLDER / "questions.jsonl", found)


def write_tables() -> None:
    """Compute everything that `ten_questions` reads where the model is not there."""
    if not at_hand():
        sys.exit("The model is not in models/smollm2: python -m retrieval_heads fetch smollm2 --to models")
    parts = [pd.DataFrame([(run, layer, head, value) for (layer, head), value in np.ndenumerate(scores(run))],
                          columns=["run", "layer", "head", "score"]) for run in RUNS]
    told = [losses(run).assign(run=run)[["run", "question", "none", "strongest", "random"]] for run in RUNS]
    for name, rows in ((SCORES, parts), (LOSSES, told)):
        write_whole(FOLDER / name, pd.concat(rows).to_csv(index=False, lineterminator="\n").encode())
    found = attention()
    packed = found | {"runs": {run: sparse(one) for run, one in found["runs"].items()}}
    text = json.dumps(packed, separators=(",", ":"), ensure_ascii=False)
    write_whole(FOLDER / ATTENTION, gzip.compress(text.encode(), mtime=0))


def sparse(values: np.ndarray) -> list[object]:
    """The shape, and the places and values of what is not 0."""
    flat = values.ravel()
    places = np.flatnonzero(flat)
    return [list(values.shape), places.tolist(), flat[places].round(2).tolist()]


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["--tables"] else main(sys.argv[1])
