"""`check`: are files of examples usable with a model, and is there anything odd in them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_heads.commands.template_arguments import add_option, json_object
from retrieval_heads.errors import ConfigError, DataError, printable
from retrieval_heads.files import write_whole

if TYPE_CHECKING:
    from retrieval_heads.check.findings import Findings
    from retrieval_heads.check.lines import Lines


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `check` to the command line."""
    parser = verbs.add_parser(
        "check", help="check files of examples: counts, lengths in a model's tokens, needles, shortcuts, leaks",
        description="Reads every line of JSON Lines files of examples (book/data_format.md), prints what is in each, "
        "where its needles stand, warnings (first of what can be solved without reading) with the numbers of lines, "
        "and the first broken line with the reason. Exit status: 0 when every line is usable, 2 otherwise.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON Lines, also packed by gzip")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the model whose tokens are counted; its "
                        "tokenizer and config.json suffice")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE",
                        help="files that shall have no example in common with these, such as test sets")
    parser.add_argument("--length", type=int, metavar="N", help="count the examples of more than N tokens")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the findings to this file, too")
    add_option(parser)
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
            where=", ".join(one.file for one in broken), remedy="Mend or remove them; the first of each file is above.",
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
