"""Score the base model without fine-tuning: as it is, and with the raised RoPE theta alone.

The second is the control that any gain from fine-tuning has to be compared with: a raised theta by itself already makes
longer contexts readable (Xiong et al., arXiv 2309.16039).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from retrieval_heads.cli import Options
from retrieval_heads.evaluation import evaluate_each
from retrieval_heads.models.load import load_model
from retrieval_heads.models.train_log import read_log
from retrieval_heads.settings import Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import (
    EVERYTHING,
    Made,
    base_path,
    batch_size,
    held_out,
    lengths,
    make_tables,
    metric_rows,
)

CONTROLS = ("base", "rope")
"""The base model as it is, and with the profile's RoPE theta."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the table `base`, and the base model's rows of `head_scores`; their paths.

    Raises:
        ResultError: a part failed, or was made with other settings.
    """
    grid = [f"{task}__{control}" for task in profile.tasks for control in CONTROLS]
    wanted = [part for part in grid if options.task in (None, part.split("__")[0])]
    made = make_tables(profile, ("base",), wanted, score_control, grid=grid, description="base model")
    return made + detect.run_base(profile, options.task)


def score_control(profile: Profile, part: str, device: str) -> Made:
    """The scores of one control (`TASK__CONTROL`) at the base length and all evaluation lengths."""
    task, control = part.split("__")
    model, tokenizer = load_model(
        base_path(profile), device=device, max_length=max(lengths(profile)),
        rope_theta=profile.rope_theta if control == "rope" else None,
    )
    rows, scored = [], sorted({profile.base_length, *profile.eval_lengths})
    for length in scored:
        scores = evaluate_each(
            model, tokenizer, held_out(profile, task, "test", length), batch_size=batch_size(device, length),
        )
        rows += [
            {"task": task, "condition": control, "eval_length": length, **row}
            for row in metric_rows(scores, task, profile.bootstrap)
        ]
    return Made({"base": rows}, used=profile.n_test * len(scored))


def training_log(profile: Profile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the base model was trained, from the `train_log.json` in its folder.

    Returns:
        The steps (`tokens` read, `answer_loss` in nats an answer token, ...) and the evaluations between them
        (`tokens`, `TASK_exact_match`, `TASK_copy_heads`, ...).

    Raises:
        ModelError: the model has no such log, as one that was not trained here.
    """
    rows = pd.DataFrame(read_log(base_path(profile)).rows)
    steps, measured = rows[rows.answer_loss.notna()], rows[rows.filter(like="_exact_match").notna().any(axis=1)]
    return steps.dropna(axis=1, how="all"), measured.dropna(axis=1, how="all")
