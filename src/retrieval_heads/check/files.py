"""Check files of examples: every line is read, whatever is wrong with those before it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os.path import samefile
from pathlib import Path
from typing import Any

from retrieval_heads.check.findings import Findings
from retrieval_heads.check.lines import Lines
from retrieval_heads.check.sameness import LEAKS, REPEATS, Seen, count_shared, line_of
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import each_example, iterate_examples, scorable
from retrieval_heads.errors import ConfigError, DataError

_NUMBER = re.compile(r"(?<![\w-])\d+")  # differs from line to line and is no reason of its own; not that of UTF-8

TOGETHER = 16
"""Examples that are tokenised at a time."""


def check_files(
    files: Sequence[str | Path], tokenizer: Any, limits: Mapping[str, int] | None = None,
    against: Sequence[str | Path] = (),
) -> list[Findings]:
    """What is to be said of each file; see `Findings`.

    Memory does not grow with the texts, but by some numbers for each example.

    Args:
        files: in the format of `data.jsonl`, packed or not. A file that is missing has `unreadable` and nothing else.
        tokenizer: the fast one of the model that will read the examples.
        limits: by name, numbers of tokens that an example should not exceed.
        against: files that shall have no example in common with `files`, such as test sets.

    Raises:
        ConfigError: one of `files` is among `against`: every example would be known from itself.
        DataError: a record of `against` that is no example.
        ModelError: a tokenizer without offsets.
    """
    for path in files:
        if any(_same_file(path, other) for other in against):
            raise ConfigError("the file is to be compared with itself", where="--against", value=str(path),
                              remedy="Leave it out of the files that are checked, or out of --against.")
    known = {str(path): _seen(path, tokenizer) for path in against}
    return [_check(path, tokenizer, limits or {}, known) for path in files]


def _seen(path: str | Path, tokenizer: Any) -> Seen:
    seen = Seen()
    for example in iterate_examples(path, tokenizer=tokenizer):
        seen.add(example)
    return seen


def _check(path: str | Path, tokenizer: Any, limits: Mapping[str, int], known: Mapping[str, Seen]) -> Findings:
    findings, own = Findings(str(path), limits), Seen()
    if not Path(path).is_file():
        findings.unreadable = DataError("no such file", where=path, remedy="Check the path.")
        return findings
    for outcome in _encoded(_scorable(each_example(path, tokenizer=tokenizer)), tokenizer, Path(path)):
        if isinstance(outcome, DataError):
            findings.broken[_NUMBER.sub("N", outcome.problem)] += 1
            findings.first_broken = findings.first_broken or outcome
            continue
        example, encoded = outcome
        _count(findings, example, encoded)
        count_shared(example, own, REPEATS, findings.repeats)
        own.add(example)
        for file, seen in known.items():
            count_shared(example, seen, LEAKS, findings.leaks_from(file))
    return findings


def _same_file(one: str | Path, other: str | Path) -> bool:
    try:
        return samefile(one, other)
    except OSError:  # a missing file is told by whoever reads it
        return False


def _encoded(
    outcomes: Iterable[Example | DataError], tokenizer: Any, path: Path,
) -> Iterator[tuple[Example, Encoded] | DataError]:
    """The examples with their tokens, some at a time, in their order; an error stays, or takes an example's place."""
    outcomes = iter(outcomes)
    while group := list(islice(outcomes, TOGETHER)):
        examples = [one for one in group if isinstance(one, Example)]
        try:
            found: Iterator[Encoded | DataError] = iter(encode_all(examples, tokenizer))
        except DataError:  # one of them; the others are good
            found = (_encoded_alone(example, tokenizer, path) for example in examples)
        for outcome in group:
            encoded = outcome if isinstance(outcome, DataError) else next(found)
            yield encoded if isinstance(encoded, DataError) else (outcome, encoded)


def _scorable(outcomes: Iterable[Example | DataError]) -> Iterator[Example | DataError]:
    """The outcomes; in the place of each example that cannot be scored its error, as `diagnose` has it."""
    for outcome in outcomes:
        try:
            yield outcome if isinstance(outcome, DataError) else scorable(outcome)
        except DataError as error:
            yield error


def _encoded_alone(example: Example, tokenizer: Any, path: Path) -> Encoded | DataError:
    try:
        return encode_all([example], tokenizer)[0]
    except DataError as error:
        where = f"{path}, line {line_of(example)}"
        return DataError(error.problem, where=where, value=error.value, remedy=error.remedy)


def _count(findings: Findings, example: Example, encoded: Encoded) -> None:
    findings.usable += 1
    findings.tasks[example.task] += 1
    findings.tokens.append(len(encoded.ids))
    findings.answer_tokens.append(encoded.answer_length)
    findings.needles.append(len(example.needles))
    line, odd = line_of(example), findings.odd
    findings.shortcuts.add(example)
    for name, limit in findings.limits.items():
        if len(encoded.ids) > limit:
            findings.exceeded.setdefault(name, Lines()).add(line)
    found = {
        "without_needles": not example.needles,
        "prompt_ends_in_space": example.prompt[-1].isspace() and example.joint[:1].isspace(),
        "answer_in_space": example.answer != example.answer.strip(),
    }
    if example.needles and not task_of(example.task).cites:
        answer = encoded.ids[encoded.prompt_length : encoded.prompt_length + encoded.answer_length]
        inside = {token for start, end in encoded.needles for token in encoded.ids[start:end]}
        found["answer_in_no_needle"] = not any(example.answer in text for text in example.needle_texts())
        found["answer_shares_no_token"] = inside.isdisjoint(answer)
    for name, is_so in found.items():
        if is_so:
            odd[name].add(line)
