"""What is to be diagnosed, and everything that is read before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import scorable
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import content_digest
from retrieval_heads.keys import RunKey
from retrieval_heads.models.extension import ADAPTER_WEIGHTS, read_extension
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stats.resample import Interval, bootstrap_crossed
from retrieval_heads.training.lora_settings import LoraSettings
from retrieval_heads.training_sets import Reader, SetsInputs, SetsRequest


@dataclass(frozen=True)
class Request(SetsRequest):
    """One call of `diagnose`.

    Attributes:
        evaluation: file of real examples, from which probe and test examples are taken.
        probe: file of the examples on which heads are scored; without it, a part of `evaluation`.
        adapters: trained adapters by set name, instead of training; `real` may be one. Each counts as the first seed,
            and `rope_theta` is then theirs.
        n_probe: how many evaluation examples the probe gets; None for half of them.
        limit: use only the first `limit` examples of each file, for a trial.
        rank, bf16, gradient_checkpointing: of the fine-tunings, see `LoraSettings`.
        draws: random controls for each set of heads.
        bootstrap: samples of each interval.

    The others are those of `SetsRequest`.

    Raises:
        ConfigError: no set, a name that is taken or cannot be a file's, a number out of range, or options that clash.
    """

    evaluation: Path
    out: Path
    _: KW_ONLY
    probe: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    n_probe: int | None = None
    limit: int | None = None
    rank: int = 8
    bf16: bool = False
    gradient_checkpointing: bool = False
    draws: int = 3
    bootstrap: int = 2000

    FORMAT = 3
    FILES: ClassVar = {"evaluation": "eval", "real_train": "real_train", "probe": "probe"}
    NAME = (r"(?!\.+$)[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*", "Use letters, digits, `.`, `-` and single `_`.")
    RESERVED: ClassVar = {
        REFERENCE: "Give real training examples by --real-train, or an adapter by --adapter real=FOLDER.",
        **dict.fromkeys((UNTUNED, "base"), SetsRequest.RESERVED[UNTUNED]),
    }

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("no training set", where="--train", value=[],
                              remedy="Give --train NAME=FILE or --adapter NAME=FOLDER at least once.")
        super().__post_init__()
        twice = sorted(set(self.train) & set(self.adapters)) or (
            [REFERENCE] if self.real_train and REFERENCE in self.adapters else [])
        if twice:
            raise ConfigError("both examples and an adapter", where="--adapter", value=twice,
                              remedy="Give one of them for each set.")
        if self.probe is not None and self.n_probe is not None:
            raise ConfigError("the probe examples are given twice", where="--n-probe and --probe", value=self.n_probe,
                              remedy="Leave one of them out.")

    @property
    def names(self) -> list[str]:
        """The sets that are diagnosed, without the real one."""
        return [*self.train, *(name for name in self.adapters if name != REFERENCE)]

    @property
    def has_real(self) -> bool:
        return self.real_train is not None or REFERENCE in self.adapters

    def record(self, fingerprint: str) -> dict[str, Any]:
        """What the results depend on: contents of files instead of their places."""
        adapters = {name: content_digest(Path(folder) / ADAPTER_WEIGHTS) for name, folder in self.adapters.items()}
        return super().record(fingerprint) | {"adapter": adapters}


@dataclass(frozen=True)
class Inputs(SetsInputs):
    """The inputs of a diagnosis.

    Attributes:
        test: real examples on which models are scored; none of them is in `probe`.
        tokens: prompt, answer and end of each test example.

    The others are those of `SetsInputs`.
    """

    test: Sequence[Example]
    tokens: Sequence[int]

    @property
    def conditions(self) -> list[str]:
        """All that is measured, the untuned model first and the real run, if there is one, second."""
        return [UNTUNED, *([REFERENCE] if self.request.has_real else []), *self.request.names]

    def runs(self, condition: str) -> list[RunKey]:
        """One run per seed; a single one of a given adapter or of the untuned model."""
        single = condition == UNTUNED or condition in self.request.adapters
        task, base = (re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip(".-") or "own"
                      for text in (self.task, self.folder.resolve().name))
        return [RunKey("diagnose", task, condition, seed, base)
                for seed in (self.request.seeds[:1] if single else self.request.seeds)]

    @property
    def every_run(self) -> list[RunKey]:
        """The runs of all conditions, in their order."""
        return [key for condition in self.conditions for key in self.runs(condition)]

    def real_run(self, key: RunKey) -> RunKey | None:
        """The real run that a run is compared with and patched from: that of its seed if possible; None without any."""
        runs = self.runs(REFERENCE) if self.request.has_real else []
        return next((one for one in runs if one.seed == key.seed), next(iter(runs), None))

    def interval(self, values: np.ndarray) -> Interval:
        """The mean of `values` `[seeds, n]` or `[seeds, draws, n]`; seeds, random draws and examples are resampled."""
        return bootstrap_crossed(values, n_resamples=self.request.bootstrap)

    def row(self, condition: str, measure: str, found: np.ndarray | Interval, n_seeds: int = 0) -> dict[str, Any]:
        """One row of the table `summary`: of values as in `interval`, or of an interval that is known."""
        value = self.interval(found) if isinstance(found, np.ndarray) else found
        return {"condition": condition, "measure": measure, "value": value.estimate, "low": value.low,
                "high": value.high, "chance": None, "n": len(self.test), "n_seeds": n_seeds or len(found)}

    def lora(self, seed: int) -> LoraSettings:
        """How the model is fine-tuned; `ConfigError` for settings out of range."""
        one = self.request
        return replace(super().lora(seed), rank=one.rank, alpha=float(one.rank), bf16=one.bf16,
                       gradient_checkpointing=one.gradient_checkpointing)


def read_inputs(request: Request, known_length: int | None = None) -> Inputs:
    """Read and check all files; `known_length` is that of the models in the request's folder, where it has some.

    Raises:
        DataError: a file that cannot be read, an example that is too long, or too few evaluation examples.
        ConfigError: evaluation examples of several tasks, or settings that contradict each other.
        ModelError: a model or adapter that is missing or does not fit.
    """
    reader = Reader(request, scorable)
    test, task = reader.real(request.evaluation, request.limit)
    if request.probe:
        probe, _ = reader.real(request.probe, request.limit)
    else:
        probe, test = split(test, request.n_probe, request.evaluation)
    files = {**({REFERENCE: request.real_train} if request.real_train else {}), **request.train}
    sets = reader.training(files, [*probe, *test], request.limit)
    held_out = encode_all([*probe, *test], reader.tokenizer, request.length)
    length = reader.extended([held_out, *sets["encoded"].values()], known_length,
                             {name: read_extension(path) for name, path in request.adapters.items()})
    inputs = Inputs(request, reader.folder, task, probe, **sets, **length, test=test,
                    tokens=[len(one.ids) for one in held_out[len(probe):]])
    inputs.lora(request.seeds[0])  # settings out of range are found before any work
    return inputs


def split(examples: Sequence[Example], n_probe: int | None, where: object) -> tuple[list[Example], list[Example]]:
    """Probe and test examples: `n_probe` (half of them when None) spread evenly over the file, and the others."""
    n = len(examples) // 2 if n_probe is None else n_probe
    if not 1 <= n < len(examples):
        raise DataError(f"{len(examples)} examples do not make {n} for the probe and one or more for the test",
                        where=where, value=len(examples), remedy="Give more examples, a smaller --n-probe, or --probe.")
    chosen = {place * len(examples) // n for place in range(n)}
    return ([one for place, one in enumerate(examples) if place in chosen],
            [one for place, one in enumerate(examples) if place not in chosen])
