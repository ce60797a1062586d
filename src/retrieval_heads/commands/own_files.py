"""Files of one's own: `check` them, `rank` training sets by short trials, `diagnose` what each teaches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_heads.commands import add_template_arguments, from_options, json_object, named_paths
from retrieval_heads.errors import ConfigError, DataError, printable
from retrieval_heads.files import write_whole

if TYPE_CHECKING:
    from retrieval_heads.check.findings import Findings
    from retrieval_heads.check.shortcuts import Lines


def add_check(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `check` to the command line."""
    parser = verbs.add_parser(
        "check", help="check files of examples: counts, lengths in a model's tokens, needles, shortcuts, leaks",
        description="Reads every line of JSON Lines files of examples (book/data_format.md), prints what is in each, "
        "where its needles stand, warnings with line numbers (first about shortcuts that make reading unnecessary), "
        "and the first broken line with the reason. Exit status: 0 when every line is usable, 2 otherwise.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON Lines, may be gzipped")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the model whose tokens are counted; its "
                        "tokenizer and config.json suffice")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE",
                        help="files that should share no example with these, such as test sets")
    parser.add_argument("--length", type=int, metavar="N", help="count the examples with more than N tokens")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the findings to this file")
    add_template_arguments(parser)
    parser.set_defaults(function=_check)


def _check(parsed: argparse.Namespace) -> None:
    from retrieval_heads.check import check_files

    if parsed.length is not None and parsed.length < 1:
        raise ConfigError("not a length", where="--length", value=parsed.length, remedy="Give 1 or more tokens.")
    tokenizer, maximum = _tokenizer(parsed.model, json_object("--template-arguments", parsed.template_arguments))
    named = {"--length": parsed.length, "the model's maximum": maximum}
    limits = {name: limit for name, limit in named.items() if limit is not None}
    found = check_files(parsed.files, tokenizer, limits, parsed.against)
    print(printable("\n\n".join("\n".join(_lines(findings)) for findings in found)))
    if parsed.json is not None:
        content = {"model": parsed.model, "template_arguments": tokenizer.template_arguments,
                   "files": [findings.as_json() for findings in found]}
        write_whole(parsed.json, (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode())
    if absent := [findings.unreadable for findings in found if findings.unreadable]:
        raise absent[0]
    broken = [findings for findings in found if findings.broken]
    if broken:
        raise DataError(
            f"{sum(one.broken.total() for one in broken)} of {sum(one.records for one in broken)} records are broken",
            where=", ".join(one.file for one in broken), remedy="Fix or remove them; the first of each file is above.",
        )


def _tokenizer(model: str, template_arguments: dict[str, Any]) -> tuple[Any, int | None]:
    """The tokenizer of a model's folder, and how many tokens the model can read as it is."""
    from retrieval_heads.models.load import load_config, load_tokenizer, model_folder
    from retrieval_heads.models.rope import context_length

    folder = Path(model) if Path(model).is_dir() else model_folder(model)
    tokenizer = load_tokenizer(folder, template_arguments)
    if not (folder / "config.json").is_file():
        return tokenizer, None
    return tokenizer, context_length(load_config(folder))


def _with_lines(lines: Lines) -> str:
    return f"{lines.count}" + (f" ({lines.text()})" if lines.count else "")


def _lines(findings: Findings) -> list[str]:
    """The findings on one file as lines of text: a table, then warnings, then what is broken."""
    if findings.unreadable:
        return [findings.file, f"  not read: {findings.unreadable.problem}"]
    content, cuts = findings.as_json(), findings.shortcuts
    tasks = ", ".join(f"{task} {count}" for task, count in content["tasks"].items())
    rows = [("records", f"{content['records']}, {content['usable']} usable" + (f" ({tasks})" if tasks else ""))]
    for label, name in (("tokens", "tokens"), ("tokens of the answer", "answer_tokens"), ("needles", "needles")):
        if spread := content[name]:
            rows.append((label, f"{spread['min']} to {spread['max']}, median {spread['median']:g}"))
    rows += [(f"longer than {one['tokens']}", f"{one['examples']} ({name})")
             for name, one in content["longer_than"].items()]
    rows += [("without needles", str(content["without_needles"])), ("needles lost", str(content["needles_lost"])),
             ("answer in no needle", str(content["answer_in_no_needle"]))]
    if cuts.n:
        rows += [("needles begin", cuts.places.text()), ("answer outside needles", _with_lines(cuts.outside)),
                 ("answer in question", _with_lines(cuts.in_question)),
                 ("question quotes needle", _with_lines(cuts.quoting)),
                 ("haystack repeats", f"{content['haystack_repeats']:.0%} of its sentences, median")]
    rows += [(f"same {way}", f"{one['examples']} in the file") for way, one in content["repeats"].items()]
    rows += [(f"same {way}", f"{one['examples']} in {file}")
             for file, leaks in content["leaks"].items() for way, one in leaks.items()]
    width = max(len(label) for label, _ in rows)
    lines = [findings.file, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    lines += [f"  warning: {text}" for text in content["warnings"]]
    lines += [f"  broken: {count} because {reason}" for reason, count in findings.broken.most_common()]
    if findings.broken:
        lines.append(f"  first broken: {' '.join(str(findings.first_broken).split())}")
    return lines


def _add_fine_tuning(parser: argparse.ArgumentParser, epochs: int) -> None:
    """What `rank` and `diagnose` ask for alike: the model, how it is trained on the sets, and where."""
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the base model, or a cached hub id")
    parser.add_argument("--length", type=int, metavar="N", help="most tokens of an example (default: of the longest)")
    parser.add_argument("--epochs", type=int, default=epochs, metavar="N",
                        help=f"how often each example is trained on (default {epochs})")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default 0.003, for models of "
                        "millions of parameters; 0.0002 is usual for billions)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="examples per step (default 4)")
    parser.add_argument("--threshold", type=float, default=0.1, help="retrieval heads score above this (default 0.1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    add_template_arguments(parser)


def _fine_tuning(parsed: argparse.Namespace) -> dict[str, Any]:
    """The fields of both requests that are no option as it stands."""
    return {"train": named_paths("--train", parsed.train), "seeds": tuple(parsed.seeds),
            "template_arguments": json_object("--template-arguments", parsed.template_arguments)}


def add_rank(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `rank` to the command line."""
    parser = verbs.add_parser(
        "rank", help="order candidate training sets by short fine-tunes and a few dozen real examples",
        description="Fine-tunes the model briefly on the first examples of each set, measures it on real probe "
        "examples, and prints values and ranks of the sets by several predictors, an order, and how far the report "
        "found each predictor to be right. The same command again makes only what is missing.",
    )
    _add_fine_tuning(parser, epochs=1)
    parser.add_argument("--train", required=True, action="append", metavar="NAME=FILE",
                        help="a candidate set (JSON Lines); give it at least twice")
    parser.add_argument("--probe", required=True, type=Path, metavar="FILE", help="real examples, a few dozen")
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--real-heads", type=Path, metavar="SCORES.json",
                      help='head scores of a model trained on real examples, {"layer-head": [scores]}')
    real.add_argument("--real-train", type=Path, metavar="FILE", help="real training examples, to train it here")
    parser.add_argument("--base-probe", type=Path, metavar="FILE", help="real examples short enough for the model "
                        "without fine-tuning, to find its own heads; by default, those of --probe that are")
    parser.add_argument("--rope-theta", type=float, metavar="T", help="RoPE theta of the fine-tuned models (default: "
                        "the model's, raised by NTK-aware scaling if the length exceeds the model's)")
    parser.add_argument("--examples", type=int, default=50, help="examples used of each set (default 50)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                        help="one short fine-tune of each set per seed (default 0 1 2); with a single seed, no two "
                        "sets can be told apart")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="adapters and results")
    parser.set_defaults(function=_rank)


def _rank(parsed: argparse.Namespace) -> None:
    from retrieval_heads.progress import lines
    from retrieval_heads.rank import Request, rank_sets

    with lines():
        print(rank_sets(from_options(Request, parsed, **_fine_tuning(parsed)), parsed.device).text())
    print(f"\n{parsed.out / 'rank.csv'}\n{parsed.out / 'rank.json'}")


def add_diagnose(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `diagnose` to the command line."""
    parser = verbs.add_parser(
        "diagnose", help="fine-tune on each training set and report what it teaches, and which heads it misses",
        description="Fine-tunes one adapter per set and seed (or takes given ones), scores them on real examples, "
        "finds their retrieval heads, compares these with those of a model trained on real examples, knocks them out "
        "and patches them, and writes report.html and tables/*.csv. The same command again, also with more "
        "seeds or sets for the same folder, makes only what is missing. "
        "Files are JSON Lines; `check` says what is wrong with one.",
    )
    _add_fine_tuning(parser, epochs=5)
    parser.add_argument("--train", action="append", default=[], metavar="NAME=FILE",
                        help="a training set; may be given several times")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER",
                        help="an adapter that this package has trained on a set (`real`: on real examples), instead of "
                        "the set's file; may be given several times")
    parser.add_argument("--real-train", type=Path, metavar="FILE", help="real training examples, as a reference; "
                        "without them, nothing is said about the real task's heads and nothing is patched")
    parser.add_argument("--eval", required=True, type=Path, metavar="FILE", dest="evaluation",
                        help="real examples, a few dozen; half of them, spread evenly, are used to find heads")
    parser.add_argument("--probe", type=Path, metavar="FILE", help="other real examples to find heads; all of "
                        "--eval is then used for scoring")
    parser.add_argument("--n-probe", type=int, metavar="N", help="how many of --eval are used to find heads")
    parser.add_argument("--rope-theta", type=float, metavar="T", help="RoPE theta of all models compared (default: the "
                        "model's, raised by NTK-aware scaling if the length exceeds the model's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one fine-tuning per seed (default 1)")
    parser.add_argument("--rank", type=int, default=8, help="rank of the LoRA matrices (default 8)")
    parser.add_argument("--bf16", action="store_true", help="train, and on a GPU measure, in bfloat16")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--draws", type=int, default=3, help="random controls for each set of heads (default 3)")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N examples per file, for a trial")
    parser.add_argument("--dry-run", action="store_true", help="say what exists and what is left to do, estimate "
                        "time and memory by a short trial, and look for leaks; write nothing")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="adapters, tables and the report")
    parser.set_defaults(function=_diagnose)


def _diagnose(parsed: argparse.Namespace) -> None:
    from retrieval_heads.diagnose import Request, diagnose, plan
    from retrieval_heads.diagnose.job import report_path
    from retrieval_heads.progress import lines

    request = from_options(Request, parsed, adapters=named_paths("--adapter", parsed.adapter), **_fine_tuning(parsed))
    if parsed.dry_run:
        print(plan(request, parsed.device).text())
        return
    with lines():
        result = diagnose(request, parsed.device)
    from retrieval_heads.diagnose.verdict import performance  # needs matplotlib, as was said by then if it is absent

    for name in request.names:
        print(f"{name}: {performance(result, name)}")
    print(report_path(parsed.out))
