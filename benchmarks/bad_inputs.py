"""Bad inputs by the thousand: does each end with an error of ours that says what to do, and leave no file behind?

    PYTHONPATH=tests python benchmarks/bad_inputs.py --n 1560 --out results/benchmarks

A valid input of each surface is spoilt by a fault that a seeded generator draws (`faults.py`), and given to the package
as a user gives it. Counted for each surface and fault: our errors, those with a remedy, other exceptions, files left
behind, and inputs that were accepted because they are still valid. Nothing is trained: where a command would begin to
train, it has accepted its input.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bad_commands import COMMANDS
from bad_files import FILES, Valid
from bad_results import RESULTS
from limits import without_override
from transformers import Trainer

from retrieval_heads import cli
from retrieval_heads.errors import StudyError

COLUMNS = ("surface", "fault", "n", "our_error", "with_remedy", "other_exception", "files_left", "accepted")
SURFACES = {**FILES, **RESULTS, **COMMANDS}


class BegunError(BaseException):
    """Stands for the work that begins with an input that was accepted."""


@dataclass(frozen=True)
class Case:
    """One bad input and what came of it: `ours`, `other` or `accepted`."""

    surface: str
    fault: str
    outcome: str
    remedy: bool
    left: tuple[str, ...]
    told: str


def try_one(surface: str, seed: int, valid: Valid, folder: Path) -> Case:
    """Spoil a valid input in an empty folder and give it to the package."""
    rng = random.Random(f"{surface} {seed}")
    fault, call = SURFACES[surface](rng, valid, folder)
    before, told = set(_files(folder)), io.StringIO()
    error: BaseException | None = None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        warnings.simplefilter("ignore")
        try:
            with without_override():
                call()
        except BaseException as raised:
            error = raised
    left = tuple(sorted(set(_files(folder)) - before))
    if error is None or isinstance(error, BegunError):
        return Case(surface, fault, "accepted", False, (), "")
    if isinstance(error, StudyError):
        return Case(surface, fault, "ours", bool(error.remedy), left, str(error))
    if isinstance(error, SystemExit) and error.code == 2:  # argparse, whose usage is the remedy
        return Case(surface, fault, "ours", "usage:" in told.getvalue(), left, told.getvalue())
    return Case(surface, fault, "other", False, left, "".join(traceback.format_exception(error)))


def cases(n: int, seed: int, surfaces: list[str] | None = None) -> Iterator[Case]:
    """About `n` cases, spread evenly over the surfaces."""
    chosen = surfaces or list(SURFACES)
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        with contextlib.redirect_stdout(io.StringIO()):
            valid = Valid.make(Path(home) / "valid")
        stack.enter_context(nothing_begins())
        for number in range(-(-n // len(chosen))):
            for surface in chosen:
                folder = Path(home) / "case"
                folder.mkdir()
                yield try_one(surface, seed + number, valid, folder)
                for path in folder.rglob("*"):
                    if not path.is_symlink():
                        path.chmod(0o755)
                shutil.rmtree(folder)


def table(found: list[Case]) -> list[dict[str, str | int]]:
    """One row a surface and fault."""
    rows = []
    for surface, fault in sorted({(case.surface, case.fault) for case in found}):
        own = [case for case in found if (case.surface, case.fault) == (surface, fault)]
        count = Counter(case.outcome for case in own)
        rows.append(dict(zip(COLUMNS, (
            surface, fault, len(own), count["ours"], sum(case.remedy for case in own), count["other"],
            sum(bool(case.left) for case in own), count["accepted"],
        ), strict=True)))
    return rows


def summary(rows: list[dict[str, str | int]]) -> list[dict[str, str | int]]:
    """One row a surface, and one for all."""
    found = []
    for surface in [*dict.fromkeys(row["surface"] for row in rows), "all"]:
        own = [row for row in rows if surface in ("all", row["surface"])]
        found.append({"surface": surface, **{name: sum(int(row[name]) for row in own) for name in COLUMNS[2:]}})
    return found


def write(path: Path, rows: list[dict[str, str | int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextlib.contextmanager
def nothing_begins() -> Iterator[None]:
    """The command line hands on its errors, and a training counts as begun."""
    def raised(error: StudyError) -> int:
        raise error

    def begun(*_: object, **__: object) -> None:
        raise BegunError

    told: Callable = cli._told
    train = Trainer.train
    cli._told, Trainer.train = raised, begun
    try:
        yield
    finally:
        cli._told, Trainer.train = told, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1560, help="number of bad inputs (default 1560)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--surfaces", nargs="+", choices=sorted(SURFACES))
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for bad_inputs.csv and bad_inputs_summary.csv")
    parser.add_argument("--show", action="store_true", help="print errors that are not ours, and files left behind")
    options = parser.parse_args()
    found = list(cases(options.n, options.seed, options.surfaces))
    for case in found:
        if case.outcome == "other" or case.left or (case.outcome == "ours" and not case.remedy):
            print(f"{case.surface}: {case.fault}: left {case.left}\n{case.told if options.show else ''}")
    rows = table(found)
    if options.out:
        write(options.out / "bad_inputs.csv", rows)
        write(options.out / "bad_inputs_summary.csv", summary(rows))
    total = {name: sum(row[name] for row in rows) for name in COLUMNS[2:]}
    print(", ".join(f"{name} {count}" for name, count in total.items()))
    return int(total["other_exception"] + total["files_left"] > 0 or total["our_error"] > total["with_remedy"])


if __name__ == "__main__":
    sys.exit(main())
