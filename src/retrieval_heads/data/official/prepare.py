"""A data folder of real examples at length, made from official files: what a study at full size trains and tests on.

    OUT/TASK/real.jsonl.gz                  training examples of `length` tokens
    OUT/TASK/real_limited.jsonl.gz          as many, of few kinds of question (`split.py`)
    OUT/TASK/real_short.jsonl.gz            the questions of real.jsonl.gz at the short length, where one is asked for
    OUT/TASK/held_out/probe_LENGTH.jsonl.gz, test_LENGTH.jsonl.gz   the same questions at every length
    OUT/TASK/held_out/dev_LENGTH.jsonl.gz   for choosing settings, where some are asked for
    OUT/TASK/records.json                   ids of the records of each set
    OUT/TASK/manifest.json                  arguments, files, counts, digests; written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.official.answers import not_searched
from retrieval_heads.data.official.formats import Source
from retrieval_heads.data.official.lengthen import DEPTHS, Frame, check_depths, check_room, lengthen, spread
from retrieval_heads.data.official.records import check_count
from retrieval_heads.data.official.sources import (
    Pool,
    official_files,
    origin,
    read_sources,
    without_control_tokens,
    without_repeats,
)
from retrieval_heads.data.official.split import FEWER, Split, split
from retrieval_heads.data.tokenizer import load_tokenizer
from retrieval_heads.errors import ConfigError, DataError, ResultError
from retrieval_heads.files import UNREADABLE, content_digest, write_whole

MANIFEST = "manifest.json"
RECORDS = "records.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)


@dataclass(frozen=True)
class Request:
    """What to prepare.

    Attributes:
        length: tokens of the training examples.
        short_length: tokens of those of `real_short`; None makes none.
        eval_lengths: tokens of the held-out examples; `length` is always among them.
        seed: of the split, the haystacks and the depths.
        chat, instruction, template_arguments: see `Frame`.
        depths: dealt to the gold documents; see `lengthen.py`.
        dev: number of held-out examples of a development set; none for 0.
        records: the ids of the records of some sets (`train`, `limited`, `probe`, `test`, `dev`), as a records.json has
            them; the others are drawn.
    """

    task: str
    length: int
    short_length: int | None
    eval_lengths: tuple[int, ...]
    train: int
    probe: int
    test: int
    seed: int = 0
    chat: bool = False
    instruction: str = ""
    depths: tuple[float, ...] = DEPTHS
    dev: int = 0
    records: Mapping[str, Sequence[str]] = field(default_factory=dict)
    template_arguments: Mapping[str, Any] | None = None

    @property
    def held_out(self) -> dict[str, int]:
        """Number of examples by held-out set."""
        return {"probe": self.probe, "test": self.test} | ({"dev": self.dev} if self.dev else {})

    def __post_init__(self) -> None:
        for name in ("length", "train", "probe", "test", "short_length"):
            check_count(name, getattr(self, name))
        check_count("dev", self.dev or None)
        for name, number in {"train": self.train, **self.held_out}.items():
            if self.records.get(name) and len(self.records[name]) != number:
                raise ConfigError(f"{len(self.records[name])} {name} questions are named", where=name, value=number,
                                  remedy="Leave the number out, or give this one.")
        for length in self.eval_lengths:
            check_count("eval_lengths", length)
        object.__setattr__(self, "eval_lengths", tuple(sorted({*self.eval_lengths, self.length})))
        object.__setattr__(self, "depths", check_depths(self.depths))
        if self.instruction != self.instruction.strip():
            raise ConfigError(
                "white space around the instruction", where="instruction", value=self.instruction,
                remedy="Give the line alone.",
            )
        if self.short_length is not None and self.short_length >= self.length:
            raise ConfigError(
                f"not below the length of {self.length}", where="short_length", value=self.short_length,
                remedy="Give the length that the model was trained at before it is extended.",
            )


def prepare(request: Request, official: str | Path, tokenizer: str | Path, out: str | Path) -> tuple[Path, bool]:
    """Prepare a task's data folder, unless it was made by the same request already: the path of its manifest, and
    whether anything was made.

    Args:
        official: folder of the official files (of all tasks, by their names or in a folder each).
        tokenizer: folder of the model whose tokenizer counts and whose chat template is used.
        out: data folder; the task's files go to `OUT/TASK`.

    Raises:
        DataError: no or unreadable official files, or too few usable records.
        ModelError: no fast tokenizer in the folder, or no chat template.
        ConfigError: an argument out of range.
        ResultError: the folder holds files of another request, or of none.
    """
    files = official_files(official, request.task)
    frame = Frame(load_tokenizer(Path(tokenizer)), request.instruction, request.chat, request.template_arguments)
    folder = Path(out) / request.task
    arguments = _arguments(request, files, Path(tokenizer), frame)
    if _made(folder, arguments, request):
        return folder / MANIFEST, False
    dropped: Counter[str] = Counter()
    read = without_control_tokens(read_sources(request.task, files, dropped), frame.tokenizer, dropped)
    sources, pool = without_repeats(read, dropped), Pool(read)
    _check_numbers(request, len(sources))
    for_training = tuple(length for length in (request.short_length, request.length) if length is not None)

    def room(source: Source, training: bool, apart: frozenset[str]) -> None:
        lengths = for_training if training else request.eval_lengths
        check_room(source, pool, frame, lengths, seed=request.seed, apart=apart)

    parts = split(sources, room, train=request.train, probe=request.probe, test=request.test, dev=request.dev,
                  seed=request.seed, pinned=request.records, dropped=dropped)
    made = {}
    for name, examples in _examples(request, parts, pool, frame):
        write_examples(folder / name, examples)
        tokens = [example.meta["tokens"] for example in examples]
        counted = {"min": min(tokens), "mean": round(mean(tokens), 1), "max": max(tokens)}
        made[name] = {"examples": len(examples), "tokens": counted} | _file_facts(folder / name)
    ids = {name: [source.id for source in getattr(parts, name)] for name in ("train", "limited", *request.held_out)}
    _write_json(folder / RECORDS, ids)
    manifest = {
        "arguments": arguments, "licence": origin(request.task).licence, "citation": origin(request.task).citation,
        "records": {"read": len(read), "questions": len(sources), "documents": len(pool)},
        "dropped": dict(sorted(dropped.items())),
        "answers_not_searched": not_searched(source.answers for source in sources),
        "limited_to": parts.groups, "shared_gold_documents": parts.shared_gold(),
        "haystacks_without_gold_of_other_sets": parts.apart, "files": made,
    }
    _write_json(folder / MANIFEST, manifest)
    return folder / MANIFEST, True


def read_records(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The ids of each set, from the records.json of a folder that was prepared before; `DataError` for another file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        ids = {name: tuple(found[name]) for name in ("train", "limited", "probe", "test")} | {
            "dev": tuple(found.get("dev", ()))}
        if not all(isinstance(one, str) for part in ids.values() for one in part) or not all(map(ids.get, found)):
            raise ValueError("sets of ids are expected")
    except UNREADABLE as error:
        raise DataError("no records.json of `prepare`", where=path, value=f"{type(error).__name__}: {error}",
                        remedy="Give the file that `prepare` wrote beside real.jsonl.gz.") from None
    return ids


def files_of(request: Request) -> dict[str, tuple[str, int]]:
    """The files of a request in `OUT/TASK`, without the manifest: each one's set of records and length."""
    short = {} if request.short_length is None else {"real_short.jsonl.gz": ("train", request.short_length)}
    return {
        "real.jsonl.gz": ("train", request.length), "real_limited.jsonl.gz": ("limited", request.length), **short,
        **{f"held_out/{part}_{length}.jsonl.gz": (part, length)
           for part in request.held_out for length in request.eval_lengths},
    }


def _check_numbers(request: Request, questions: int) -> None:
    """Before anything is measured: that there are as many questions as examples are asked for."""
    numbers = {"train": request.train, **request.held_out}
    wanted = sum(numbers.values())
    if questions < wanted:
        raise DataError(
            f"the files hold {questions} different questions, and each example needs one of its own",
            where=f"{request.task}: {' + '.join(numbers)}",
            value=f"{' + '.join(map(str, numbers.values()))} = {wanted}", remedy=FEWER,
        )


def _examples(request: Request, parts: Split, pool: Pool, frame: Frame) -> Iterator[tuple[str, list[Example]]]:
    """Each file's name and examples."""
    apart = {training: parts.kept_away(training) for training in (True, False)}
    for file, (name, length) in files_of(request).items():
        sources = getattr(parts, name)
        # a record has the same depths at every length
        known_as = {"train": "real", "limited": "real_limited"}.get(name, name)
        depths = spread(request.depths, [len(source.marked) for source in sources], f"{request.seed}:{known_as}")
        yield file, [
            lengthen(source, pool, frame, length, depths=dealt, seed=request.seed,
                     apart=apart[name in ("train", "limited")])
            for source, dealt in zip(sources, depths, strict=True)
        ]


def _arguments(request: Request, files: Sequence[Path], tokenizer: Path, frame: Frame) -> dict[str, Any]:
    """All that the files follow from, as it is read back from JSON; no path of this machine."""
    # what is not asked for is left out, so that a folder that was made before it could be is still the request's own
    asked = {key: value for key, value in vars(request).items() if value or key not in ("dev", "records")}
    return json.loads(json.dumps({
        **asked, "template_arguments": frame.template_arguments or None,
        "sources": {path.name: _file_facts(path) for path in files},
        "tokenizer": _tokenizer_facts(tokenizer, frame.tokenizer),
    }))


def _file_facts(path: Path) -> dict[str, Any]:
    digest = content_digest(path)
    return {"bytes": path.stat().st_size, "sha256": digest}


def _tokenizer_facts(folder: Path, tokenizer: Any) -> dict[str, Any]:
    files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    return {
        "name": folder.resolve().name, "class": type(tokenizer).__name__, "size": len(tokenizer),
        "files": {name: content_digest(path) for name, path in files.items()},
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": getattr(tokenizer, "chat_template", None),
    }


def _made(folder: Path, arguments: dict[str, Any], request: Request) -> bool:
    """Whether the folder is finished; `ResultError` where it belongs to another request."""
    names, path = files_of(request), folder / MANIFEST
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        except UNREADABLE as error:
            raise ResultError("no manifest of `prepare`", where=path, value=str(error),
                              remedy="Name another folder.") from None
        other = [f"{key} is {before.get(key)!r} there and {arguments.get(key)!r} now"
                 for key in sorted({*before, *arguments}) if before.get(key) != arguments.get(key)]
        if other:
            raise ResultError("the folder was prepared with other arguments", where=folder, value="; ".join(other),
                              remedy="Name another folder, or delete this one.")
        return all((folder / name).is_file() for name in names)
    strangers = [
        path.relative_to(folder).as_posix() for pattern in ("real*.jsonl*", "held_out/*.jsonl*")
        for path in sorted(folder.glob(pattern)) if path.relative_to(folder).as_posix() not in names
    ]
    if strangers:
        raise ResultError(
            "the folder has real examples that are not of this request, and no manifest", where=folder,
            value=strangers, remedy="Name another folder, or delete what an interrupted preparation left.",
        )
    return False


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
