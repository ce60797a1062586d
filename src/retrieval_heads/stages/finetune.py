"""Fine-tune an adapter for every run of the study, and score it on held-out real examples.

Every run, whatever it was trained on, is tested on the same real examples. By how much a condition falls short of the
real runs is therefore a mean of differences on the same examples, with an interval of its own.

Some runs are scored at further lengths than that of their training, too: what was learned for one length, and what for
more. Beside them stands the base model with the raised RoPE theta alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from retrieval_heads import paths
from retrieval_heads.bases import base_path
from retrieval_heads.claims.shortfall import shortfall
from retrieval_heads.data.encode import Spilled
from retrieval_heads.errors import ConfigError
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.manifest import Facts
from retrieval_heads.settings import Profile
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    RAISED,
    adapter_path,
    batch_size,
    has_adapter,
    held_out,
    load_run,
    metric_rows,
    n_training_examples,
    runs_of,
    scored_run,
    study_tokenizer,
    training_examples,
    untuned_keys,
)
from retrieval_heads.stages.provide import Made, make_tables
from retrieval_heads.store import Store, load_table

TABLES = ("training", "losses", "performance", "answers")


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the adapters and the tables `training`, `losses`, `performance`, `answers` and `shortfall`; their paths.

    Where the profile names a folder of `adapters`, these are scored and none is trained.
    """
    made = make_tables(profile, TABLES, train_and_test, runs_of(profile, options), runs_of(profile),
                       ready=partial(has_adapter, profile), description="fine-tuning")
    return [*made, derive(profile)]


def run_lengths(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `lengths`; its path."""
    run(profile, options)
    wanted, grid = (at_lengths(profile, [*untuned_keys(profile, some), *runs_of(profile, some)])
                    for some in (options, EVERYTHING))
    return make_tables(profile, ("lengths",), score_lengths, wanted, grid, description="lengths")


def derive(profile: Profile) -> Path:
    """Make the table `shortfall` from the table `answers` that is there; its path."""
    store = Store(profile)
    with store.merging():
        rows = shortfall(load_table(profile.name, "answers"), n_resamples=profile.bootstrap)
        store.write_part("shortfall", "all", rows, Facts(seeds=(HELD_OUT_SEED,)))
        return store.merge("shortfall", ["all"])


def train_and_test(profile: Profile, key: RunKey, device: str) -> Made:
    """Fine-tune one run, unless it has been, and score it at every evaluation length."""
    record = trained(profile, key) if profile.adapters else train(profile, key, device)
    performance, answers, predictions = scored_run(profile, key, device, profile.eval_lengths)
    examples = held_out(profile, key.task, "test")  # the answers are to those of the longest length
    losses = [
        {**key.columns, **{name: entry[name] for name in ("step", "loss", "learning_rate")}} for entry in record["loss"]
    ]
    rows = {
        "training": [{**key.columns, "steps": record["steps"], "tokens": record["tokens_seen"],
                      "first_loss": losses[0]["loss"], "final_loss": losses[-1]["loss"]}],
        "losses": losses,
        "performance": [{**key.columns, **row} for row in performance],
        "answers": [
            {**key.columns, **row, "reference": _printable(example.answer), "prediction": _printable(prediction)}
            for row, example, prediction in zip(answers, examples, predictions, strict=True)
        ],
    }
    return Made(rows, tuple(sorted({key.seed, HELD_OUT_SEED})), used=profile.n_test * len(profile.eval_lengths))


def at_lengths(profile: Profile, keys: list[RunKey]) -> list[RunKey]:
    """The runs that are scored at further lengths: of the profile's conditions for this, and the raised theta alone."""
    return [key for key in keys if key.condition in (RAISED, *profile.lengths.conditions)]


def score_lengths(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of one run at each of the further lengths."""
    from retrieval_heads.evaluation import evaluate_each

    settings, rows = profile.lengths, []
    model, tokenizer = load_run(profile, key, device, max(settings.eval_lengths))
    for length in settings.eval_lengths:
        examples = held_out(profile, key.task, "test", length)[: settings.n]
        scores = evaluate_each(model, tokenizer, examples, batch_size=batch_size(model, length))
        rows += [
            {**key.columns, "eval_length": length, **row} for row in metric_rows(scores, key.task, profile.bootstrap)
        ]
    return Made({"lengths": rows}, used=settings.n * len(settings.eval_lengths))


def train(profile: Profile, key: RunKey, device: str) -> dict[str, Any]:
    """Fine-tune one run, unless its adapter is there; the record of the training."""
    from retrieval_heads.training.finetune import finetune

    examples = Spilled(training_examples(profile, key), study_tokenizer(profile))
    return finetune(
        base_path(profile, key.base), examples, adapter_path(profile, key), profile.lora_settings(key.seed), device,
    )


def trained(profile: Profile, key: RunKey) -> dict[str, Any]:
    """The record of the training of a run whose adapter is in the profile's `adapters`.

    Raises:
        ConfigError: there is none for this run, or it was made with other settings or another number of examples.
        ModelError, ResultError: it is incomplete.
    """
    from retrieval_heads.training.training_record import read_record

    folder = adapter_path(profile, key)
    if not folder.is_dir():
        raise ConfigError(f"no trained adapter of the run {key.name}", where="adapters", value=profile.adapters,
                          remedy="Leave its task, condition, seed or base model out of the profile, or leave out "
                                 "`adapters`, so that it is trained.")
    record = read_record(folder)
    wanted = {
        "settings": json.loads(json.dumps(asdict(profile.lora_settings(key.seed)))),
        "examples": n_training_examples(profile, key),
    }
    for name, value in wanted.items():
        if record.get(name) != value:
            raise ConfigError(f"the adapter was trained with other {name} than the profile's, {value}",
                              where=paths.shown(folder), value=record.get(name),
                              remedy="Give the profile those of the adapter, or leave out `adapters`.")
    return record


def _printable(text: str) -> str | None:
    """As it stands in a table: any white space is a space (a no-break space, say), control characters are left out."""
    return "".join(" " if one.isspace() else one for one in text if one.isprintable() or one.isspace()) or None
