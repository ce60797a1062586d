"""Score every head of every run, and of the base model, on held-out real examples.

The runs are scored at the training length, the base model at the length that it was made for: at the other it answers
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


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `head_scores` of the runs and of the base model; its path.

    Raises:
        ResultError: runs failed, or were made with other settings.
    """
    finetune.run(profile, options)
    return _detect(profile, [*base_keys(profile, options.task), *study_grid(profile, options.task, options.seed)])


def run_base(profile: Profile, task: str | None = None) -> list[Path]:
    """Score the heads of the base model alone; the path of `head_scores`, with whatever runs have been scored too."""
    return _detect(profile, base_keys(profile, task))


def base_keys(profile: Profile, task: str | None = None) -> list[RunKey]:
    """What stands for the base model among the runs: one key a task, with the condition `base`."""
    return [
        RunKey(profile.name, one, "base", CONTROL_SEED, profile.base_name) for one in profile.tasks
        if task in (None, one)
    ]


def _detect(profile: Profile, keys: list[RunKey]) -> list[Path]:
    grid = [*base_keys(profile), *study_grid(profile)]
    return make_tables(profile, ("head_scores",), keys, scores_of_run, grid=grid, description="head detection")


def scores_of_run(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of all heads of one run, or of the base model."""
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
