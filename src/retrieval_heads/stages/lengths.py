"""Score some runs at lengths other than that of their training: what was learned for one length, and what for more.

Beside the runs stands the base model with the raised RoPE theta alone. Everything is on held-out real examples.
"""

from __future__ import annotations

from pathlib import Path

from retrieval_heads.evaluation import evaluate_each
from retrieval_heads.keys import Options, RunKey, study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages import base, finetune
from retrieval_heads.stages.common import (
    EVERYTHING,
    RAISED,
    Made,
    batch_size,
    held_out,
    load_run,
    make_tables,
    metric_rows,
)

TABLES = ("lengths",)


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `lengths`; its path.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    finetune.run(profile, options)
    controls = base.control_keys(profile, options.task, options.base)
    wanted = chosen(profile, [*controls, *study_grid(profile, options.task, options.seed, options.base)])
    grid = chosen(profile, [*base.control_keys(profile), *study_grid(profile)])
    return make_tables(profile, TABLES, wanted, score_lengths, grid=grid, description="lengths")


def chosen(profile: Profile, keys: list[RunKey]) -> list[RunKey]:
    """The runs of the profile's conditions for this, and the raised theta alone."""
    return [key for key in keys if key.condition in (RAISED, *profile.lengths.conditions)]


def score_lengths(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of one run at each of the lengths."""
    settings, rows = profile.lengths, []
    model, tokenizer = load_run(profile, key, device, max(settings.eval_lengths))
    for length in settings.eval_lengths:
        examples = held_out(profile, key.task, "test", length)[: settings.n]
        scores = evaluate_each(model, tokenizer, examples, batch_size=batch_size(model, length))
        rows += [
            {**key.columns, "eval_length": length, **row} for row in metric_rows(scores, key.task, profile.bootstrap)
        ]
    return Made({"lengths": rows}, used=settings.n * len(settings.eval_lengths))
