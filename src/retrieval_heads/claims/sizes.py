"""Whether more synthetic examples make up for what they lack in realism (beside claim C1)."""

from __future__ import annotations

import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.repeated import cells, frame, one_sign
from retrieval_heads.claims.score_arrays import TaskScores, task_scores
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, bootstrap_crossed

NAN = float("nan")

COLUMNS = ("task", "condition", "scale", "metric", "value", "low", "high", "shortfall", "shortfall_low",
           "shortfall_high", "n", "n_seeds", "n_bases", "same_sign")


def sized_names() -> dict[str, dict[float, str]]:
    """For each condition of the sweep over sizes, the name of each size, from the smallest; 1 is the condition itself.

    Empty where there are no sized conditions.
    """
    found: dict[str, dict[float, str]] = {}
    for name, condition in CONDITIONS.items():
        scale = getattr(condition, "scale", 1)
        if scale != 1 and len(condition.members) == 1:
            found.setdefault(condition.members[0], {1.0: condition.members[0]})[float(scale)] = name
    return {name: dict(sorted(sizes.items())) for name, sizes in found.items()}


def size_effects(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Mean score by condition and size, and how far it falls short of `real` with the usual number of examples.

    Only conditions with some run of another size. Columns `COLUMNS`: `scale` is the number of training examples as a
    multiple of the study's, `value` the mean score over base models, seeds and examples, `shortfall` the paired
    difference of `real` and it (positive: `real` is better; empty for `real` itself), `same_sign` that of the
    shortfall in each base model, `n` examples.

    Raises:
        ResultError: as in `task_scores`.
    """
    rows = []
    for one in task_scores(answers):
        for condition, sizes in sized_names().items():
            known = {scale: name for scale, name in sizes.items() if name in one.conditions}
            if set(known) - {1.0}:
                rows += [_row(one, condition, scale, name, n_resamples) for scale, name in known.items()]
    return frame((row for row in rows if row), COLUMNS)


def _row(one: TaskScores, condition: str, scale: float, name: str, n_resamples: int) -> dict | None:
    scores, bases = one.together([name] if name == REFERENCE else [name, REFERENCE])
    if not scores.size:
        return None
    shortfall, same_sign = Interval(NAN, NAN, NAN), False
    if name != REFERENCE:
        differences = scores[1] - scores[0]
        shortfall = bootstrap_crossed(differences, n_resamples=n_resamples)
        same_sign = one_sign(pd.Series(differences.mean(axis=(1, 2)), index=list(bases)), one.bases)
    n_bases, n_seeds, n = scores.shape[1:]
    return {
        "task": one.task, "condition": condition, "scale": scale, "metric": one.metric,
        **cells(bootstrap_crossed(scores[0], n_resamples=n_resamples)), **cells(shortfall, "shortfall"), "n": n,
        "n_seeds": n_seeds, "n_bases": n_bases, "same_sign": same_sign,
    }


def size_sentence(effects: pd.DataFrame, task: str) -> str:
    """Whether the largest number of synthetic examples makes up for the difference in a task; empty without rows."""
    need(effects, COLUMNS, "size_effects")
    rows = effects[(effects["task"] == task) & (effects["condition"] != REFERENCE) & (effects["scale"] > 1)]
    parts = []
    for row in rows.itertuples():
        numbers = f"{row.shortfall:.3f} ({row.shortfall_low:.3f} to {row.shortfall_high:.3f})"
        if row.shortfall_low > 0 and row.same_sign:
            parts.append(f"still falls short by {numbers}")
        elif row.shortfall_high < 0 and row.same_sign:
            parts.append(f"is better, shortfall {numbers}")
        else:
            parts.append(f"is not shown to fall short, nor to make up for it: {numbers}")
        parts[-1] = f"`{row.condition}` with {row.scale:g} times as many examples {parts[-1]}"
    return f"Beside `real` with the usual number, {'; '.join(parts)}." if parts else ""
