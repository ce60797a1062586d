"""`prepare`: official files into a data folder of real examples at length."""

from __future__ import annotations

import argparse
import json

from retrieval_heads.commands.template_arguments import add_option, json_object
from retrieval_heads.data.official.lengthen import DEPTHS
from retrieval_heads.data.official.prepare import Request, prepare
from retrieval_heads.data.official.records import read_ids
from retrieval_heads.errors import ConfigError
from retrieval_heads.fetch import origins


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `prepare` to the command line."""
    parser = verbs.add_parser(
        "prepare", help="make training and held-out examples of a wanted length from official files",
        description="Adds documents of other records, which do not hold the answer, until a record has the wanted "
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
                        help="also make real_short, the control of short examples, of so many tokens")
    parser.add_argument("--eval-length", type=int, action="append", default=[], metavar="LENGTH",
                        help="tokens of the held-out examples beside --length; can be given several times")
    parser.add_argument("--train", type=int, metavar="N",
                        help="number of training examples; not needed with --train-ids")
    parser.add_argument("--train-ids", metavar="FILE",
                        help="ids of the training questions, one per line, or JSON Lines with `id`, such as written "
                        "passages; all others may be held out")
    for name in ("probe", "test"):
        parser.add_argument(f"--{name}", required=True, type=int, metavar="N", help=f"number of {name} examples")
    parser.add_argument("--dev", type=int, default=0, metavar="N",
                        help="number of held-out examples for choosing settings (0)")
    parser.add_argument("--seed", type=int, default=0, help="of split, haystacks and depths")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), metavar="D,D,...",
                        help="where gold documents stand, from 0 (first) to 1 (last); dealt in turn")
    parser.add_argument("--chat", action="store_true", help="wrap each prompt by the tokenizer's chat template")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="a line before the documents")
    add_option(parser)
    parser.set_defaults(function=_prepare)


def _prepare(parsed: argparse.Namespace) -> None:
    try:
        depths = tuple(float(depth) for depth in parsed.depths.split(","))
    except ValueError:
        raise ConfigError("not numbers", where="--depths", value=parsed.depths,
                          remedy="Give numbers from 0 to 1 with commas between them.") from None
    ids = read_ids(parsed.train_ids) if parsed.train_ids else ()
    if parsed.train is None and not ids:
        raise ConfigError("no number of training examples", where="--train", value=None,
                          remedy="Give it, or name the training questions by --train-ids.")
    request = Request(
        task=parsed.task, length=parsed.length, short_length=parsed.short_length,
        eval_lengths=tuple(parsed.eval_length), train=len(ids) if parsed.train is None else parsed.train,
        probe=parsed.probe, test=parsed.test, seed=parsed.seed, chat=parsed.chat, instruction=parsed.instruction,
        depths=depths, dev=parsed.dev, train_ids=ids,
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
        print(f"not looked for elsewhere, as it is no answer's text: {answer!r}, accepted by {count} records")
    shared = {pair: count for pair, count in content["shared_gold_documents"].items() if count}
    print("gold documents in more than one set:", ", ".join(f"{n} ({pair})" for pair, n in shared.items()) or "none")
    print(f"licence of the data: {content['licence']}")
