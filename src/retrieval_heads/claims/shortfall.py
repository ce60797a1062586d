"""Claim C1: models trained on synthetic data fall short of models trained on real data.

The quantity is the mean difference of `real` and a condition in the metric of the claim, paired by base model, seed and
example, with a bootstrap interval over all three. A difference counts *for* the claim when its interval lies above 0
and its mean is above 0 in every base model. One below 0 stands against it by its interval alone; the verdict
`not supported` asks for the same sign in every base model there too. An end of an interval that lies within its own
Monte Carlo error of 0 counts as 0.

Two base models are hardly a sample of base models. So beside the interval that decides stands the one with the base
models fixed, and in how many of them, taken by themselves, the difference lies above 0.

The condition for a test is that training on real data adds something to the raised RoPE theta alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import EXACT, RAISED, SCORE, TaskScores, claim_column, counts, task_scores
from retrieval_heads.claims.axes import axis_effects, axis_sentence, size_effects, size_sentence
from retrieval_heads.claims.runs import cells, frame, from_cells, one_sign, synthetic, told, where
from retrieval_heads.claims.verdict import ALL, NEEDED, Judged, Verdict, decide, over_tasks, plain, too_few
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.resample import MANY, RESAMPLES, crossed_ends, crossed_means, draw, percentile_interval
from retrieval_heads.wording import METRICS

ASKED, REFUTING = 10, 2
"""`NEEDED` of so many conditions have to fall short; more than the second that do better refute the claim."""

QUANTITY = "mean shortfall of the synthetic conditions"
C1 = partial(
    Verdict, claim="C1", unit="fraction", n_of="conditions", chapter="02_lora_finetuning", table="shortfall", rule=
    f"Supported when the difference to `real` lies above 0 for at least {NEEDED} of the {ASKED} synthetic conditions "
    f"and below 0 for none; not supported when it lies below 0 for more than {REFUTING}; tested only where `real` is "
    "better than the raised theta alone; a sign counts when it is that of each base model, and an end of an interval "
    "when it is further from 0 than its Monte Carlo error.",
)


def judge_shortfall(
    answers: pd.DataFrame, base_answers: pd.DataFrame | None = None, *, n_resamples: int = RESAMPLES,
    n_deciding: int = MANY,
) -> Judged:
    """Claim C1 from the tables `answers` and `base_answers`, without which no task can be decided."""
    tables = {
        "shortfall": shortfall(answers, n_resamples=n_resamples, n_deciding=n_deciding),
        "mean_shortfall": mean_shortfall(answers, n_resamples=n_resamples),
        "training_gain": gains(answers, base_answers, n_resamples=n_resamples),
        "axis_effects": axis_effects(answers, n_resamples=n_resamples),
        "size_effects": size_effects(answers, n_resamples=n_resamples),
    }
    return Judged(tables, tuple(verdicts(tables)))


def shortfall(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_deciding: int = MANY) -> pd.DataFrame:
    """By how much each condition with a run beside a real one falls short, in exact match and the score of the task.

    `n_deciding` are the samples of the synthetic conditions in the metric of the claim, on which the verdict hangs.
    """
    rows = []
    for column in (EXACT, SCORE):
        for one in task_scores(answers, column):
            deciding = synthetic(one.conditions) if column == claim_column(one.task) else []
            others = [name for name in one.conditions if name not in (REFERENCE, *deciding)]
            for names, count in ((deciding, n_deciding), (others, n_resamples)):
                rows += _differences(one, names, count)
    return frame(rows, "shortfall").sort_values(["task", "condition", "metric"], ignore_index=True)


def _differences(one: TaskScores, names: Iterable[str], n_resamples: int) -> Iterator[dict[str, Any]]:
    """A row for each condition; those with the same base models and seeds share the samples."""
    alike: dict[tuple, list[tuple[str, np.ndarray]]] = {}
    for name in names:
        scores, bases = one.together([REFERENCE, name])
        if scores.size:
            alike.setdefault((bases, scores.shape), []).append((name, scores[0] - scores[1]))
    for (bases, _), found in alike.items():
        ends = crossed_ends(np.stack([values for _, values in found]), n_resamples=n_resamples)
        for i, (name, values) in enumerate(found):
            drawn, fixed = ends["drawn"][i], ends["fixed"][i]
            by_base = pd.Series(values.mean(axis=(1, 2)), index=list(bases))
            yield {
                "task": one.task, "condition": name, "metric": one.metric, **cells(drawn[:3]),
                **dict(zip(("low_error", "high_error"), plain(drawn[3:]), strict=True)),
                **dict(zip(("fixed_low", "fixed_high"), plain(fixed[1:3]), strict=True)),
                "bases_above": sum(alone.low - alone.low_error > 0 for alone in (
                    ends[str(base)][i] for base in range(len(bases)))),
                "resamples": n_resamples, **counts(values), "same_sign": one_sign(by_base, one.bases),
            }


def mean_shortfall(answers: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """The mean difference over the synthetic conditions of each task, and over all tasks, by the metric of the claims.

    Over tasks the base models are drawn jointly, seeds and examples within each task; tasks and conditions are all
    there is.
    """
    rows, differences = [], []
    for one in task_scores(answers):
        names = synthetic(one.conditions)
        scores, bases = one.together([REFERENCE, *names])
        if not names or not scores.size:
            continue
        differences.append(scores[0] - scores[1:].mean(axis=0))
        rows.append({"task": one.task, "metric": one.metric, "n_conditions": len(names),
                     **one.difference(differences[-1], bases, n_resamples)})
    if len({row["n_bases"] for row in rows}) == 1 and len(rows) > 1:
        estimate = float(np.mean([one.mean() for one in differences]))
        together = percentile_interval(estimate, _drawn_over_tasks(differences, n_resamples))
        rows.append({
            "task": ALL, "metric": ALL, **cells(together),
            **{name: min(row[name] for row in rows) for name in ("n_conditions", "n", "n_seeds", "n_bases")},
            "same_sign": all(row["same_sign"] and row["value"] * together.estimate > 0 for row in rows),
        })
    return frame(rows, "mean_shortfall")


def _drawn_over_tasks(differences: list[np.ndarray], n_resamples: int) -> np.ndarray | None:
    samples = [crossed_means(one, kept=(0,), n_resamples=n_resamples, seed=index)
               for index, one in enumerate(differences)]
    if any(one is None for one in samples):
        return None
    by_base = np.mean(samples, axis=0)  # [samples, bases]
    return (draw(len(samples), by_base.shape[1], n_resamples) * by_base).mean(axis=1)


def gains(
    answers: pd.DataFrame, base_answers: pd.DataFrame | None = None, *, n_resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Mean of `real` less the raised theta alone, paired by base model and example, by the metric of the claims.

    Base models without one of the two are left out; `same_sign` is then False.
    """
    rows = []
    for one in task_scores(answers) if base_answers is not None else ():
        scores, bases = one.together([REFERENCE])
        found = _gain(one, scores[0], bases, base_answers, n_resamples) if scores.size else None
        if found:
            rows.append({"task": one.task, "metric": one.metric, **found, "paired": True})
    return frame(rows, "training_gain")


def _gain(
    one: TaskScores, real: np.ndarray, bases: tuple[str, ...], base_answers: pd.DataFrame, n_resamples: int,
) -> dict[str, Any] | None:
    column = claim_column(one.task)
    rows = where(base_answers, task=one.task, condition=RAISED).sort_values(["base", "example"])
    known = [name for name in bases if (rows["base"] == name).any()]
    if not known:
        return None
    of_bases = [rows[rows["base"] == name] for name in known]
    if any(tuple(part["example"]) != one.examples for part in of_bases):
        raise ResultError("other examples than in the table answers", where=f"table base_answers, {one.task}",
                          value=[len(part) for part in of_bases],
                          remedy=f"Score the same {len(one.examples)} examples.")
    alone = np.stack([part[column].to_numpy(np.float64) for part in of_bases])
    return one.difference(real[[bases.index(name) for name in known]] - alone[:, None, :], known, n_resamples)


def verdicts(tables: Mapping[str, pd.DataFrame]) -> list[Verdict]:
    """One verdict per task, and that over all tasks."""
    means, gain = (tables[name].set_index("task") for name in ("mean_shortfall", "training_gain"))
    of_tasks = [
        _of_task(task, tables, *(table.loc[task] if task in table.index else None for table in (means, gain)))
        for task in sorted(tables["shortfall"]["task"].unique())
    ]
    if not of_tasks:
        return []
    if ALL not in means.index:
        return [*of_tasks, over_tasks(of_tasks)]
    # the mean is over every task that has one, decided or not, each in its own metric
    whole = replace(over_tasks(of_tasks, from_cells(means.loc[ALL])), n=len(means) - 1,
                    quantity=f"{QUANTITY}, each task in its own metric")
    return [*of_tasks, whole]


def _of_task(task: str, tables: Mapping[str, pd.DataFrame], mean: pd.Series | None, gain: pd.Series | None) -> Verdict:
    rows = tables["shortfall"][tables["shortfall"]["task"] == task]
    rows = rows[rows["condition"].isin(synthetic(rows["condition"].unique()))]
    rows = rows[rows["metric"] == (EXACT if mean is None else mean["metric"])]
    count = _counts(rows)
    taught, why = _taught(gain)
    few = too_few(len(rows))
    verdict = decide(undecided=few or not taught, supported=count["short"] >= NEEDED and not count["better"],
                     not_supported=count["clearly_better"] > REFUTING)
    detail = few or _counted(rows, count)
    extra = [why, axis_sentence(tables["axis_effects"], task), size_sentence(tables["size_effects"], task)]
    effect = (None, None, None) if mean is None else from_cells(mean)
    metric = "" if mean is None else f" in {METRICS.get(mean['metric'], mean['metric'])}"
    return C1(task, verdict, *effect, len(rows), " ".join(text for text in (detail, *extra) if text),
              quantity=f"{QUANTITY}{metric}")


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    """Of the rows of `shortfall`: conditions that fall short, or are better, by an end that is not in doubt."""
    above_0, below_0 = rows["low"] - rows["low_error"] > 0, rows["high"] + rows["high_error"] < 0
    in_doubt = (rows["low"].abs() <= rows["low_error"]) | (rows["high"].abs() <= rows["high_error"])
    return {
        "short": int((above_0 & rows["same_sign"]).sum()), "better": int(below_0.sum()),
        "clearly_better": int((below_0 & rows["same_sign"]).sum()), "in_doubt": int(in_doubt.sum()),
        "fixed": int((rows["fixed_low"] > 0).sum()), "every_base": int((rows["bases_above"] == rows["n_bases"]).sum()),
    }


def _counted(rows: pd.DataFrame, count: Mapping[str, int]) -> str:
    text = (f"Of {len(rows)} synthetic conditions {count['short']} fall short of `real` beyond the interval and in "
            f"each base model, and {count['better']} are better beyond it.")
    error = rows[["low_error", "high_error"]].max(axis=None)
    if pd.isna(error):
        return text
    text += (f" The ends of the intervals are exact to {error:.4f} ({rows['resamples'].min():,} resamples); "
             f"{count['in_doubt']} of them lie so near 0 that they decide nothing.")
    if rows["n_bases"].max() > 1:
        text += (f" With these base models fixed, {count['fixed']} fall short beyond the interval; in each base model "
                 f"by itself, {count['every_base']} do.")
    return text


def _taught(gain: pd.Series | None) -> tuple[bool, str]:
    """Whether `real` is better than the raised theta alone, and the sentence that says so."""
    if gain is None or pd.isna(gain["low"]):
        return False, "What the raised theta alone answers is not known, so the condition for a test is not met."
    numbers = told(gain)
    if gain["low"] > 0 and gain["same_sign"]:
        return True, f"`real` gains {numbers} over the raised theta alone."
    where = "" if gain["same_sign"] else ", not of one sign in all base models"
    return False, f"`real` does not gain over the raised theta alone: {numbers}{where}; so the claim is not tested."
