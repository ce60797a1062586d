"""`publish`: the tables of a profile into `results/`, with the verdicts that follow from them."""

from __future__ import annotations

import argparse

from retrieval_heads import paths
from retrieval_heads.config import load_profile


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `publish` to the command line."""
    parser = verbs.add_parser("publish", help="merge what is there of a profile, decide the claims, and copy its "
                                "tables to results/, to be committed")
    parser.add_argument("--profile", required=True, help="such as report, or the path of a YAML file")
    parser.add_argument("--derived", action="store_true",
                        help="only what follows from the tables of runs that are in results/, which stay as they are")
    parser.set_defaults(function=_publish)


def _publish(parsed: argparse.Namespace) -> None:
    from retrieval_heads.publish import derived_tables, publish
    from retrieval_heads.stages import claims, correlate, data, finetune, grid

    profile = load_profile(parsed.profile)
    if parsed.derived:
        if profile.gold_loss is None:
            finetune.derive(profile)
            correlate.derive(profile)
    else:
        grid.merge(profile)
        data.run(profile)
    claims.judge(profile)
    for path in publish(profile, derived_tables(profile) if parsed.derived else None):
        print(paths.shown(path))
