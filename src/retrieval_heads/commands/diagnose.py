"""`diagnose`: what each training set teaches, and which heads of the real task it misses, as one report."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from retrieval_heads.commands.template_arguments import add_option, json_object
from retrieval_heads.errors import ConfigError

T = TypeVar("T")


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `diagnose` to the command line."""
    parser = verbs.add_parser(
        "diagnose", help="fine-tune on each training set and report what it teaches, and which heads it misses",
        description="Fine-tunes one adapter per set and seed (or takes given ones), scores them on real examples, "
        "finds their retrieval heads, compares these with those of a model trained on real examples, knocks them out "
        "and patches them, and writes report.html and tables/*.csv. The same command again makes only what is not "
        "there yet, and so does one with more seeds or sets for the same folder. "
        "Files are JSON Lines; `check` says what is wrong with one.",
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the base model, or a cached hub id")
    parser.add_argument("--train", action="append", default=[], metavar="NAME=FILE",
                        help="a training set; may be given several times")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER",
                        help="an adapter that this package has trained on a set (`real`: on real examples), instead of "
                        "the set's file; may be given several times")
    parser.add_argument("--real-train", type=Path, metavar="FILE", help="real training examples, as a reference; "
                        "without them nothing is said of the real task's heads and nothing is patched")
    parser.add_argument("--eval", required=True, type=Path, metavar="FILE", dest="evaluation",
                        help="real examples, a few dozen; half of them, spread evenly, are used to find heads by")
    parser.add_argument("--probe", type=Path, metavar="FILE", help="other real examples to find heads by; all of "
                        "--eval is then for scoring")
    parser.add_argument("--n-probe", type=int, metavar="N", help="how many of --eval are used to find heads by")
    parser.add_argument("--length", type=int, metavar="N", help="most tokens of an example (default: of the longest)")
    parser.add_argument("--rope-theta", type=float, metavar="T", help="of all models compared (default: the model's, "
                        "raised by NTK-aware scaling where the length is greater than the model's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one fine-tuning per seed (default 1)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N",
                        help="how often each example is trained on (default 5)")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default 0.003, for models of "
                        "millions of parameters; 0.0002 is usual for billions)")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRA matrices (default 8)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="examples per step (default 4)")
    parser.add_argument("--bf16", action="store_true", help="train, and on a GPU measure, in bfloat16")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.add_argument("--draws", type=int, default=3, help="random controls of each set of heads (default 3)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N examples of each file only, for a trial")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--dry-run", action="store_true", help="say what is there already, what is to be done, and "
                        "about how long it takes and how much memory, by a short trial; look for leaks; write nothing")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="adapters, tables and the report")
    add_option(parser)
    parser.set_defaults(function=_diagnose)


def _diagnose(parsed: argparse.Namespace) -> None:
    from retrieval_heads.diagnose import Request, diagnose, plan
    from retrieval_heads.diagnose.job import report_path
    from retrieval_heads.progress import lines

    request = request_of(Request, parsed, adapters=named_paths("--adapter", parsed.adapter))
    if parsed.dry_run:
        print(plan(request, parsed.device).text())
        return
    with lines():
        result = diagnose(request, parsed.device)
    from retrieval_heads.diagnose.verdict import performance  # needs matplotlib, as was said by then if it is absent

    for name in request.names:
        print(f"{name}: {performance(result, name)}")
    print(report_path(parsed.out))


def request_of(kind: type[T], parsed: argparse.Namespace, **more: Any) -> T:
    """The request of `diagnose` or `rank`: each field from the option of its name."""
    given = {one.name: getattr(parsed, one.name) for one in fields(kind) if hasattr(parsed, one.name)}
    return kind(**given | {
        "train": named_paths("--train", parsed.train), "seeds": tuple(parsed.seeds),
        "template_arguments": json_object("--template-arguments", parsed.template_arguments), **more,
    })


def named_paths(option: str, given: list[str]) -> dict[str, Path]:
    """The paths of an option that is given several times as `NAME=PATH`."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path) or name in found:
            raise ConfigError("a name that was given already" if name in found else "not of the form NAME=PATH",
                              where=option, value=one, remedy="Give each set a name of its own, as in high=FILE.")
        found[name] = Path(path)
    return found
