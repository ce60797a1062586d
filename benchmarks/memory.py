"""Largest memory of the verbs that read files, against the size of the file: it must not grow with it.

    python benchmarks/memory.py --gb 1 --out results/benchmarks/memory.csv

Each row is a process of its own, and its largest resident memory is what the system counted (`ru_maxrss`), Python and
libraries included; so every reader reads a file of two sizes, and the row of the small one says what that is. The files
are written to a temporary folder by this script: training examples in JSON Lines, and files in the official formats
with made-up words. `--train` is the number of training examples, of about 150 tokens.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WORDS = ("river", "stone", "lamp", "cloud", "bridge", "garden", "mirror", "violin", "harbour", "window", "candle")
PHRASES = tuple(" ".join(random.Random(number).choices(WORDS, k=8)) for number in range(500))
COLUMNS = ("reader", "records", "file_mb", "peak_mb", "seconds")


def text(rng: random.Random, words: int) -> str:
    """Made-up text, a phrase at a time, as drawing each word would take longer than reading them."""
    return " ".join(rng.choices(PHRASES, k=words // 8)) + "."


def training(rng: random.Random) -> Iterator[dict]:
    number = 0
    while True:
        number += 1
        needle = f"The key of room {number} is {rng.choice(WORDS)} {number}."
        answer = needle.rpartition(" is ")[2][:-1]
        body = f"{text(rng, 60)} {needle} {text(rng, 60)}"
        yield {"task": "own", "prompt": f"{body}\n\nQuestion: What is the key of room {number}?\nAnswer:",
               "answer": answer, "needles": [needle]}


def mdqa(rng: random.Random) -> Iterator[dict]:
    number = 0
    while True:
        number += 1
        gold = {"title": "Hall", "text": f"The hall was opened by Person{number}. {text(rng, 90)}", "isgold": True}
        others = [{"title": "Near", "text": text(rng, 100), "isgold": False} for _ in range(19)]
        yield {"question": f"who opened hall {number}", "answers": [f"Person{number}"], "ctxs": [*others, gold]}


def musique(rng: random.Random) -> Iterator[dict]:
    number = 0
    while True:
        number += 1
        steps = [f"Place{number}{letter}" for letter in "ab"]
        paragraphs = [{"idx": idx, "title": "T", "is_supporting": idx < 2, "paragraph_text":
                       (f"It leads to {steps[idx]}. " if idx < 2 else "") + text(rng, 80)} for idx in range(20)]
        yield {"id": f"2hop__{number}", "paragraphs": paragraphs, "question": f"Where does way {number} end?",
               "answer": steps[1], "answer_aliases": [], "answerable": True, "question_decomposition": [
                   {"id": idx, "question": "where", "answer": step, "paragraph_support_idx": idx}
                   for idx, step in enumerate(steps)]}


def summhay(rng: random.Random) -> Iterator[dict]:
    number = 0
    while True:
        number += 1
        insights = [{"insight_id": f"t{number}i{k}", "insight": f"Idea {number} {k} is good."} for k in range(2)]
        yield {"topic_id": f"t{number}", "subtopics": [{"insights": insights}], "documents": [
            {"document_text": text(rng, 700), "insights_included": [f"t{number}i{k % 2}"]} for k in range(100)]}


MADE: dict[str, Callable[[random.Random], Iterator[dict]]] = {
    "training": training, "mdqa": mdqa, "musique": musique, "summhay": summhay}


def write(path: Path, kind: str, size: float, count: int | None = None) -> int:
    """Records until the file has so many bytes, or so many records; SummHay as one JSON array on one line."""
    rng, array = random.Random(0), kind == "summhay"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[" if array else "")
        for number, record in enumerate(MADE[kind](rng)):
            if (number >= count) if count is not None else (file.tell() >= size and number):
                break
            file.write((", " * (array and number > 0)) + json.dumps(record) + ("" if array else "\n"))
        file.write("]" if array else "")
    return number


READERS = {
    "check": ("training", "main(['check', FILE, '--model', MODEL])"),
    "diagnose --train": ("training", "from retrieval_heads.diagnose import Request\n"
                         "from retrieval_heads.diagnose.inputs import read_inputs\n"
                         "read_inputs(Request(MODEL, {'a': Path(FILE)}, Path(PROBE), Path(OUT)))"),
    "rank --train": ("training", "from retrieval_heads.rank import Request, job\n"
                     "job.read_inputs(Request(MODEL, {'a': Path(FILE), 'b': Path(FILE)}, Path(PROBE), Path(OUT)))"),
    "finetune of a study": ("training", "from retrieval_heads.config import load_profile\n"
                            "from retrieval_heads.keys import study_grid\nfrom retrieval_heads.stages import finetune\n"
                            "finetune.finetune = lambda base, examples, *_: print(sum(len(e.ids) for e in examples))\n"
                            "profile = load_profile('smoke', data=DATA, n_train=RECORDS, conditions=['real'])\n"
                            "finetune.train(profile, study_grid(profile)[0], 'cpu')"),
    **{f"convert {task}": (task, f"main(['convert', '{task}', FILE, '--out', OUT + '.jsonl'])")
       for task in ("mdqa", "musique", "summhay")},
    **{f"load_{task}, limit 100": (task, f"official.load_{task}(FILE, 100)")
       for task in ("mdqa", "musique", "summhay")},
    "load_mdqa, whole": ("mdqa", "official.load_mdqa(FILE)"),
    **{f"prepare {task}": (task, f"main(['prepare', '--official', str(Path(FILE).parent), '--task', '{task}', "
                           "'--tokenizer', MODEL, '--out', OUT, '--length', '4000', '--train', '20', '--probe', '5', "
                           "'--test', '5'])") for task in ("mdqa",)},
}
NAMES = {"training": "mdqa/real.jsonl", "mdqa": "nq-open-made.jsonl", "musique": "musique_made.jsonl",
         "summhay": "topic_made.json"}


def measure(reader: str, folder: Path, path: Path, records: int) -> dict[str, str | float]:
    """One reader in a process of its own."""
    names = {"FILE": str(path), "MODEL": str(Path("models/base").resolve()), "PROBE": str(folder / "probe.jsonl"),
             "OUT": str(folder / "out"), "DATA": str(path.parent.parent), "RECORDS": records}
    program = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + (
        "from pathlib import Path\nfrom retrieval_heads.cli import main\nfrom retrieval_heads.data import official\n"
        f"{READERS[reader][1]}\n")
    start = time.perf_counter()
    program += "import resource\nprint('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    peak = int(done.stdout.split()[-1])
    return dict(zip(COLUMNS, (reader, records, round(path.stat().st_size / 1e6, 1), round(peak * 1024 / 1e6),
                              round(time.perf_counter() - start, 1)), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the official-style files")
    parser.add_argument("--train", type=int, default=50_000, help="lines of the training file")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.out.open("w", newline="", encoding="utf-8") as file, tempfile.TemporaryDirectory() as home:
        folder, rows = Path(home), csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        write(folder / "probe.jsonl", "training", 0, 8)
        for kind in MADE:
            chosen = [reader for reader in options.readers if READERS[reader][0] == kind]
            for part in (0.02, 1.0) if chosen else ():
                path = folder / kind / NAMES[kind]
                count = round(part * options.train) if kind == "training" else None
                records = write(path, kind, part * options.gb * 1e9, count)
                if kind == "training":
                    for name in ("test_256", "probe_256"):
                        write(path.parent / "held_out" / f"{name}.jsonl", kind, 0, 8)
                for reader in chosen:
                    row = measure(reader, folder, path, records)
                    rows.writerow(row)
                    file.flush()
                    print(row, flush=True)
                    for made in folder.glob("out*"):
                        subprocess.run(["rm", "-r", str(made)], check=True)
                path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
