"""`convert`: an official file as a file in the format of examples, with its needles marked."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_heads.errors import ConfigError

if TYPE_CHECKING:
    from retrieval_heads.check.places import Places
    from retrieval_heads.data.example import Example

LOADERS = {"mdqa": "iterate_mdqa", "musique": "iterate_musique", "summhay": "iterate_summhay"}


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `convert` to the command line."""
    parser = verbs.add_parser(
        "convert", help="write the examples of an official file as JSON Lines",
        description="The records as they are, but that the gold passage of mdqa is put at each place in turn. "
        "To bring them to a wanted length and to split them, see `prepare`.",
    )
    parser.add_argument("task", choices=tuple(LOADERS), help="whose file it is")
    parser.add_argument("file", metavar="OFFICIAL_FILE", help="as published, packed or not")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl, or .jsonl.gz to pack it")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N records (insights, of summhay) only")
    parser.add_argument("--drop-unusable", action="store_true",
                        help="leave out and count records that cannot become an example, such as one whose gold "
                        "passage does not hold an answer; otherwise the first one is an error")
    parser.add_argument("--needle", help="what is marked: sentence (default), passage or answer; document (default) or "
                        "sentence for summhay")
    parser.add_argument("--keep-order", action="store_true", help="of mdqa: leave the gold passage where the file has "
                        "it, at one place in all records; otherwise it is put at each place in turn")
    parser.add_argument("--n-documents", type=int, metavar="N", help="at most so many documents, gold ones first")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="a line before the documents")
    parser.set_defaults(function=_convert)


def _convert(parsed: argparse.Namespace) -> None:
    from retrieval_heads.check.places import Places
    from retrieval_heads.data import official
    from retrieval_heads.data.jsonl import write_examples
    from retrieval_heads.data.official.assemble import UnusableRecordError

    dropped: Counter[str] = Counter()
    settings = {"needle": parsed.needle} if parsed.needle is not None else {}
    if parsed.task == "mdqa":
        settings["gold"] = "as it is" if parsed.keep_order else "in turn"
    elif parsed.keep_order:
        raise ConfigError("the other tasks keep their order anyway", where="--keep-order", value=parsed.task,
                          remedy="Leave it out.")
    try:
        examples = getattr(official, LOADERS[parsed.task])(
            parsed.file, parsed.limit, n_documents=parsed.n_documents, instruction=parsed.instruction,
            on_unusable="drop" if parsed.drop_unusable else "raise", dropped=dropped, **settings,
        )
        places = Places()
        count = write_examples(parsed.out, _seen(examples, places))
    except UnusableRecordError as error:  # the loader's remedy is one for Python
        raise UnusableRecordError(
            error.reason, where=error.where, value=error.value,
            remedy="Give --drop-unusable to leave such records out; they are counted by reason.",
        ) from error
    print(f"{parsed.out}: {count} examples")
    if place := places.one_place():
        print(f"warning: {place}: such a set can be solved by reading that place alone")
    for reason, count in dropped.most_common():
        print(f"left out {count} records: {reason}")


def _seen(examples: Iterable[Example], places: Places) -> Iterator[Example]:
    """The examples, each of which `places` has seen."""
    for example in examples:
        places.add(example)
        yield example
