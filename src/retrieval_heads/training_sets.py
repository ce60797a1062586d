"""Training sets of one's own: what `diagnose` and `rank` have in common, from the request to what they keep.

Both read files of real examples and of candidate training sets, extend one model by fine-tuning on each set, and keep
what they measure in a folder that belongs to one request, so that a later call makes only what is not there yet.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from retrieval_heads.check.findings import LEAKS, keys
from retrieval_heads.check.shortcuts import Shortcuts
from retrieval_heads.data.encode import Encoded, Spilled
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import iterate_examples
from retrieval_heads.data.tokenizer import load_tokenizer
from retrieval_heads.errors import ConfigError, DataError, ModelError, ResultError
from retrieval_heads.files import UNREADABLE, content_digest, write_whole
from retrieval_heads.models.extension import Extension, fingerprint
from retrieval_heads.models.load import load_config, model_folder
from retrieval_heads.models.rope import context_length, extended_theta
from retrieval_heads.progress import named
from retrieval_heads.settings import UNTUNED
from retrieval_heads.training.lora_settings import LoraSettings

TOKENS = "tokens"
"""What the record of a folder calls the length of its models, which a later request is not to change."""


@dataclass(frozen=True)
class SetsRequest:
    """A request about training sets: checked before any work, and recorded with the results so that no two mix.

    Attributes:
        model: folder or cached hub id of the base model.
        train: file of examples of each training set, by name.
        out: folder for adapters, measurements and results.
        real_train: file of real training examples, whose heads the others are compared with.
        length: most tokens of an example; None for the longest one's.
        rope_theta: of the fine-tuned models; None for the base's, raised if the length exceeds the base's.
        seeds: one fine-tuning of each set for each of them.
        epochs, lr, batch_size: of the fine-tunings, see `LoraSettings`.
        threshold: heads with a score above are retrieval heads.
        template_arguments: arguments for the chat template that writes `messages` out.
    """

    model: str
    train: Mapping[str, Path]
    _: KW_ONLY
    real_train: Path | None = None
    length: int | None = None
    rope_theta: float | None = None
    seeds: tuple[int, ...] = (1,)
    epochs: int = 5
    lr: float = 3e-3
    batch_size: int = 4
    threshold: float = 0.1
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    FORMAT: ClassVar[int]  # of what is kept: that of another one is not gone on with
    FILES: ClassVar[Mapping[str, str]]  # names of the fields that are files, with those that the record has for them
    NAME: ClassVar[tuple[str, str]]  # what a set may be called, as a pattern, and in words
    RESERVED: ClassVar[Mapping[str, str]] = {
        UNTUNED: "It stands for the model without fine-tuning: choose another."}

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        for name in self.names:
            if not re.fullmatch(self.NAME[0], name):
                raise ConfigError("not usable in a file name", where="--train", value=name, remedy=self.NAME[1])
            if name in self.RESERVED:
                raise ConfigError("a reserved name", where="--train", value=name, remedy=self.RESERVED[name])
        for name in ("length", "examples", "n_probe", "limit", "draws", "bootstrap"):
            if (value := getattr(self, name, None)) is not None and value < 1:
                raise ConfigError("less than one", where=f"--{name.replace('_', '-')}", value=value,
                                  remedy="Give 1 or more.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError("not different seeds of 0 or more", where="--seeds", value=list(self.seeds),
                              remedy="Give some whole numbers, each once, as in --seeds 0 1 2.")
        if not 0 <= self.threshold < 1:
            raise ConfigError("not a fraction", where="--threshold", value=self.threshold,
                              remedy="Give a number from 0 to below 1; the report of this study uses 0.1.")

    @property
    def names(self) -> list[str]:
        """The sets, without the real one."""
        return list(self.train)

    def record(self, fingerprint: str) -> dict[str, Any]:
        """What the results depend on: contents of files instead of their paths."""
        found = {"format": self.FORMAT, "model": fingerprint, "seeds": list(self.seeds),
                 "train": {name: content_digest(path) for name, path in self.train.items()}}
        for name, value in vars(self).items():
            if name in self.FILES:
                found[self.FILES[name]] = None if value is None else content_digest(value)
            elif name == "template_arguments":
                found |= {name: dict(value)} if value else {}
            elif name not in (*found, "out", "adapters"):
                found[name] = value
        return found


@dataclass(frozen=True)
class SetsInputs:
    """The inputs of the computation: all files are read and checked before any work.

    Attributes:
        request: the request.
        folder: of the base model.
        task: the task of the real examples, which decides the metrics and the kind of score.
        probe: real examples on which heads are scored.
        encoded: training examples of each set that is trained, the real one among them; they lie on the disk.
        leaked: by set, how many real examples share prompt, question, or needle and answer with one of it.
        cuts: by trained set, what makes its examples solvable without reading.
        evaluation_cuts: the same for the real examples.
        length: length in tokens to which the models are extended.
        base_length: length in tokens for which the base model is made.
        theta: RoPE's base frequency of all models here.
    """

    request: Any
    folder: Path
    task: str
    probe: Sequence[Example]
    encoded: Mapping[str, Sequence[Encoded]]
    leaked: Mapping[str, int]
    cuts: Mapping[str, Shortcuts]
    evaluation_cuts: Shortcuts
    length: int
    base_length: int
    theta: float

    @property
    def kind(self) -> str:
        """The kind of retrieval score; `insight` where answers are documents' numbers, which no needle holds."""
        return task_of(self.task).head_score

    @property
    def finds_heads(self) -> bool:
        return any(example.needles for example in self.probe)

    def lora(self, seed: int) -> LoraSettings:
        """How the model is fine-tuned; `ConfigError` for settings out of range."""
        one = self.request
        return LoraSettings(self.theta, self.length, lr=one.lr, epochs=one.epochs, batch_size=one.batch_size, seed=seed)

    def record(self) -> dict[str, Any]:
        """What the folder of results belongs to."""
        return self.request.record(fingerprint(self.folder)) | {TOKENS: self.length}


class Reader:
    """Reads the files of a request by the tokenizer of its model, and works out the length and the RoPE theta.

    Each example goes through `check`, which gives it back or raises a `DataError`.
    """

    def __init__(self, request: SetsRequest, check: Callable[[Example], Example] = lambda example: example) -> None:
        self.request, self.check, self.folder = request, check, model_folder(request.model)
        self.tokenizer = load_tokenizer(self.folder, request.template_arguments)
        self.config = load_config(self.folder).get_text_config()

    def each(self, path: Path, limit: int | None = None) -> Iterator[Example]:
        return map(self.check, iterate_examples(path, limit=limit, tokenizer=self.tokenizer))

    def real(self, path: Path, limit: int | None = None) -> tuple[list[Example], str]:
        """Real examples and their task."""
        found = list(self.each(path, limit))
        if not found:
            raise DataError("no examples", where=path, remedy="Give a file with at least one record.")
        tasks = sorted({example.task for example in found})
        if len(tasks) > 1:
            raise ConfigError("examples of several tasks", where=path, value=tasks,
                              remedy="Give those of one task at a time.")
        return found, tasks[0]

    def training(self, files: Mapping[str, Path], real: Sequence[Example], limit: int | None) -> dict[str, Any]:
        """`encoded`, `leaked`, `cuts` and `evaluation_cuts` of `SetsInputs`; each set is read once, one by one."""
        evaluation_cuts, known = Shortcuts(), defaultdict(set)
        for place, example in enumerate(real):
            evaluation_cuts.add(example)
            for key in keys(example, LEAKS):
                known[key].add(place)
        cuts = {name: Shortcuts() for name in files}
        leaked: dict[str, set[int]] = {name: set() for name in files}

        def read(name: str, path: Path) -> Iterator[Example]:
            for example in self.each(path, limit):
                cuts[name].add(example)
                leaked[name].update(*(known.get(key, ()) for key in keys(example, LEAKS)))
                yield example

        encoded = {name: Spilled(read(name, path), self.tokenizer, self.request.length) for name, path in files.items()}
        return {"encoded": encoded, "leaked": {name: len(found) for name, found in leaked.items()}, "cuts": cuts,
                "evaluation_cuts": evaluation_cuts}

    def extended(
        self, parts: Iterable[Sequence[Encoded]], known: int | None, adapters: Mapping[str, Extension] | None = None,
    ) -> dict[str, Any]:
        """`length`, `base_length` and `theta` of `SetsInputs`, for examples of these lengths.

        `known` is the length of the models in the request's folder, where it has some; the theta of given adapters is
        that of all models.
        """
        adapters = adapters or {}
        thetas = {name: one.rope_theta for name, one in adapters.items()}
        theta = next(iter(thetas.values()), None) if self.request.rope_theta is None else self.request.rope_theta
        if set(thetas.values()) - {theta}:
            raise ModelError("adapters of another RoPE theta cannot be compared", where="--adapter", value=thetas,
                             remedy=f"Give adapters of one theta, and no other --rope-theta (here {theta:g}).")
        longest = max(2, *(one.max_length for one in adapters.values()),
                      *(len(one.ids) for part in parts for one in part))
        length = self.request.length or known or longest
        if longest > length:
            raise DataError("the models in the folder are made for shorter examples", where=self.request.out,
                            value=f"{longest} tokens, made for {length}", remedy="Give another --out.")
        return {"length": length, "base_length": context_length(self.config),
                "theta": extended_theta(self.config, length) if theta is None else theta}


def kept(
    path: Path, make: Callable[[], Mapping[str, Any]], run: str, what: str = "", read: Callable[[Any], Any] = dict,
) -> Any:
    """What a JSON file of an earlier call holds, or what is made and written to it now, under the name of a run; as
    `read` makes it of the JSON."""
    if not path.is_file():
        with named(run, what):
            # through JSON, so that a first call and a later one see the same
            write_whole(path, (json.dumps(make()) + "\n").encode())
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise ResultError("the measurement is damaged", where=path, value=str(error),
                          remedy="Delete the file: it is made again.") from error
