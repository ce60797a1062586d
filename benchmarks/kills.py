"""SIGKILL at random moments: does the same command, given again, end with the bytes of a run that was left alone?

    python benchmarks/kills.py --n 100 --jobs 12 --out FOLDER      # a CPU is enough; a process takes one core

Tried are the compute stages of the profile `smoke` (`study`: by `run all`, alone and with two worker processes, and by
`grid`) and `diagnose` on a small case. One run of each is left alone: the reference. Then a run in a folder of its own
is started and killed again and again until it has had its share of kills, and last it is let go to its end. The moments
are drawn uniformly over the reference's time from start to end, and are put in order: each kill falls as much later in
the work than the one before as it was drawn later. Only the main process is killed, as by the system when memory runs
out; worker processes have to notice. Those that have not after 10 s are killed too, and are counted.

Equal means: the same files, each with the same bytes, but for times, commits and process numbers (`NOT_COMPARED`). What
the reference has no file for, such as a file half written under a hidden name, counts as left.

`kills.csv` gets the rows of each run when it ends, `kills_summary.csv` one row for each of the two when all are there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
}
COLUMNS = ("what", "number", "run", "verb", "moment", "at_work", "equal", "files_left", "processes_left", "seconds")
NOT_COMPARED = ("seconds", "git")
"""Fields of a manifest that differ between two equal runs. The file `timing.json` of an adapter is left out as well."""


@dataclass(frozen=True)
class Case:
    """One of the two things that are killed.

    Attributes:
        verbs: the command lines that are killed, in turn; `{home}` stands for the folder of the run.
        last: the command line that ends each run, and makes the reference.
    """

    name: str
    verbs: tuple[str, ...]
    last: str


@dataclass(frozen=True)
class Reference:
    """A run that was left alone: the digest of each of its files, its time, and that of the imports, in seconds."""

    files: dict[str, str]
    seconds: float
    startup: float


def study(folder: Path) -> Case:
    end = "--profile smoke --home {home}"
    return Case("study", (f"run all {end}", f"run all --workers 2 {end}", f"grid --workers 2 {end}"), f"run all {end}")


def diagnosis(folder: Path) -> Case:
    """Two sets and a real one of 8 examples of 256 tokens, 8 examples to evaluate on."""
    for name, condition, split in (("high", "high_high", "train"), ("symbolic", "symbolic", "train"),
                                   ("real", "real", "train"), ("eval", "real", "test")):
        finish(f"export --task mdqa --condition {condition} --length 256 --n 8 --split {split} "
               f"--out {folder / name}.jsonl")
    verb = (f"diagnose --model {ROOT / 'models' / 'base'} --train high={folder / 'high.jsonl'} --device cpu --epochs 2 "
            f"--train symbolic={folder / 'symbolic.jsonl'} --real-train {folder / 'real.jsonl'} --draws 1 "
            f"--eval {folder / 'eval.jsonl'} --out {{home}}/out")
    return Case("diagnose", (verb,), verb)


CASES: dict[str, Callable[[Path], Case]] = {"study": study, "diagnose": diagnosis}


def start(verb: str) -> subprocess.Popen[str]:
    """A process of the command line in a process group of its own."""
    return subprocess.Popen([sys.executable, "-m", "retrieval_heads", *verb.split()], env=ENVIRONMENT, cwd=ROOT,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(verb: str) -> None:
    """Run a command line to its end; `RuntimeError` with what it said where it failed."""
    process = start(verb)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{verb} ended with {process.returncode}: {said}")


def kill(verb: str, seconds: float) -> tuple[bool, bool]:
    """Start and kill; whether the process was at work until then, and whether it left processes behind."""
    process, said, left = start(verb), "", False
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.communicate(timeout=10)  # ends when worker processes, which share the pipe, have ended too
        except subprocess.TimeoutExpired:
            left = True
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{verb} ended with {process.returncode}: {said}")
    return process.returncode != 0, left


def digests(home: Path) -> dict[str, str]:
    """The digest of each file below a folder, without what differs between equal runs."""
    found = {}
    for path in (path for path in home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "timing.json":
            content = b""
        elif path.suffix == ".json" and b'"config_hash"' in content:
            manifest = json.loads(content)
            content = json.dumps({key: value for key, value in manifest.items() if key not in NOT_COMPARED}).encode()
        found[str(path.relative_to(home))] = hashlib.sha256(content).hexdigest()
    return found


def reference(case: Case, home: Path) -> Reference:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import retrieval_heads.stages.grid"], env=ENVIRONMENT, check=True)
    startup, began = time.monotonic() - began, time.monotonic()
    finish(case.last.format(home=home))
    return Reference(digests(home), time.monotonic() - began, startup)


def killed_run(case: Case, known: Reference, folder: Path, kills: int, number: int) -> list[dict[str, object]]:
    """One run that is killed so many times and then ends: its rows."""
    rng, rows, before = random.Random(f"{case.name} {number}"), [], 0.0
    moments = sorted(rng.random() for _ in range(kills))
    with tempfile.TemporaryDirectory(dir=folder) as home:
        verb = case.verbs[number % len(case.verbs)].format(home=home)
        for moment in moments:
            began = time.monotonic()
            # what is done is skipped, so a later start needs its imports and then goes on where the last one stopped
            at_work, left = kill(verb, (moment - before) * known.seconds + (known.startup if rows else 0))
            rows.append({
                "what": case.name, "run": number, "verb": verb.partition(" --")[0], "moment": round(moment, 4),
                "at_work": at_work, "processes_left": left, "seconds": round(time.monotonic() - began, 2),
            })
            before = moment
        try:
            finish(case.last.format(home=home))
            found = digests(Path(home))
        except (RuntimeError, ValueError) as error:
            print(f"{case.name} {number}: {error}", flush=True)
            found = {}
    differing = sorted(name for name, digest in known.files.items() if found.get(name) != digest)
    left = sorted(set(found) - set(known.files))
    if differing or left:
        print(f"{case.name} {number}: differing {differing[:5]}, left {left[:5]}", flush=True)
    return [{**row, "equal": not differing, "files_left": len(left)} for row in rows]


def all_kills(
    case: Case, known: Reference, folder: Path, n: int, each: int, jobs: int,
) -> Iterator[list[dict[str, object]]]:
    """The rows of run after run, until so many kills have hit a process at work."""
    number = hit = 0
    with ThreadPoolExecutor(jobs) as pool:
        while hit < n:
            shares = [min(each, n - hit - begun) for begun in range(0, n - hit, each)]
            runs = range(number, number + len(shares))
            for rows in pool.map(partial(killed_run, case, known, folder), shares, runs):
                hit += sum(bool(row["at_work"]) for row in rows)
                yield rows
            number += len(shares)


def summary(rows: list[dict[str, object]], known: Reference) -> dict[str, object]:
    hit = [row for row in rows if row["at_work"]]
    moments = [float(row["moment"]) for row in hit]
    return {
        "what": rows[0]["what"], "kills": len(hit), "runs": len({row["run"] for row in rows}),
        "equal": sum(bool(row["equal"]) for row in hit),
        "files_left": sum({row["run"]: int(row["files_left"]) for row in rows}.values()),
        "processes_left": sum(bool(row["processes_left"]) for row in hit), "first_moment": min(moments),
        "median_moment": round(statistics.median(moments), 4), "last_moment": max(moments),
        "reference_seconds": round(known.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--n", type=int, default=100, help="kills of each, of processes at work (default 100)")
    parser.add_argument("--each", type=int, default=5, help="most kills of one run (default 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    summaries: list[dict[str, object]] = []
    with open(given.out / "kills.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for what in given.what:
            with tempfile.TemporaryDirectory(prefix="kills-") as name:
                folder, rows, began = Path(name), [], time.monotonic()
                case = CASES[what](folder)
                known = reference(case, folder / "reference")
                print(f"{what}: reference {known.seconds:.1f} s, imports {known.startup:.1f} s", flush=True)
                for made in all_kills(case, known, folder, given.n, given.each, given.jobs):
                    made = [{**row, "number": len(rows) + place} for place, row in enumerate(made, 1)]
                    rows += made
                    table.writerows(made)
                    file.flush()
                    print(f"{what}: {len(rows)} kills, {sum(bool(row['equal']) for row in rows)} of runs that ended "
                          f"equal, {time.monotonic() - began:.0f} s", flush=True)
                summaries.append(summary(rows, known))
    with open(given.out / "kills_summary.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, summaries[0])
        table.writeheader()
        table.writerows(summaries)


if __name__ == "__main__":
    main()
