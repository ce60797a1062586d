"""Make the training examples of every condition and the held-out real ones, and describe them.

Examples are made anew wherever they are needed, from their seed; only what describes them is stored. With several
seeds, the training examples of the first are described. They are the same for all base models, which share a tokenizer;
the parts bear the name of the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_heads.data.statistics import describe, ngram_overlap, stated_forms, unseen_shares
from retrieval_heads.keys import Options, RunKey, study_grid
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    Made,
    held_out,
    make_tables,
    study_tokenizer,
    training_examples,
    training_length,
)

UNSEEN = ("unseen", "unseen_forms", "unseen_relations")

HELD_OUT = "held_out"
"""Stands for a condition in the name of the part that describes a task's held-out real examples."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `examples`; its path.

    Raises:
        ResultError: a part failed, or was made with other settings.
    """
    profile, first = profile.model_copy(update={"device": "cpu"}), profile.base_names[0]  # no model is needed
    grid = study_grid(profile, seed=profile.seeds[0], base=first)
    grid += [RunKey(profile.name, task, HELD_OUT, HELD_OUT_SEED, first) for task in profile.tasks]
    wanted = [key for key in grid if options.task in (None, key.task)]
    return make_tables(profile, ("examples",), wanted, describe_set, grid=grid, description="examples")


def describe_set(profile: Profile, key: RunKey, device: str) -> Made:
    """The training examples of one run, or the held-out ones of one task (condition `HELD_OUT`)."""
    if key.condition != HELD_OUT:
        examples = training_examples(profile, key)
        shares = dict.fromkeys(UNSEEN)  # how a needle is put is known of generated texts only
        if profile.data is None:
            shares = unseen_shares(stated_forms(examples), stated_forms(held_out(profile, key.task, "test")))
        length = training_length(profile, key.condition)
        overlap = float(f"{ngram_overlap(examples, held_out(profile, key.task, 'test')):.6g}")
        row = {"condition": key.condition, "split": "train", "length": length, **shares, "ngram_overlap": overlap}
        rows = [_row(profile, key.task, examples, row)]
        return Made({"examples": rows}, tuple(sorted({key.seed, HELD_OUT_SEED})), used=len(examples))
    rows = []
    unknown = dict.fromkeys((*UNSEEN, "ngram_overlap"))
    places = [("probe", profile.base_length), ("probe", profile.train_length)]
    places += [("test", length) for length in sorted({profile.base_length, *profile.eval_lengths})]
    for split, length in dict.fromkeys(places):
        examples = held_out(profile, key.task, split, length)
        rows.append(_row(profile, key.task, examples, {
            "condition": REFERENCE, "split": split, "length": length, **unknown,
        }))
    return Made({"examples": rows}, used=sum(row["n"] for row in rows))


def _row(profile: Profile, task: str, examples: Any, more: dict[str, Any]) -> dict[str, Any]:
    return {"task": task, "n": len(examples), **describe(examples, study_tokenizer(profile)), **more}
