"""What all stages share: the held-out examples, the model of a run, and parts that are computed once and merged.

A stage hands `make_tables` a function that computes one part (`function(profile, part, device) -> Made`), importable by
name so that worker processes can call it, and gets the paths of its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from retrieval_heads import paths
from retrieval_heads.bases import base_path
from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.folder import data_folder, held_out_file, made_of_others, training_file
from retrieval_heads.data.without_gold import without_gold
from retrieval_heads.evaluation import answer_losses, evaluate_each
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.models.folder import model_folder
from retrieval_heads.models.layout import head_layout
from retrieval_heads.models.load import load_model, load_tokenizer
from retrieval_heads.parallel import resolve_device
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.parts import Made, make_part_once, share_out
from retrieval_heads.stats.bootstrap import bootstrap_mean
from retrieval_heads.store import Part, Store

EVERYTHING = Options()
"""No restriction: all tasks, seeds and base models of the profile."""

HELD_OUT_SEED = 0
"""All runs are probed and tested on the same examples, whatever their own seed: they can be compared in pairs."""

CONTROL_SEED = 0
"""Stands in the seed column of the controls without training, which have none."""

UNTUNED = ("base", "rope")
"""The controls without training, in the place of a condition: a base model as it is, and with the raised RoPE theta."""

RAISED = "rope"


def make_tables(
    profile: Profile, tables: Sequence[str], parts: Sequence[Part], function: Callable[[Profile, Any, str], Made], *,
    grid: Iterable[Part] | None = None, ready: Callable[[Any], bool] | None = None, description: str = "runs",
) -> list[Path]:
    """Compute the parts that are not there yet, and merge the tables.

    Args:
        tables: the tables that `function` makes rows for.
        parts: what is wanted now.
        function: computes one part; only what is missing is computed.
        grid: everything that belongs to the tables, where `parts` is a piece of it; what else is there is merged too.
        ready: whether a part has whatever it leaves beside its rows; one that has not is computed again. Importable by
            name too.
        description: what stands beside the progress bar.

    Returns:
        The paths of the tables.

    Raises:
        ResultError: parts failed, or were made with other settings.
        StudyError: a base model that parts are to be made from is not there, or does not fit the others.
    """
    store, grid = Store.open(profile), list(grid or parts)
    missing = {part for table in tables for part in store.todo(table, parts)}
    todo = [part for part in parts if part in missing or (ready is not None and not ready(part))]
    if todo:
        store.prepare(todo)
        device = resolve_device(profile.device)
        share_out(partial(make_part_once, store, tuple(tables), function, ready), todo, profile, device, description)
    with store.merging():
        return [store.merge(table, grid, partial=len(grid) > len(parts)) for table in tables]


def study_tokenizer(profile: Profile) -> Any:
    """The tokenizer of the profile's base models, which all have the same, read once a process."""
    return _tokenizer_of(base_path(profile))


@cache
def _tokenizer_of(base: str) -> Any:
    return load_tokenizer(model_folder(base))


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

    `longest` is in tokens, where it is more than the profile's lengths.
    """
    adapter = None if key.condition in UNTUNED else adapter_path(profile, key)
    return load_model(
        base_path(profile, key.base), adapter=adapter, device=device, dtype=precision(profile, device),
        max_length=max(longest, *lengths(profile)),
        rope_theta=profile.rope_theta if key.condition == RAISED else None,
    )


def precision(profile: Profile, device: str) -> torch.dtype:
    """What models are measured in: on a GPU what they are trained in, on a CPU float32, which is faster there."""
    return torch.bfloat16 if profile.lora.bf16 and device.startswith("cuda") else torch.float32


def dissected(keys: Iterable[RunKey]) -> list[RunKey]:
    """The runs that heads are knocked out of and patched into: neither controls nor sizes of the sweep."""
    return [key for key in keys if kind_of(key.condition).dissected]


def lengths(profile: Profile) -> list[int]:
    """Every length in tokens that the profile has examples of, increasing."""
    return sorted({profile.base_length, profile.train_length, *profile.eval_lengths})


def training_length(profile: Profile, condition: str) -> int:
    """Length in tokens of a condition's training examples: the profile's, or the base model's where they are short."""
    # a profile may train at less than the base model's length, as `smoke` does: short examples are then no longer
    short = kind_of(condition).short
    return min(profile.base_length, profile.train_length) if short else profile.train_length


def files_of(profile: Profile) -> Path:
    """The folder of a profile whose examples come from files; `ConfigError` where it is not there."""
    return data_folder(profile.data, profile.name)


def training_examples(profile: Profile, key: RunKey) -> list[Example]:
    """The examples that a run is trained on: with files of examples the first ones, whatever the seed."""
    if profile.data is not None:
        return list(training_file(
            files_of(profile), key.task, key.condition, n_training_examples(profile, key), key.seed))
    return make_examples(
        task=key.task, condition=key.condition, length=training_length(profile, key.condition),
        n=n_training_examples(profile, key), seed=key.seed, split="train", tokenizer=study_tokenizer(profile),
    )


def n_training_examples(profile: Profile, key: RunKey) -> int:
    """How many those are: the profile's number, or that of a condition that differs in size."""
    return max(1, round(profile.n_train * kind_of(key.condition).scale))


def sample_examples(profile: Profile, task: str) -> dict[str, Example]:
    """One training example of the base model's length for each condition that has examples of its own, to be shown."""
    made = {"task": task, "length": profile.base_length, "n": 1, "seed": profile.seeds[0], "split": "train"}
    if profile.data is not None:
        folder = files_of(profile)
        return {name: next(training_file(folder, task, name, 1)) for name in profile.conditions
                if not made_of_others(folder / task, name)}
    return {
        name: make_examples(condition=name, tokenizer=study_tokenizer(profile), **made)[0]
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


def scored_metrics(task: str) -> tuple[str, ...]:
    """The metrics in the tables, for a task."""
    return (*task_of(task).metrics, "forced_exact_match")


def metric_rows(scores: pd.DataFrame, task: str, n_resamples: int) -> list[dict[str, Any]]:
    """The columns metric, value, low, high and n of a table, from the scores of each example (`evaluate_each`)."""
    rows = []
    for metric in scored_metrics(task):
        mean = bootstrap_mean(scores[metric], n_resamples=n_resamples)
        rows.append({
            "metric": metric, "value": mean.estimate, "low": mean.low, "high": mean.high, "n": len(scores),
        })
    return rows


def scored_answers(
    profile: Profile, task: str, model: nn.Module, tokenizer: Any, length: int,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The scores of a model on the test examples of one length (`evaluate_each`), and the rows of a table of answers.

    With the profile's `gold_loss` the rows have the loss of the gold answer, and of the first examples that without
    the gold document (None for the others).
    """
    examples, size = held_out(profile, task, "test", length), batch_size(model, length)
    scores = evaluate_each(model, tokenizer, examples, batch_size=size, losses=profile.gold_loss is not None)
    rows = [
        {"example": index, "exact_match": row["exact_match"], "score": row[task_of(task).main_metric]}
        for index, row in enumerate(scores.to_dict("records"))
    ]
    if profile.gold_loss is not None:
        alone = answer_losses(model, tokenizer, without_gold_documents(profile, task, length), batch_size=size)
        for index, (row, subspan, nll) in enumerate(zip(rows, scores["best_subspan_em"], scores["nll"], strict=True)):
            row |= {"subspan": subspan, "nll": float(f"{nll:.5g}"),
                    "nll_without": float(f"{alone[index]:.5g}") if index < len(alone) else None}
    return scores, rows


@lru_cache(maxsize=4)
def without_gold_documents(profile: Profile, task: str, length: int) -> tuple[Example, ...]:
    """The first test examples, as many as `gold_loss` asks for, without their gold documents."""
    return tuple(map(without_gold, held_out(profile, task, "test", length)[: profile.gold_loss.n]))


def batch_size(model: nn.Module, length: int) -> int:
    """Examples of so many tokens in a forward pass without gradients: few on a CPU.

    On a GPU at most 64, 2^19 tokens, and 24 GiB of keys and values: answers are decoded by many short passes, which
    cost the same for many examples as for one.
    """
    weight, layout = model.get_input_embeddings().weight, head_layout(model)
    if weight.device.type == "cpu":
        return 8
    of_token = 2 * layout.n_layers * layout.n_kv_heads * layout.head_dim * weight.element_size()
    return max(1, min(64, 2**19 // length, 24 * 2**30 // (of_token * length)))
