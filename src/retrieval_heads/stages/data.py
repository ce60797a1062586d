"""Make the training examples of every condition and the held-out real ones, and describe them.

Examples are made anew wherever they are needed, from their seed; only what describes them is stored. With several
seeds, the training examples of the first are described.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_heads.cli import Options
from retrieval_heads.data.statistics import describe, stated_forms, unseen_shares
from retrieval_heads.keys import RunKey, study_grid
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.common import (
    EVERYTHING,
    HELD_OUT_SEED,
    Made,
    base_path,
    held_out,
    make_tables,
    tokenizer_of,
    training_examples,
    training_length,
)
from retrieval_heads.store import Part


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `examples`; its path.

    Raises:
        ResultError: a part failed, or was made with other settings.
    """
    runs = study_grid(profile, seed=profile.seeds[0])
    grid: list[Part] = [*runs, *(f"{task}__held_out" for task in profile.tasks)]
    wanted = [part for part in grid if options.task in (None, _task(part))]
    return make_tables(profile, ("examples",), wanted, describe_set, grid=grid, description="examples")


def describe_set(profile: Profile, part: Part, device: str) -> Made:
    """The training examples of one run, or the held-out ones of one task (`TASK__held_out`)."""
    if isinstance(part, RunKey):
        examples = training_examples(profile, part)
        shares = unseen_shares(stated_forms(examples), stated_forms(held_out(profile, part.task, "test")))
        length = training_length(profile, part.condition)
        row = {"condition": part.condition, "split": "train", "length": length, **shares}
        rows = [_row(profile, part.task, examples, row)]
        return Made({"examples": rows}, tuple(sorted({part.seed, HELD_OUT_SEED})), used=len(examples))
    task, rows = _task(part), []
    unknown = dict.fromkeys(("unseen", "unseen_forms", "unseen_relations"))
    places = [("probe", profile.base_length), ("probe", profile.train_length)]
    places += [("test", length) for length in sorted({profile.base_length, *profile.eval_lengths})]
    for split, length in dict.fromkeys(places):
        examples = held_out(profile, task, split, length)
        rows.append(_row(profile, task, examples, {
            "condition": REFERENCE, "split": split, "length": length, **unknown,
        }))
    return Made({"examples": rows}, used=sum(row["n"] for row in rows))


def _row(profile: Profile, task: str, examples: Any, more: dict[str, Any]) -> dict[str, Any]:
    return {"task": task, "n": len(examples), **describe(examples, tokenizer_of(base_path(profile))), **more}


def _task(part: Part) -> str:
    return part.task if isinstance(part, RunKey) else part.split("__")[0]
