"""Run the notebooks and build the book: `python -m tools.book {study,run,store,report,check,build}`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retrieval_heads.errors import StudyError
from retrieval_heads.files import clear_shortages, write_whole
from retrieval_heads.stages.provide import AS_IS
from tools.book import NotebookError

try:
    import nbformat
    import yaml

    from tools.book.build import build_book, build_html, gather_pages, report_problems, stored_problems
    from tools.book.layout import (
        REPORT_PROFILE,
        STORED_PROFILE,
        Layout,
        duration,
        read_status,
        record,
        table_digests,
        write_status,
    )
    from tools.book.links import one_deeper
    from tools.book.run import Pace, execute
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed. Install what the book needs: pip install -e '.[book]'")

EXAMPLES = """examples:
  python -m tools.book study                      what `make study` does: run all, build as pages come
  python -m tools.book run --profile quick        all chapters, into book/chapters/
  python -m tools.book run --chapters 00 03       these alone
  python -m tools.book store                      the outputs kept beside the sources
  python -m tools.book report                     the pages of the report, from its tables
  python -m tools.book check                      are those whole, and do they agree with the sources?
  python -m tools.book build                      the book, of what is there
"""


def run_chapters(
    layout: Layout, options: argparse.Namespace, given: Mapping[str, Any], target: Path, origin: str,
    after_first: Callable[[], None] | None = None, news: Callable[[], str] = str,
) -> None:
    """Run chapters one after another, with one line of progress each, and put the pages into `target`.

    `after_first` is called when the first of several is done. `news` is asked about once a second while a chapter runs,
    and has a line to print or nothing.
    """
    chapters, profile = layout.chapters(options.chapters), given.get("profile", STORED_PROFILE)
    if not chapters:
        raise NotebookError("there are no chapters", where="notebooks/", remedy="Add a source named NN_stage.py.")
    pace = Pace(chapters, {name: entry["seconds"] for name, entry in read_status(target).items()
                           if (entry["profile"], entry["origin"]) == (profile, origin)})
    for number, chapter in enumerate(chapters, 1):
        line = f"[{number}/{len(chapters)}] {chapter:<20} "

        def waiting(seconds: float, line: str = line, chapter: str = chapter) -> None:
            if told := news():
                print(f"\n{told}\n{line}", end="", flush=True)
            if sys.stdout.isatty():
                print(f"\r{line}{seconds:.0f} s, {pace.text(chapter, seconds)} ", end="", flush=True)

        print(line, end="", flush=True)
        page, seconds = execute(layout, chapter, given, options.timeout, waiting)
        page = page if target == layout.sources else one_deeper(page)
        write_whole(target / f"{chapter}.ipynb", (nbformat.writes(page) + "\n").encode())
        entry = record(profile, seconds) | {"origin": origin}
        if origin == "report":
            entry["tables"] = table_digests(layout, chapter)
        write_status(target, read_status(target) | {chapter: entry})
        pace.done(chapter, seconds)
        left = f", {pace.text()}" if number < len(chapters) else ""
        print(f"\r{line}" if sys.stdout.isatty() else "", duration(seconds), f"{left:<24}", sep="", flush=True)
        if number == 1 < len(chapters) and after_first is not None:
            after_first()


def run_study(layout: Layout, options: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Run chapters with a profile and build the book, a first time as soon as there is a page to read.

    Until a chapter has been run, its page is that of the report.
    """
    building: list[Future[Path]] = []  # beside the next chapters, which rarely use every core

    def build() -> None:
        gather_pages(layout)
        building.append(pool.submit(build_html, layout))

    def news() -> str:
        if not (building and building[0].done()):
            return ""
        return f"first pages: {building.pop().result()} (the others show the report until they have been run)"

    with ThreadPoolExecutor(1) as pool:
        run_chapters(layout, options, given, layout.pages, "run", build, news)
    if told := news():
        print(told, flush=True)
    print(f"book: {build_book(layout, fresh=len(layout.chapters(options.chapters)) == 1)}")


def check_stored(layout: Layout) -> None:
    """Raise `NotebookError` with every fault of the stored notebooks, or of the report's pages where there are any."""
    chapters = layout.chapters()
    kinds = [(layout.sources, stored_problems, "make notebooks")]
    if read_status(layout.report):
        kinds.append((layout.report, report_problems, "make pages"))
    for folder, problems_of, command in kinds:
        where = f"{folder.relative_to(layout.root)}/"
        if problems := [f"{name}: {problem}" for name in chapters for problem in problems_of(layout, name)]:
            raise NotebookError("; ".join(problems), where=where, remedy=f"Mend the sources and run `{command}`.")
        print(f"{len(chapters)} notebooks of {where} agree with their sources")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's verb and its options; None reads those of this process."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.book", description="Run the notebooks of the study and build its book.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="run chapters with a profile, and build the book as they come")
    run = commands.add_parser("run", help="run chapters with a profile, for the book")
    for command in (study, run):
        command.add_argument("--profile", default="quick",
                             help="a file of configs/, without its ending (default: quick)")
        command.add_argument("--set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                             help="another parameter of the notebooks; may be repeated")
    store = commands.add_parser("store", help=f"run chapters with their defaults ({STORED_PROFILE}), to be committed")
    report = commands.add_parser("report", help="make the pages of the report from its tables, to be committed")
    for command in (study, run, store, report):
        command.add_argument("--chapters", nargs="+", default=[], help="numbers or names (default: all)")
        command.add_argument("--timeout", type=int, default=7200, help="seconds that one cell may take (default: 7200)")
    commands.add_parser("check", help="check the stored outputs without running anything")
    commands.add_parser("build", help="build the book without running anything")
    return parser.parse_args(arguments)


def obey(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    layout = Layout(options.root)
    if options.command in ("run", "study"):
        layout.check_profile(options.profile)
        given = {"profile": options.profile} | {name: yaml.safe_load(value) for name, value in options.set}
        if options.command == "study":
            run_study(layout, options, given)
        else:
            run_chapters(layout, options, given, layout.pages, "run")
    elif options.command == "store":
        run_chapters(layout, options, {}, layout.sources, "stored")
    elif options.command == "report":
        os.environ[AS_IS] = "1"  # the kernels get it: the tables are shown, not computed
        run_chapters(layout, options, {"profile": REPORT_PROFILE}, layout.report, "report")
    elif options.command == "check":
        check_stored(layout)
    else:
        print(f"book: {build_book(layout)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 after a fault that was told in one line."""
    options, start = parse(arguments), time.perf_counter()
    try:
        with clear_shortages():
            obey(options)
    except StudyError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    print(f"done in {duration(time.perf_counter() - start)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
