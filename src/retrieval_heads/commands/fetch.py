"""`fetch`: the official data files of a task, with their licence and sha256."""

from __future__ import annotations

import argparse

from retrieval_heads import fetch
from retrieval_heads.errors import ConfigError


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `fetch` to the command line."""
    parser = verbs.add_parser("fetch", help="download the official data files of a task (nothing else downloads them)")
    parser.add_argument("task", choices=sorted(fetch.origins()), help="whose files")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the files go to FOLDER/TASK")
    parser.add_argument("--sha256", action="append", default=[], metavar="NAME=DIGEST",
                        help="a file is refused unless it has this sha256; can be given for each file")
    parser.set_defaults(function=_fetch)


def _fetch(parsed: argparse.Namespace) -> None:
    pinned = {}
    for given in parsed.sha256:
        name, separator, digest = given.rpartition("=")
        if not separator:
            raise ConfigError("no file name", where="--sha256", value=given, remedy="Give NAME=DIGEST.")
        pinned[name] = digest
    fetch.fetch(fetch.origin(parsed.task), parsed.to, sha256=pinned)
