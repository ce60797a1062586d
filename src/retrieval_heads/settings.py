"""What a profile may hold: the possible values, and which of them contradict each other.

`configs/NAME.yaml` says what each key means and in which unit; `config.load_profile` turns a file into a `Profile`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS
from retrieval_heads.errors import ConfigError
from retrieval_heads.training.lora_settings import SCHEDULES, LoraSettings

REFERENCE = "real"
"""The condition that head sets are compared with and patched from."""

UNTUNED = "untuned"
"""In a comparison of one's own training sets, the model without fine-tuning, with the RoPE theta of the others."""


def _increasing(values: tuple) -> tuple:
    if list(values) != sorted(set(values)):
        raise PydanticCustomError("increasing", "the values must increase, each given once")
    return values


def _unique(values: tuple) -> tuple:
    if len(set(values)) != len(values):
        raise PydanticCustomError("unique", "a value is given twice")
    return values


def _unique_names(paths: tuple) -> tuple:
    if len({PurePosixPath(path).name for path in paths}) != len(paths):
        raise PydanticCustomError("unique_names", "two base models have the same folder name, which names their runs")
    return paths


def _contradiction(key: str, value: Any, problem: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{problem}", {
        "problem": problem, "key": key, "value": value, "remedy": remedy,
    })


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_increasing)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*$")]
Names = (Field(min_length=1), AfterValidator(_unique))


class Settings(BaseModel):
    """Unknown keys, loose types and changes after loading are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Settings):
    """Fine-tuning of the q, k, v and o projections by LoRA; `LoraSettings`, with the same names, checks the ranges."""

    rank: Count
    alpha: float
    lr: float
    epochs: Count
    batch_size: Count
    accumulation: Count
    warmup: float
    schedule: Literal[SCHEDULES]
    max_grad_norm: float
    weight_decay: float
    bf16: bool
    gradient_checkpointing: bool
    save_steps: Count | None


class Lengths(Settings):
    """Scores at lengths other than that of the training."""

    conditions: Annotated[tuple[Name, ...], *Names]
    eval_lengths: Counts
    n: Count


class Detect(Settings):
    """Scores of the heads on held-out real examples."""

    kinds: Annotated[tuple[Literal["copy", "insight"], ...], *Names]
    modes: Annotated[tuple[Literal["forced", "generated"], ...], *Names]
    threshold: Share
    thresholds: Annotated[tuple[Share, ...], Field(min_length=1), AfterValidator(_increasing)]

    @model_validator(mode="after")
    def _threshold_is_swept(self) -> Detect:
        if self.threshold not in self.thresholds:
            raise _contradiction(
                "detect.threshold", self.threshold, f"not among detect.thresholds {list(self.thresholds)}",
                "Add it to the list, so that the default can be seen among the others.",
            )
        return self


class Knockout(Settings):
    """Removing the top k retrieval heads, and random ones."""

    modes: Annotated[tuple[Literal["zero", "mean", "uniform"], ...], *Names]
    scopes: Annotated[tuple[Literal["answer", "all"], ...], *Names]
    k: Counts
    draws: Count
    n: Count
    text_n: Count


class Patch(Settings):
    """Putting the outputs of the real model's heads into a synthetic model."""

    sets: Annotated[tuple[Literal["intersection", "complement", "random", "all"], ...], *Names]
    draws: Count
    n: Count


class GoldLoss(Settings):
    """Knock-out and patching measured by the loss of the gold answer, for models with few right answers.

    In their place: the tables of the stages `knockout` and `patch`, which count right answers.
    """

    conditions: Annotated[tuple[Name, ...], *Names]
    k: Counts
    draws: Count
    n: Count


class Profile(Settings):
    """One study. Lengths are in tokens; `n_*` are examples per task (and per condition, for training).

    With `adapters`, a folder of trained ones, nothing is trained: its runs take the adapter of their name from there.
    With `gold_loss`, losses of the gold answer are measured, and heads are knocked out and patched by them alone.
    With `data`, a folder of examples, nothing is generated, and tasks and conditions have the names of its files.
    With `controls`, a profile of this name has measurements that came later, and stand beside these where they are
    judged.
    """

    name: Name
    missing: tuple[str, ...]
    bases: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], *Names, AfterValidator(_unique_names)]
    tasks: Annotated[tuple[Name, ...], *Names]
    conditions: Annotated[tuple[Name, ...], *Names]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], *Names]
    base_length: Count
    train_length: Count
    eval_lengths: Counts
    rope_theta: Annotated[float, Field(gt=1)]
    adapters: Annotated[str, Field(min_length=1)] | None = None
    data: Annotated[str, Field(min_length=1)] | None = None
    controls: Name | None = None
    n_train: Count
    n_probe: Count
    n_test: Count
    lora: Lora
    lengths: Lengths
    detect: Detect
    knockout: Knockout
    patch: Patch
    gold_loss: GoldLoss | None = None
    bootstrap: Count
    workers: Count
    threads: Count
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]

    @property
    def base_names(self) -> tuple[str, ...]:
        """The last components of `bases`, as they stand in names, paths and tables."""
        return tuple(PurePosixPath(path).name for path in self.bases)

    def base_of(self, name: str) -> str:
        """The folder or hub id, as `bases` gives it, of the base model of that name; `ConfigError` without one."""
        if name not in self.base_names:
            raise ConfigError(f"the profile {self.name} has no such base model", where="base", value=name,
                              remedy=f"Use one of {', '.join(self.base_names)}. The profile's `bases` decide.")
        return self.bases[self.base_names.index(name)]

    def lora_settings(self, seed: int) -> LoraSettings:
        """The settings of the fine-tuning of a run with this seed; `ConfigError` where they contradict each other."""
        return LoraSettings(
            rope_theta=self.rope_theta, max_length=self.train_length, seed=seed, **self.lora.model_dump(),
        )

    @model_validator(mode="after")
    def _agrees(self) -> Profile:
        if self.data is None:
            self._check_known()
        if REFERENCE not in self.conditions:
            raise _contradiction(
                "conditions", list(self.conditions), f"`{REFERENCE}` is missing, which every other is compared with",
                f"Add `{REFERENCE}`.",
            )
        for key, value, limit in (
            *((f"{name}.n", getattr(self, name).n, "n_test") for name in ("lengths", "knockout", "patch", "gold_loss")
              if getattr(self, name) is not None),
            ("lora.batch_size", self.lora.batch_size, "n_train"),
        ):
            if value > getattr(self, limit):
                raise _contradiction(
                    key, value, f"more than {limit}, which is {getattr(self, limit)}", f"Lower it or raise {limit}."
                )
        return self

    def _check_known(self) -> None:
        """Without files of the user's own, tasks and conditions are those of the generated world."""
        for key, given, allowed in (
            ("tasks", self.tasks, TASKS), ("conditions", self.conditions, CONDITIONS),
            ("lengths.conditions", self.lengths.conditions, CONDITIONS),
        ):
            for place, value in enumerate(given):
                if value not in allowed:
                    raise PydanticCustomError("one_of", "unknown value", {
                        "allowed": list(allowed), "key": f"{key}.{place}", "value": value,
                    })
