"""Score every head of every run, and of the base models, on held-out real examples.

The runs are scored at the training length, a base model at the length that it was made for: at the other it answers
nothing, and would have no retrieval heads for that reason alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_heads.attention.scores import HeadScores, score_heads
from retrieval_heads.cli import Options
from retrieval_heads.keys import RunKey, study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages import finetune
from retrieval_heads.stages.common import CONTROL_SEED, EVERYTHING, Made, batch_size, held_out, load_run, make_tables

TABLES = ("head_scores",)


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `head_scores` of the runs and of the base models; its path.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    finetune.run(profile, options)
    runs = study_grid(profile, options.task, options.seed, options.base)
    return _detect(profile, [*base_keys(profile, options.task, options.base), *runs])


def run_base(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Score the heads of base models alone; the path of `head_scores`, with whatever runs have been scored too."""
    return _detect(profile, base_keys(profile, options.task, options.base))


def base_keys(profile: Profile, task: str | None = None, base: str | None = None) -> list[RunKey]:
    """What stands for the base models among the runs: one key a task and base model, with the condition `base`."""
    return [
        RunKey(profile.name, one_task, "base", CONTROL_SEED, one_base)
        for one_task in profile.tasks if task in (None, one_task)
        for one_base in profile.base_names if base in (None, one_base)
    ]


def _detect(profile: Profile, keys: list[RunKey]) -> list[Path]:
    grid = [*base_keys(profile), *study_grid(profile)]
    return make_tables(profile, TABLES, keys, scores_of_run, grid=grid, description="head detection")


def scores_of_run(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of all heads of one run, or of a base model."""
    model, tokenizer = load_run(profile, key, device)
    length = profile.base_length if key.condition == "base" else profile.train_length
    examples = held_out(profile, key.task, "probe", length)
    rows, used, dropped = [], 0, {}
    for mode in profile.detect.modes:
        found = score_heads(
            model, tokenizer, examples, profile.detect.kinds, mode, batch_size=batch_size(device, length),
        )
        for scores in found.values():
            rows += head_rows(key, scores)
        used += scores.n_used
        dropped |= {f"{mode}, {reason}": count for reason, count in scores.dropped.items()}
    return Made({"head_scores": rows}, used=used, dropped=dropped)


def head_rows(key: RunKey, scores: HeadScores) -> list[dict[str, Any]]:
    """One row a head."""
    return [
        {
            **key.columns, "kind": scores.kind, "score_mode": scores.mode, "layer": layer, "head": head,
            # the shortest decimal that gives the float32 back: no digits that mean nothing
            **{name: float(str(getattr(scores, field)[layer, head]))
               for name, field in (("score", "scores"), ("chance", "chance"), ("mass", "mass"))},
            "n_used": scores.n_used,
        }
        for layer in range(scores.shape[0]) for head in range(scores.shape[1])
    ]
