"""The command line: `retrieval-heads VERB ...` or `python -m retrieval_heads VERB ...`; `commands` has the verbs.

torch is imported by the stages and not here, so that `--help` and a mistyped setting answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from retrieval_heads import __version__
from retrieval_heads.commands import examples, models, official, own_files, study
from retrieval_heads.errors import StudyError, printable
from retrieval_heads.files import clear_shortages

try:
    import shtab
except ModuleNotFoundError:  # a machine that only computes needs no completion
    shtab = None

SCRIPT = "retrieval-heads"
"""The console command."""

VERBS = (study.add_run, study.add_grid, study.add_publish, models.add_pretrain, examples.add_write, official.add_fetch,
         official.add_prepare, official.add_convert, models.add_convert_gguf, examples.add_export, own_files.add_check,
         models.add_compare_scores, models.add_heads, own_files.add_rank, own_files.add_diagnose, study.add_costs)
"""Each adds a verb to the parser, with the function that it runs."""


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and by name that of each verb."""
    name = SCRIPT if Path(sys.argv[0]).name == SCRIPT else "python -m retrieval_heads"
    parser = argparse.ArgumentParser(
        prog=name, description="Synthetic context extension, explained by retrieval heads.",
        epilog=study.EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retrieval-heads {__version__}")
    if shtab is not None:
        shtab.add_argument_to(parser, "--print-completion", help="print the completion script for a shell, such as "
                              'bash: eval "$(retrieval-heads --print-completion bash)"')
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add_verb in VERBS:
        add_verb(verbs)
    return parser, verbs.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for a problem that the user can fix, 130 for Ctrl-C."""
    parser, verbs = parsers()
    given = list(sys.argv[1:] if arguments is None else arguments)
    _check_verb(parser, verbs, given)
    parsed = parser.parse_args(given)
    try:
        with clear_shortages():
            parsed.function(parsed)
            sys.stdout.flush()
    except StudyError as error:
        return _told(error)
    except BrokenPipeError:  # who reads has seen enough, as `head` does; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted: give the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _check_verb(parser: argparse.ArgumentParser, verbs: Iterable[str], given: Sequence[str]) -> None:
    """End with a suggestion where the first word is no verb: argparse would list all of them."""
    word = next(iter(given), "")
    if word and not word.startswith("-") and word not in verbs:
        near = difflib.get_close_matches(word, verbs, n=1)
        parser.error(f"unknown verb `{word}`. " + (f"Did you mean `{near[0]}`?" if near else
                                                   f"Known: {', '.join(verbs)}."))


def _told(error: StudyError) -> int:
    print(f"error: {' '.join(printable(str(error)).split())}", file=sys.stderr)
    return 2
