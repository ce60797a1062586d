"""Everything that a diagnosis reads before any work: examples in two disjoint parts, their tokens, length and theta."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval_heads.check.sameness import LEAKS, Seen
from retrieval_heads.check.shortcuts import Shortcuts
from retrieval_heads.data.encode import Encoded, Spilled, encode_all
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.jsonl import iterate_examples, scorable
from retrieval_heads.diagnose.request import Request
from retrieval_heads.errors import ConfigError, DataError, ModelError
from retrieval_heads.keys import RunKey
from retrieval_heads.models.extension import read_extension
from retrieval_heads.models.load import load_config, load_tokenizer, model_folder
from retrieval_heads.models.rope import context_length, extended_theta
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.training.lora_settings import LoraSettings


@dataclass(frozen=True)
class Inputs:
    """What a diagnosis computes from.

    Attributes:
        request: what is asked for.
        folder: of the base model.
        task: of the evaluation examples, which decides on metrics and on the kind of score.
        encoded: training examples of each set that is trained, the real one among them; they lie on the disk.
        probe: real examples that heads are scored on.
        test: real examples that models are scored on, none of which is in `probe`.
        tokens: prompt, answer and end of each test example.
        length: tokens that the models are extended to.
        base_length: tokens that the base model is made for.
        theta: RoPE's base frequency of all models here.
        leaked: by set, how many evaluation examples share prompt, question, or needle and answer with one of it.
        cuts: by set that is trained, what makes its examples solvable without reading.
        evaluation_cuts: the same of the evaluation examples.
    """

    request: Request
    folder: Path
    task: str
    encoded: Mapping[str, Sequence[Encoded]]
    probe: Sequence[Example]
    test: Sequence[Example]
    tokens: Sequence[int]
    length: int
    base_length: int
    theta: float
    leaked: Mapping[str, int]
    cuts: Mapping[str, Shortcuts]
    evaluation_cuts: Shortcuts

    @property
    def kind(self) -> str:
        """The kind of retrieval score; `insight` where answers are documents' numbers, which no needle holds."""
        return task_of(self.task).head_score

    @property
    def finds_heads(self) -> bool:
        return any(example.needles for example in self.probe)

    @property
    def conditions(self) -> list[str]:
        """All that is measured, the untuned model first and the real run, if there is one, second."""
        return [UNTUNED, *([REFERENCE] if self.request.has_real else []), *self.request.names]

    def runs(self, condition: str) -> list[RunKey]:
        """One run a seed; a single one of a given adapter or of the untuned model."""
        single = condition == UNTUNED or condition in self.request.adapters
        seeds = self.request.seeds[:1] if single else self.request.seeds
        return [RunKey("diagnose", _word(self.task), condition, seed, _word(self.folder.resolve().name))
                for seed in seeds]

    def lora(self, seed: int) -> LoraSettings:
        one = self.request
        return LoraSettings(
            self.theta, self.length, rank=one.rank, alpha=float(one.rank), lr=one.lr, epochs=one.epochs,
            batch_size=one.batch_size, seed=seed, bf16=one.bf16, gradient_checkpointing=one.gradient_checkpointing,
        )


def read_inputs(request: Request, known_length: int | None = None) -> Inputs:
    """Read and check all files.

    Args:
        request: what is asked for.
        known_length: tokens that the models in the request's folder are extended to, where it has some; without it,
            or a length that is asked for, those of the longest example.

    Raises:
        DataError: a file that cannot be read, an example that is too long, or too few evaluation examples.
        ConfigError: evaluation examples of several tasks, or settings that contradict each other.
        ModelError: a model or adapter that is missing or does not fit.
    """
    folder = model_folder(request.model)
    tokenizer = load_tokenizer(folder, request.template_arguments)
    config = load_config(folder).get_text_config()

    def read(path: Path) -> list[Example]:
        found = [scorable(one) for one in iterate_examples(path, limit=request.limit, tokenizer=tokenizer)]
        if not found:
            raise DataError("no examples", where=path, remedy="Give a file with at least one record.")
        return found

    real = read(request.evaluation)
    tasks = sorted({example.task for example in real})
    if len(tasks) > 1:
        raise ConfigError("examples of several tasks", where=request.evaluation, value=tasks,
                          remedy="Diagnose one task at a time.")
    probe, test = (read(request.probe), real) if request.probe else split(real, request.n_probe, request.evaluation)
    files = {**({REFERENCE: request.real_train} if request.real_train else {}), **request.train}
    sets = _TrainingSets(files, [*probe, *test], request, tokenizer)
    encoded = sets.encoded
    held_out = encode_all([*probe, *test], tokenizer, request.length)
    extensions = {name: read_extension(path) for name, path in request.adapters.items()}
    longest = max(*(len(one.ids) for part in (held_out, *encoded.values()) for one in part),
                  *(one.max_length for one in extensions.values()), 2)
    length = request.length or known_length or longest
    if longest > length:
        raise DataError("the models in the folder are made for shorter examples", where=request.out,
                        value=f"{longest} tokens, made for {length}", remedy="Give another --out.")
    theta = _common_theta(request.rope_theta, {name: one.rope_theta for name, one in extensions.items()})
    if theta is None:
        theta = extended_theta(config, length)
    inputs = Inputs(request, folder, tasks[0], encoded, probe, test, [len(one.ids) for one in held_out[len(probe):]],
                    length, context_length(config), theta,
                    {name: len(lines) for name, lines in sets.leaked.items()}, sets.cuts, sets.evaluation_cuts)
    inputs.lora(request.seeds[0])  # settings out of range are found before any work
    return inputs


class _TrainingSets:
    """The training sets as tokens, and what is seen of them while they are read, once and one example at a time.

    Attributes:
        encoded, cuts, evaluation_cuts: as in `Inputs`.
        leaked: by set, the lines of the evaluation examples that are known from it.
    """

    def __init__(
        self, files: Mapping[str, Path], held_out: Sequence[Example], request: Request, tokenizer: Any
    ) -> None:
        held, self.evaluation_cuts = Seen(), Shortcuts()
        for example in held_out:
            held.add(example)
            self.evaluation_cuts.add(example)
        self.cuts = {name: Shortcuts() for name in files}
        self.leaked: dict[str, set[int]] = {name: set() for name in files}

        def read(name: str, path: Path) -> Iterator[Example]:
            for example in iterate_examples(path, limit=request.limit, tokenizer=tokenizer):
                self.cuts[name].add(example)
                self.leaked[name] |= {line for way in LEAKS if (line := held.find(example, way)) is not None}
                yield scorable(example)

        self.encoded = {name: Spilled(read(name, path), tokenizer, request.length) for name, path in files.items()}


def _common_theta(wanted: float | None, given: Mapping[str, float]) -> float | None:
    """The RoPE theta that is wanted, or that of the given adapters; None where neither names one."""
    theta = wanted or next(iter(given.values()), None)
    if set(given.values()) - {theta}:
        raise ModelError("adapters of another RoPE theta cannot be compared", where="--adapter", value=dict(given),
                         remedy=f"Give adapters of one theta, and no other --rope-theta (here {theta:g}).")
    return theta


def split(examples: Sequence[Example], n_probe: int | None, where: object) -> tuple[list[Example], list[Example]]:
    """Probe and test examples: `n_probe` (half of them when None) spread evenly over the file, and the others."""
    n = len(examples) // 2 if n_probe is None else n_probe
    if not 1 <= n < len(examples):
        raise DataError(f"{len(examples)} examples do not make {n} for the probe and one or more for the test",
                        where=where, value=len(examples), remedy="Give more examples, a smaller --n-probe, or --probe.")
    chosen = {place * len(examples) // n for place in range(n)}
    return ([one for place, one in enumerate(examples) if place in chosen],
            [one for place, one in enumerate(examples) if place not in chosen])


def _word(text: str) -> str:
    """A text as a part of a run's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip(".-") or "own"
