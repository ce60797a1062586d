"""What all stages share: the runs that are asked for, their examples, their models, and how these are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.bases import base_path
from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.folder import data_folder, held_out_file, made_of_others, training_file
from retrieval_heads.data.prompt_format import without_gold
from retrieval_heads.keys import Options, RunKey, study_grid
from retrieval_heads.models.layout import head_layout
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stats.resample import bootstrap_mean

if TYPE_CHECKING:  # the libraries for models take seconds: they are imported where there is something to compute
    from torch import nn

EVERYTHING = Options()
"""No restriction: all tasks, seeds and base models of the profile."""

HELD_OUT_SEED = 0
"""All runs are probed and tested on the same examples, whatever their own seed: they can be compared in pairs."""

CONTROL_SEED = 0
"""Stands in the seed column of the controls without training, which have none."""

UNTUNED = ("base", "rope")
"""The controls without training, in the place of a condition: a base model as it is, and with the raised RoPE theta."""

RAISED = "rope"


def runs_of(profile: Profile, options: Options = EVERYTHING) -> list[RunKey]:
    """The runs of the profile that are asked for."""
    return study_grid(profile, options.task, options.seed, options.base)


def untuned_keys(profile: Profile, options: Options = EVERYTHING) -> list[RunKey]:
    """What stands for the controls among the runs: one key a task, base model and control, its condition."""
    return [
        RunKey(profile.name, task, control, CONTROL_SEED, base)
        for task in profile.tasks if options.task in (None, task)
        for base in profile.base_names if options.base in (None, base)
        for control in UNTUNED
    ]


def dissected(keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are knocked out of and patched into: neither controls nor sizes of the sweep."""
    return [key for key in keys if kind_of(key.condition).dissected]


def adapter_path(profile: Profile, key: RunKey) -> Path:
    """The folder of a run's adapter: in the profile's `adapters`, from the checkout on, or where it is trained."""
    if profile.adapters is None:
        return key.adapter
    return paths.from_checkout(profile.adapters) / key.name


def has_adapter(profile: Profile, key: RunKey) -> bool:
    """Whether the adapter of a run is there."""
    return adapter_path(profile, key).is_dir()


def load_run(profile: Profile, key: RunKey, device: str, longest: int = 0) -> tuple[nn.Module, Any]:
    """The model of a run with its adapter, and its tokenizer; for one of `UNTUNED` its base model without any.

    On a GPU in the precision that it is trained in, on a CPU in float32, which is faster there. `longest` is in tokens,
    where it is more than the profile's lengths.
    """
    import torch

    from retrieval_heads.models.load import load_model

    half = profile.lora.bf16 and device.startswith("cuda")
    return load_model(
        base_path(profile, key.base), None if key.condition in UNTUNED else adapter_path(profile, key), device,
        torch.bfloat16 if half else torch.float32, profile.rope_theta if key.condition == RAISED else None,
        max(longest, profile.base_length, profile.train_length, *profile.eval_lengths),
    )


def study_tokenizer(profile: Profile) -> Any:
    """The tokenizer of the profile's base models, which all have the same, read once a process."""
    return _tokenizer_of(base_path(profile))


@cache
def _tokenizer_of(base: str) -> Any:
    from retrieval_heads.models.load import load_tokenizer, model_folder

    return load_tokenizer(model_folder(base))


def training_length(profile: Profile, condition: str) -> int:
    """Length in tokens of a condition's training examples: the profile's, or the base model's where they are short."""
    # a profile may train at less than the base model's length, as `smoke` does: short examples are then no longer
    short = kind_of(condition).short
    return min(profile.base_length, profile.train_length) if short else profile.train_length


def n_training_examples(profile: Profile, key: RunKey) -> int:
    """How many a run is trained on: the profile's number, or that of a condition that differs in size."""
    return max(1, round(profile.n_train * kind_of(key.condition).scale))


def files_of(profile: Profile) -> Path:
    """The folder of a profile whose examples come from files; `ConfigError` where it is not there."""
    return data_folder(profile.data, profile.name)


def training_examples(profile: Profile, key: RunKey) -> Iterable[Example]:
    """The examples that a run is trained on: with files of examples the first ones, whatever the seed.

    Those of files are read one at a time: there may be many.
    """
    n = n_training_examples(profile, key)
    if profile.data is not None:
        return training_file(files_of(profile), key.task, key.condition, n, key.seed, study_tokenizer(profile))
    return make_examples(
        task=key.task, condition=key.condition, length=training_length(profile, key.condition), n=n, seed=key.seed,
        split="train", tokenizer=study_tokenizer(profile),
    )


def sample_examples(profile: Profile, task: str) -> dict[str, Example]:
    """One training example of the base model's length for each condition that has examples of its own, to be shown."""
    if profile.data is not None:
        folder = files_of(profile)
        return {name: next(training_file(folder, task, name, 1)) for name in profile.conditions
                if not made_of_others(folder / task, name)}
    return {
        name: make_examples(task=task, condition=name, length=profile.base_length, n=1, seed=profile.seeds[0],
                            split="train", tokenizer=study_tokenizer(profile))[0]
        for name, condition in CONDITIONS.items() if not condition.members
    }


def held_out(profile: Profile, task: str, split: str, length: int | None = None) -> tuple[Example, ...]:
    """The real examples of the split `probe`, on which heads are scored, or `test`, on which models are.

    `length` is in tokens; None gives the training length for `probe`, the longest evaluation length for `test`.
    """
    if length is None:
        length = profile.train_length if split == "probe" else profile.eval_lengths[-1]
    n = profile.n_probe if split == "probe" else profile.n_test
    if profile.data is not None:
        return held_out_file(files_of(profile), task, split, length, n)
    return _held_out(base_path(profile), task, split, length, n)


@lru_cache(maxsize=32)
def _held_out(base: str, task: str, split: str, length: int, n: int) -> tuple[Example, ...]:
    return tuple(make_examples(
        task=task, condition=REFERENCE, length=length, n=n, seed=HELD_OUT_SEED, split=split,
        tokenizer=_tokenizer_of(base),
    ))


@lru_cache(maxsize=4)
def without_gold_documents(profile: Profile, task: str, length: int) -> tuple[Example, ...]:
    """The first test examples, as many as `gold_loss` asks for, without their gold documents."""
    return tuple(map(without_gold, held_out(profile, task, "test", length)[: profile.gold_loss.n]))


def metric_rows(scores: pd.DataFrame, task: str, n_resamples: int) -> list[dict[str, Any]]:
    """The columns metric, value, low, high and n of a table, from the scores of each example (`evaluate_each`)."""
    rows = []
    for metric in (*task_of(task).metrics, "forced_exact_match"):
        mean = bootstrap_mean(scores[metric], n_resamples=n_resamples)
        rows.append({"metric": metric, "value": mean.estimate, "low": mean.low, "high": mean.high, "n": len(scores)})
    return rows


def scored_run(
    profile: Profile, key: RunKey, device: str, lengths: Sequence[int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """A run on the test examples of each length: rows of the metrics, and of the last length rows of the answers, and
    the answers as text; all without the key columns."""
    from retrieval_heads.evaluation import answer_losses, evaluate_each

    model, tokenizer = load_run(profile, key, device)
    rows = []
    for length in lengths:
        size = batch_size(model, length)
        scores = evaluate_each(model, tokenizer, held_out(profile, key.task, "test", length), batch_size=size,
                               losses=profile.gold_loss is not None)
        rows += [{"eval_length": length, **row} for row in metric_rows(scores, key.task, profile.bootstrap)]
    answers = [
        {"example": index, "exact_match": row["exact_match"], "score": row[task_of(key.task).main_metric]}
        for index, row in enumerate(scores.to_dict("records"))
    ]
    if profile.gold_loss is not None:  # of the first examples also without the gold document, None for the others
        alone = answer_losses(model, tokenizer, without_gold_documents(profile, key.task, length), batch_size=size)
        for index, (row, subspan, nll) in enumerate(zip(answers, scores["best_subspan_em"], scores["nll"],
                                                        strict=True)):
            row |= {"subspan": subspan, "nll": float(f"{nll:.5g}"),
                    "nll_without": float(f"{alone[index]:.5g}") if index < len(alone) else None}
    return rows, answers, list(scores["prediction"])


def batch_size(model: nn.Module, length: int) -> int:
    """Examples of so many tokens in a forward pass without gradients: few on a CPU.

    On a GPU at most 64, 2^20 tokens, and 24 GiB of keys and values: answers are decoded by many short passes, which
    cost the same for many examples as for one.
    """
    weight, layout = model.get_input_embeddings().weight, head_layout(model)
    if weight.device.type == "cpu":
        return 8
    of_token = 2 * layout.n_layers * layout.n_kv_heads * layout.head_dim * weight.element_size()
    return max(1, min(64, 2**20 // length, 24 * 2**30 // (of_token * length)))
