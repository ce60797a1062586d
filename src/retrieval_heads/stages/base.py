"""What there is before any fine-tuning: scores of the base models, and the examples of every condition.

The base models are scored as they are, and with the raised RoPE theta alone. The second is the control that any gain
from fine-tuning has to be compared with: a raised theta by itself already makes longer contexts readable (Xiong et al.,
arXiv 2309.16039).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from retrieval_heads.bases import base_path
from retrieval_heads.data.example import Example
from retrieval_heads.data.statistics import describe, ngram_overlap, stated_forms, unseen_shares
from retrieval_heads.errors import ModelError
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    held_out,
    runs_of,
    scored_run,
    study_tokenizer,
    training_examples,
    training_length,
    untuned_keys,
)
from retrieval_heads.stages.provide import Made, make_tables

TABLES = ("base", "base_answers")

TRAIN_LOG = "train_log.json"

UNSEEN = ("unseen", "unseen_forms", "unseen_relations")

HELD_OUT = "held_out"
"""Stands for a condition in the name of the part that describes a task's held-out real examples."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables `base` and `base_answers`, and the base models' rows of `head_scores`; their paths."""
    wanted, grid = untuned_keys(profile, options), untuned_keys(profile)
    made = make_tables(profile, TABLES, score_control, wanted, grid, description="base models")
    return made + detect.run_base(profile, options)


def score_control(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of one control, which is the condition of the key, at the base length and all evaluation lengths."""
    lengths = sorted({profile.base_length, *profile.eval_lengths})
    rows, answers, _ = scored_run(profile, key, device, lengths)
    place = {"task": key.task, "condition": key.condition, "base": key.base}
    return Made({"base": [{**place, **row} for row in rows], "base_answers": [{**place, **row} for row in answers]},
                used=profile.n_test * len(lengths))


def run_data(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `examples`; its path.

    Examples are made anew wherever they are needed, from their seed; only what describes them is stored: of several
    seeds the first, under the name of the first base model, as all share a tokenizer.
    """
    profile, first = profile.model_copy(update={"device": "cpu"}), profile.base_names[0]  # no model is needed
    grid = runs_of(profile, Options(seed=profile.seeds[0], base=first))
    grid += [RunKey(profile.name, task, HELD_OUT, HELD_OUT_SEED, first) for task in profile.tasks]
    wanted = [key for key in grid if options.task in (None, key.task)]
    return make_tables(profile, ("examples",), describe_set, wanted, grid, description="examples")


def describe_set(profile: Profile, key: RunKey, device: str) -> Made:
    """The training examples of one run, or the held-out ones of one task (condition `HELD_OUT`)."""
    def row(examples: Sequence[Example], **more: Any) -> dict[str, Any]:
        return {"task": key.task, "n": len(examples), **describe(examples, study_tokenizer(profile)), **more}

    if key.condition != HELD_OUT:
        examples, test = list(training_examples(profile, key)), held_out(profile, key.task, "test")
        shares = dict.fromkeys(UNSEEN)  # how a needle is put is known of generated texts only
        if profile.data is None:
            shares = unseen_shares(stated_forms(examples), stated_forms(test))
        rows = [row(examples, condition=key.condition, split="train", length=training_length(profile, key.condition),
                    **shares, ngram_overlap=float(f"{ngram_overlap(examples, test):.6g}"))]
        return Made({"examples": rows}, tuple(sorted({key.seed, HELD_OUT_SEED})), used=len(examples))
    places = [("probe", profile.base_length), ("probe", profile.train_length)]
    places += [("test", length) for length in sorted({profile.base_length, *profile.eval_lengths})]
    rows = [
        row(held_out(profile, key.task, split, length), condition=REFERENCE, split=split, length=length,
            **dict.fromkeys((*UNSEEN, "ngram_overlap")))
        for split, length in dict.fromkeys(places)
    ]
    return Made({"examples": rows}, used=sum(one["n"] for one in rows))


def training_log(profile: Profile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the first base model of a profile was trained, from the `train_log.json` in its folder.

    Returns:
        The steps (`tokens` read, `answer_loss` in nats an answer token, ...) and the evaluations between them
        (`tokens`, `TASK_exact_match`, `TASK_copy_heads`, ...).

    Raises:
        ModelError: the model has no such log, as one that was not trained here.
    """
    rows = pd.DataFrame(read_log(base_path(profile))[1])
    steps, measured = rows[rows.answer_loss.notna()], rows[rows.filter(like="_exact_match").notna().any(axis=1)]
    return steps.dropna(axis=1, how="all"), measured.dropna(axis=1, how="all")


def read_log(folder: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Settings and rows of the training log in a model's folder; `ModelError` where it is missing or broken."""
    path = Path(folder) / TRAIN_LOG
    if not path.is_file():
        raise ModelError("the base model has no training log", where=path, remedy="Use a model trained by `pretrain`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(content["settings"]), list(content["log"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "not a readable training log", where=path, value=f"{type(error).__name__}: {error}",
            remedy="Restore the file, or train the base model again.",
        ) from error
