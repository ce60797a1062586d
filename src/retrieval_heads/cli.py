"""The command line: `python -m retrieval_heads VERB ...`, one module of `commands` a verb.

torch is imported by the stages and not here, so that `--help` and a mistyped setting answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from retrieval_heads.commands import (
    check,
    compare_scores,
    convert,
    convert_gguf,
    costs,
    diagnose,
    export,
    fetch,
    grid,
    prepare,
    pretrain,
    publish,
    rank,
    run,
    write,
)
from retrieval_heads.errors import StudyError, printable
from retrieval_heads.shortage import shortage

VERBS = (run, grid, publish, pretrain, write, fetch, prepare, convert, convert_gguf, export, check, compare_scores,
         rank, diagnose, costs)
"""Each has a function `add(verbs)` that adds a verb to the parser, with the function that it runs."""


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and by name that of each verb."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_heads", description="Synthetic context extension, explained by retrieval heads.",
        epilog=run.EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return parser, verbs.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for a problem that the user can mend, 130 for Ctrl-C."""
    parser, _ = parsers()
    parsed = parser.parse_args(arguments)
    try:
        parsed.function(parsed)
    except StudyError as error:
        return _told(error)
    except KeyboardInterrupt:
        print("interrupted: give the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        found = shortage(error)
        if found is None:
            raise
        return _told(found)
    return 0


def _told(error: StudyError) -> int:
    print(f"error: {' '.join(printable(str(error)).split())}", file=sys.stderr)
    return 2
