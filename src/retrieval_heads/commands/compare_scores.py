"""`compare-scores`: two files of head scores side by side."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from retrieval_heads.errors import DataError


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `compare-scores` to the command line."""
    parser = verbs.add_parser(
        "compare-scores", help='compare two files of head scores, {"layer-head": [scores]} as in Retrieval_Head'
    )
    parser.add_argument("first", type=Path, metavar="FILE", help="scores of one model")
    parser.add_argument("second", type=Path, metavar="FILE2", help="scores to compare them with")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.set_defaults(function=_compare)


def _compare(parsed: argparse.Namespace) -> None:
    from retrieval_heads.heads.exchange import read_scores, score_agreement

    tables = []
    for path in (parsed.first, parsed.second):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tables.append(read_scores(path))
        for one in caught:
            print(f"warning: {one.message}", file=sys.stderr)
    first, second = (table.scores.shape for table in tables)
    if first != second:
        raise DataError(
            f"{first[0]} layers x {first[1]} heads cannot be compared with {second[0]} x {second[1]}",
            where=f"{parsed.first} and {parsed.second}", remedy="Compare scores of one model, or of two of one shape.",
        )
    for table in tables:
        least, most = table.counts.min(), table.counts.max()
        above = int((table.scores > parsed.threshold).sum())
        print(f"{table.name}: {first[0]} layers x {first[1]} heads, {least if least == most else f'{least} to {most}'} "
              f"scores each, {above} heads above {parsed.threshold:g}")
    found = score_agreement(*(table.scores for table in tables), parsed.threshold)
    names = {"spearman": "Spearman, all heads"} | {
        name: f"{name}, heads above {parsed.threshold:g}" for name in ("jaccard", "recall", "precision")
    }
    print(f"\n{'':<32}{'value':>8}{'chance':>8}   {'95% of chance':<16}p")
    for row in found.itertuples():
        name = names.get(row.measure, f"common share of the {row.measure}")
        between = "" if row.low != row.low else f"{row.low:.3f} to {row.high:.3f}"
        print(f"{name:<32}{row.value:>8.3f}{row.chance:>8.3f}   {between:<16}{row.p:.2g}")
    print("\nrecall: share of the first file's heads that the second has; precision: the other way round.\n"
          "p: chance of as many common heads among random ones; of Spearman, two-sided.")
