"""Beside claim C1: which axis of realism costs more, whether the two interact (Q2), and what more examples make up for.

Every effect of concept expression and context diversity is a contrast of the nine cell means, a weighted sum whose
weights add up to 0 (Cox 1958, *Planning of Experiments*, chapter 6), so it is the same for performance and for its
difference to `real`, up to the sign: the real run cancels, and with it its share of chance. Only the mean cost of all
cells depends on `real`.

* `FACTOR`: cost of going from the highest level to the lowest, averaged over the levels of the other factor;
* `FACTOR_linear`: the same by a straight line through all levels, equally spaced (a trend contrast);
* `FACTOR_curvature`: how much more a middle level costs than the line between the ends says (0: it lies on it);
* `difference`: the first factor's cost less the second's: which axis costs more;
* `interaction`: difference of differences of the extremes, low-low - low-high - high-low + high-high. Positive: the
  two together cost more than the sum of each alone; negative: less;
* `linear_by_linear`: the interaction of the two lines (Agresti 2013, section 10.5, for its use with ordered levels).
  With three levels the middle one has no weight, and it *is* `interaction`.

A metric between 0 and 1 cannot fall below 0, and what is lost already cannot be lost again: two large costs add up to
less than their sum, an interaction on this scale that may be none on another. So it counts only when it has the same
sign on the scale of log-odds too (Loftus 1978, doi 10.3758/BF03197461), into which the cells' means are turned in every
bootstrap sample.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import TaskScores, counts, task_scores
from retrieval_heads.claims.runs import cells, frame, from_cells, one_sign, told
from retrieval_heads.claims.verdict import ALL, NOT, SUPPORTED, UNDECIDED, Verdict, decide, in_each
from retrieval_heads.data.conditions import CONDITIONS, LEVELS
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.resample import RESAMPLES, Interval, bootstrap_crossed, crossed_means, percentile_interval
from retrieval_heads.wording import words

FACTORS = ("concept", "context")
"""The two factors: concept expression and context diversity."""

CELLS = tuple(f"{concept}_{context}" for concept in LEVELS for context in LEVELS)
"""Conditions in the order of `factorial_effects`: concept expression, then context diversity, from the most real."""

Q2 = partial(
    Verdict, claim="Q2", quantity="what both axes at their lowest cost beyond the sum of each alone", unit="fraction",
    n_of="examples", chapter="02_lora_finetuning", table="axis_effects", rule=
    "Supported in a task when the interval of the difference of differences of the extreme levels excludes 0, with one "
    "sign in each base model and the same sign on the scale of log-odds; over tasks when that holds, with one sign, in "
    "at least two.",
)


def axis_effects(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The effects of the nine conditions, on both scales, for each task that has them all.

    The cost of a condition is `real` less its score, paired by base model, seed and example; on the scale `log_odds` it
    is the error, 1 - score. No rows for a task that lacks a condition.
    """
    rows = []
    for one in task_scores(answers):
        scores, bases = one.together([REFERENCE, *CELLS])
        if scores.size:
            for scale in ("difference", "log_odds"):
                rows += _rows(one, scores, bases, scale, n_resamples)
    return frame(rows, "axis_effects")


def _rows(one: TaskScores, scores: np.ndarray, bases: tuple[str, ...], scale: str, n_resamples: int) -> list[dict]:
    costs = scores[0] - scores[1:] if scale == "difference" else 1 - scores[1:]
    costs = costs.reshape(len(LEVELS), len(LEVELS), *costs.shape[1:])
    by_base = {name: factorial_effects(costs[:, :, index], scale=scale, n_resamples=1)
               for index, name in enumerate(bases)}
    return [
        {"task": one.task, "scale": scale, "effect": effect, **cells(found), **counts(costs),
         "same_sign": one_sign(pd.Series({name: own[effect].estimate for name, own in by_base.items()}), one.bases),
         "reason": "no interval: nothing to resample" if np.isnan(found.low) else ""}
        for effect, found in factorial_effects(costs, scale=scale, n_resamples=n_resamples).items()
    ]


def factorial_effects(
    costs: np.ndarray, *, scale: str = "difference", n_resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Effects of two ordered factors on a cost, with intervals over all further axes, which are crossed and resampled.

    `costs` are `[levels of the first, levels of the second, ...]`, both from the most real level to the least: on the
    scale `difference` performance of `real` less that of the cell, paired; on `log_odds` errors, 1 - performance. The
    `mean` of all cells is told of on the scale `difference` only.
    """
    shape = costs.shape[:2]
    weights = contrasts(shape)
    if scale == "difference":
        weights = {"mean": np.full(shape, 1 / (shape[0] * shape[1]))} | weights
    means = costs.reshape(*shape, -1).mean(axis=-1)
    resampled = crossed_means(costs, kept=(0, 1), n_resamples=n_resamples, seed=seed)
    if scale == "log_odds":
        n = int(np.prod(costs.shape[2:]))
        means, resampled = _log_odds(means, n), None if resampled is None else _log_odds(resampled, n)
    return {
        name: percentile_interval(float((weight * means).sum()),
                                  None if resampled is None else np.einsum("ij,bij->b", weight, resampled))
        for name, weight in weights.items()
    }


def contrasts(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The weights of each effect, float64 `shape`, each adding up to 0."""
    ends, lines, found = [], [], {}
    for axis, (name, n) in enumerate(zip(FACTORS, shape, strict=True)):
        end, line = np.zeros(n), np.arange(n) - (n - 1) / 2
        end[0], end[-1] = -1, 1
        line *= (n - 1) / (line @ line)  # a slope times the range: unit of the extremes' difference
        ends.append(end)
        lines.append(line)

        parts = {name: end, f"{name}_linear": line}
        if n > 2:
            parts[f"{name}_curvature"] = np.array([-0.5, *[1 / (n - 2)] * (n - 2), -0.5])
        other = np.full(shape[1 - axis], 1 / shape[1 - axis])
        found |= {key: np.outer(part, other) if axis == 0 else np.outer(other, part) for key, part in parts.items()}
    return found | {
        "difference": found[FACTORS[0]] - found[FACTORS[1]],
        "interaction": np.outer(*ends), "linear_by_linear": np.outer(*lines),
    }


def _log_odds(means: np.ndarray, n: int) -> np.ndarray:
    """Log-odds of means of `n` values, half a case added on both sides so that 0 and 1 have one (Haldane 1956)."""
    return np.log((means * n + 0.5) / (n - means * n + 0.5))


def axis_sentence(effects: pd.DataFrame, task: str) -> str:
    """Which axis costs more in a task, and whether they interact; empty without rows of it.

    A difference counts when its interval excludes 0 and it has one sign in all base models; an interaction also needs
    the same sign on the scale of log-odds.
    """
    rows = effects[effects["task"] == task].set_index(["scale", "effect"])
    if rows.empty:
        return ""
    concept, context, more, both = (
        rows.loc[("difference", name)] for name in ("concept", "context", "difference", "interaction"))
    text = (f"From the most to the least real level, concept expression costs {told(concept)} and context diversity "
            f"{told(context)}; ")
    if _beyond(more):
        text += f"{'concept expression' if more.value > 0 else 'context diversity'} costs more. "
    else:
        text += "which costs more is not decided. "
    odds = rows.loc[("log_odds", "interaction")]
    if not _beyond(both):
        return text + "No interaction is shown."
    if odds.value * both.value <= 0:
        return text + "They interact in the metric, but not with the same sign in log-odds, so no interaction is shown."
    return text + (f"They interact: both together cost {'more' if both.value > 0 else 'less'} than the sum of each "
                   f"alone, by {abs(both.value):.3f}, with the same sign in log-odds.")


def _beyond(row: pd.Series) -> bool:
    """Whether an effect lies beyond its interval, with one sign in all base models."""
    return bool((row.low > 0 or row.high < 0) and row.same_sign)


def interaction_verdicts(effects: pd.DataFrame) -> list[Verdict]:
    """Question Q2: one verdict per task and one over all, from the table `axis_effects`."""
    rows = effects[effects["effect"] == "interaction"]
    of_tasks = [_of_task(task, part.set_index("scale")) for task, part in rows.groupby("task", sort=False)]
    signs = [one.effect > 0 for one in of_tasks if one.verdict == SUPPORTED]
    detail = in_each(of_tasks) if of_tasks else "No task has all nine conditions."
    verdict = decide(supported=max(signs.count(True), signs.count(False)) >= 2,
                     not_supported=len(of_tasks) >= 2 and not signs)
    return [*of_tasks, Q2(ALL, verdict, None, None, None, len(of_tasks), detail, n_of="tasks")]


def _of_task(task: str, scales: pd.DataFrame) -> Verdict:
    own, odds = scales.loc["difference"], scales.loc["log_odds"]
    numbers = from_cells(own)
    if None in numbers:
        return Q2(task, UNDECIDED, *numbers, int(own["n"]), "There is no interval.")
    alike = own["value"] * odds["value"] > 0
    detail = f"In log-odds {told(odds, digits=2)}, {'the same' if alike else 'another'} sign."
    return Q2(task, SUPPORTED if _beyond(own) and alike else NOT, *numbers, int(own["n"]), detail)


def sized_names() -> dict[str, dict[float, str]]:
    """For each condition of the sweep over sizes, the name of each size, from the smallest; 1 is the condition itself.

    Empty where there are no sized conditions.
    """
    found: dict[str, dict[float, str]] = {}
    for name, condition in CONDITIONS.items():
        if condition.scale != 1 and len(condition.members) == 1:
            found.setdefault(condition.members[0], {1.0: condition.members[0]})[float(condition.scale)] = name
    return {name: dict(sorted(sizes.items())) for name, sizes in found.items()}


def size_effects(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Mean score by condition and size, and how far it falls short of `real` with the usual number of examples.

    Only conditions with some run of another size.
    """
    rows = []
    for one in task_scores(answers):
        for condition, sizes in sized_names().items():
            known = {scale: name for scale, name in sizes.items() if name in one.conditions}
            if set(known) - {1.0}:
                rows += [_size_row(one, condition, scale, name, n_resamples) for scale, name in known.items()]
    return frame((row for row in rows if row), "size_effects")


def _size_row(one: TaskScores, condition: str, scale: float, name: str, n_resamples: int) -> dict | None:
    scores, bases = one.together([name] if name == REFERENCE else [name, REFERENCE])
    if not scores.size:
        return None
    beside = {} if name == REFERENCE else one.difference(scores[1] - scores[0], bases, n_resamples)
    return {
        "task": one.task, "condition": condition, "scale": scale, "metric": one.metric,
        **cells(bootstrap_crossed(scores[0], n_resamples=n_resamples)), "shortfall": beside.get("value"),
        "shortfall_low": beside.get("low"), "shortfall_high": beside.get("high"), **counts(scores),
        "same_sign": beside.get("same_sign", False),
    }


def size_sentence(effects: pd.DataFrame, task: str) -> str:
    """Whether the largest number of synthetic examples makes up for the difference in a task; empty without rows."""
    rows = effects[(effects["task"] == task) & (effects["condition"] != REFERENCE) & (effects["scale"] > 1)]
    parts = []
    for _, row in rows.iterrows():
        numbers = told(row, "shortfall")
        if row.shortfall_low > 0 and row.same_sign:
            said = f"still fall short by {numbers}"
        elif row.shortfall_high < 0 and row.same_sign:
            said = f"are better, shortfall {numbers}"
        else:
            said = f"are not shown to fall short, nor to make up for it: {numbers}"
        what = words(row.condition).replace(", ", " in a ")
        parts.append(f"{row.scale:g} times as many examples of {what} {said}")
    return f"Beside `real` with the usual number, {'; '.join(parts)}." if parts else ""
