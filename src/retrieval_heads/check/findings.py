"""Check files of examples: what each holds, what of it calls for a warning, and what is the same in two places.

Every line is read, whatever is wrong with those before it. What is compared are digests of 8 bytes, so memory grows by
some 100 bytes a key and not with the texts; of a million different texts, two are alike by chance in 1 of 3e7 cases.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from os.path import exists, samefile
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from retrieval_heads.check.shortcuts import Lines, Shortcuts
from retrieval_heads.data.encode import Encoded, encode, encode_all
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import each_example, iterate_examples, scorable
from retrieval_heads.data.prompt_format import QUESTION
from retrieval_heads.errors import ConfigError, DataError, StudyError

REPEATS = ("prompt", "question and answer")
"""In which ways an example can repeat another one of its own file."""

LEAKS = ("prompt", "question", "needle and answer")
"""In which ways an example can be known from another file."""

ODD = {
    "without_needles": "have no needle: heads cannot be scored on them",
    "answer_in_no_needle": "have an answer that none of their needles holds: heads cannot copy it whole",
    "answer_shares_no_token": "have no token of the answer in their needles: every copy score is 0",
    "prompt_ends_in_space": "have a prompt that ends in white space, before the joint's own",
    "answer_in_space": "have white space around the answer",
}
"""What can be odd about an example, by its name in `Findings.odd`."""

TOGETHER = 16
"""Examples that are tokenised at a time."""

_NUMBER = re.compile(r"(?<![\w-])\d+")  # differs from line to line and is no reason of its own; not that of UTF-8
_WORD = re.compile(r"\w+")

T = TypeVar("T")


@dataclass
class Shared:
    """How many examples share something with an earlier one (or with another file), and the lines of the first pair."""

    count: int = 0
    first: tuple[int, int] | None = None

    def lines(self, other: str) -> str:
        """The first pair in words, `other` before the second line; empty without one."""
        return f" (first: line {self.first[0]}, {other} {self.first[1]})" if self.first else ""


class Seen:
    """The keys of all examples of a file, each with the line where it stands first."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], int] = {}

    def add(self, example: Example) -> None:
        for key in keys(example, {*REPEATS, *LEAKS}):
            self._lines.setdefault(key, example.meta["line"])

    def count(self, example: Example, into: Mapping[str, Shared]) -> None:
        """Count `example` in each of the ways of `into` in which one of those seen is the same."""
        for way, shared in into.items():
            line = next((self._lines[key] for key in keys(example, (way,)) if key in self._lines), None)
            if line is not None:
                shared.count += 1
                shared.first = shared.first or (example.meta["line"], line)


def keys(example: Example, ways: Iterable[str]) -> Iterator[tuple[str, int]]:
    """By what an example is known in some ways, as `(way, digest)`; nothing where it lacks what is compared."""
    question = question_of(example)
    texts = {
        "prompt": [(example.prompt,)],
        "question": [(question,)] * bool(question),
        "question and answer": [(question, example.answer)] * bool(question),
        "needle and answer": [(text, example.answer) for text in dict.fromkeys(example.needle_texts())],
    }
    for way in ways:
        for one in texts[way]:
            # surrogates can stand in a `question` of the user's, which no check has seen
            content = "\0".join(one).encode("utf-8", "surrogatepass")
            yield way, int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def question_of(example: Example) -> str:
    """The question in small letters, without punctuation: the key `question`, else what follows the last `Question:`.

    Empty where there is neither: then questions cannot be compared.
    """
    given = example.meta.get("question")
    if not isinstance(given, str):
        _, found, given = example.prompt.rpartition(QUESTION)
        given = given if found else ""
    return " ".join(_WORD.findall(given.casefold()))


@dataclass
class Findings:
    """Counts over one file.

    Attributes:
        file: its path, as given.
        limits: by name, the number of tokens that an example should not exceed.
        usable: records that are examples whose needles and answer have tokens.
        broken: the other records, by reason.
        first_broken: the error of the first of them.
        tasks: usable examples by task.
        tokens: of each example, prompt and answer and end.
        answer_tokens: of each answer.
        needles: number of needles of each example.
        exceeded: examples above each limit.
        odd: examples by oddity, as in `ODD`. `answer_in_no_needle` counts those with needles, not of the
            task `summhay`; `answer_shares_no_token` those of them without any token of the answer in the needles.
        shortcuts: ways to solve the examples without reading.
        unreadable: why the file could not be read at all; everything else is empty then.
        repeats: examples that repeat an earlier one of the file.
        leaks: by other file, examples that also occur there.
    """

    file: str
    limits: Mapping[str, int]
    usable: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    first_broken: StudyError | None = None
    tasks: Counter[str] = field(default_factory=Counter)
    tokens: array = field(default_factory=lambda: array("q"))
    answer_tokens: array = field(default_factory=lambda: array("q"))
    needles: array = field(default_factory=lambda: array("q"))
    exceeded: dict[str, Lines] = field(default_factory=dict)
    odd: dict[str, Lines] = field(default_factory=lambda: {name: Lines() for name in ODD})
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    unreadable: StudyError | None = None
    repeats: dict[str, Shared] = field(default_factory=lambda: {way: Shared() for way in REPEATS})
    leaks: dict[str, dict[str, Shared]] = field(default_factory=dict)

    @property
    def records(self) -> int:
        return self.usable + self.broken.total()

    @property
    def needles_lost(self) -> int:
        """Records that are broken because a needle was not found in the prompt, or has no token."""
        return sum(count for reason, count in self.broken.items() if "needle" in reason)

    def warnings(self) -> list[str]:
        """What makes the file usable but not trustworthy; one sentence each."""
        counted = (
            *((self.odd[name], what) for name, what in ODD.items()),
            *((self.exceeded.get(name, Lines()), f"are longer than {limit} tokens ({name})")
              for name, limit in self.limits.items()),
        )
        found = [f"{one.count} of {self.usable} examples {what} ({one.text()})" for one, what in counted if one.count]
        found += [f"{one.count} of {self.usable} examples repeat the {way} of an earlier one{one.lines('that of line')}"
                  for way, one in self.repeats.items() if one.count]
        found += [
            f"{one.count} of {self.usable} examples have the {way} of one in {file}{one.lines('line')}"
            for file, leaks in self.leaks.items() for way, one in leaks.items() if one.count
        ]
        if len(self.tasks) > 1:
            found.append(f"the examples are of several tasks ({', '.join(sorted(self.tasks))}): such a file can be "
                         "trained on, but `diagnose --eval` and `rank --probe` take one task at a time")
        return self.shortcuts.warnings() + found

    def as_json(self) -> dict[str, Any]:
        """The findings as JSON values; spreads are `min`, `median`, `max`, or None without an example."""
        error, cuts = self.first_broken or self.unreadable, self.shortcuts
        lines = {**self.odd, "answer_outside_needles": cuts.outside, "answer_in_question": cuts.in_question,
                 "question_quotes_needle": cuts.quoting}
        return {
            "file": self.file, "records": self.records, "usable": self.usable, "broken": dict(self.broken),
            "needles_lost": self.needles_lost, "first_broken": None if error is None else str(error),
            "tasks": dict(self.tasks), **{
                name: {"min": min(values), "median": median(values), "max": max(values)} if values else None
                for name, values in (("tokens", self.tokens), ("answer_tokens", self.answer_tokens),
                                     ("needles", self.needles))
            },
            "longer_than": {name: {"tokens": limit, "examples": self.exceeded.get(name, Lines()).count}
                            for name, limit in self.limits.items()},
            **{name: one.count for name, one in self.odd.items()},
            "first_lines": {name: one.first for name, one in lines.items() if one.count},
            **cuts.as_json(), "repeats": _counts(self.repeats),
            "leaks": {file: _counts(leaks) for file, leaks in self.leaks.items()}, "warnings": self.warnings(),
        }

    def add(self, example: Example, encoded: Encoded) -> None:
        """Count one more usable example."""
        self.usable += 1
        self.tasks[example.task] += 1
        self.tokens.append(len(encoded.ids))
        self.answer_tokens.append(encoded.answer_length)
        self.needles.append(len(example.needles))
        self.shortcuts.add(example)
        line = example.meta["line"]
        for name, limit in self.limits.items():
            if len(encoded.ids) > limit:
                self.exceeded.setdefault(name, Lines()).add(line)
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
        for name in filter(found.__getitem__, found):
            self.odd[name].add(line)


def _counts(shared: Mapping[str, Shared]) -> dict[str, Any]:
    return {way: {"examples": one.count, "first_lines": list(one.first or [])} for way, one in shared.items()}


def check_files(
    files: Sequence[str | Path], tokenizer: Any, limits: Mapping[str, int] | None = None,
    against: Sequence[str | Path] = (),
) -> list[Findings]:
    """The findings on each file; see `Findings`.

    Memory does not grow with the texts, only by some numbers per example.

    Args:
        files: in the format of `data.jsonl`, compressed or not. A missing file has only `unreadable`.
        tokenizer: the fast one of the model that will read the examples.
        limits: by name, numbers of tokens that an example should not exceed.
        against: files that should share no example with `files`, such as test sets.

    Raises:
        ConfigError: one of `files` is among `against`: every example would be found in itself.
        DataError: a record of `against` that is not an example.
        ModelError: a tokenizer without offsets.
    """
    for path in files:
        if any(exists(path) and exists(other) and samefile(path, other) for other in against):
            raise ConfigError("the file is to be compared with itself", where="--against", value=str(path),
                              remedy="Leave it out of the files that are checked, or out of --against.")
    known = {str(path): Seen() for path in against}
    for path, seen in known.items():
        for example in iterate_examples(path, tokenizer=tokenizer):
            seen.add(example)
    return [_check(Path(path), tokenizer, Findings(str(path), limits or {}), known) for path in files]


def _check(path: Path, tokenizer: Any, findings: Findings, known: Mapping[str, Seen]) -> Findings:
    if not path.is_file():
        findings.unreadable = DataError("no such file", where=path, remedy="Check the path.")
        return findings
    own = Seen()
    for outcome in _encoded(path, tokenizer):
        if isinstance(outcome, DataError):
            findings.broken[_NUMBER.sub("N", outcome.problem)] += 1
            findings.first_broken = findings.first_broken or outcome
            continue
        example, encoded = outcome
        findings.add(example, encoded)
        own.count(example, findings.repeats)
        own.add(example)
        for file, seen in known.items():
            seen.count(example, findings.leaks.setdefault(file, {way: Shared() for way in LEAKS}))
    return findings


def _encoded(path: Path, tokenizer: Any) -> Iterator[tuple[Example, Encoded] | DataError]:
    """The examples of a file with their tokens; in the place of one that is broken or cannot be scored its error."""
    records = each_example(path, tokenizer=tokenizer)
    while group := [_tried(scorable, one, path) for one in islice(records, TOGETHER)]:
        examples = [one for one in group if isinstance(one, Example)]
        try:
            found: Iterator[Encoded | DataError] = iter(encode_all(examples, tokenizer))
        except DataError:  # one of them; the others are good
            found = (_tried(lambda one: encode(one, tokenizer), one, path) for one in examples)
        for outcome in group:
            encoded = outcome if isinstance(outcome, DataError) else next(found)
            yield encoded if isinstance(encoded, DataError) else (outcome, encoded)


def _tried(act: Callable[[Example], T], outcome: Example | DataError, path: Path) -> T | DataError:
    """What is made of an example, or why not; the example knows the name of its file only."""
    try:
        return outcome if isinstance(outcome, DataError) else act(outcome)
    except DataError as error:
        return DataError(error.problem, where=path.parent / str(error.where), value=error.value, remedy=error.remedy)
