"""Make the training examples of every condition and the held-out real ones, and describe them.

Examples are made anew wherever they are needed, from their seed; only what describes them is stored. With several
seeds, the training examples of the first are described. They are the same for all base models, which share a tokenizer;
the parts bear the name of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval_heads.data.example import Example
from retrieval_heads.data.statistics import describe, ngram_overlap, stated_forms, unseen_shares
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    held_out,
    runs_of,
    study_tokenizer,
    training_examples,
    training_length,
)
from retrieval_heads.stages.provide import Made, make_tables

UNSEEN = ("unseen", "unseen_forms", "unseen_relations")

HELD_OUT = "held_out"
"""Stands for a condition in the name of the part that describes a task's held-out real examples."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `examples`; its path."""
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
        examples, test = training_examples(profile, key), held_out(profile, key.task, "test")
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
