"""What the runs of a diagnosis say together: tidy tables, and for each set the few numbers that a reader looks for.

By the place of the needle, too: a set whose needles all stand at one place teaches a model to read that place. Its mean
score rises by what it wins there, and says nothing of what it does not find elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.check.shortcuts import PARTS, places
from retrieval_heads.data.example import task_of
from retrieval_heads.diagnose.heads import Parts, gains, losses, missed, overlaps, shares
from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.keys import RunKey
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stages.common import metric_rows

SUMMARY = ["condition", "measure", "value", "low", "high", "chance", "n", "n_seeds"]

BESIDE = ("subspan", "answer_loss", "context_gain", "end_loss", "words")
"""What stands beside the score, see `values`."""

SHOWN = ("score", "subspan", "answer_loss", "context_gain")
"""What is told by the place of the needle."""

GAINS = ("score", "subspan", "context_gain")
"""What can be gained at a place: higher is better."""

PERMUTATIONS = 2000


@dataclass(frozen=True)
class Result:
    """Everything that the report is made from.

    Attributes:
        inputs: the inputs that it was computed from.
        tables: tidy tables by name.
        metric: the metric by which sets are compared.
    """

    inputs: Inputs
    tables: Mapping[str, pd.DataFrame]
    metric: str

    def of(self, condition: str, measure: str) -> pd.Series | None:
        """The row of the table `summary`; None where it is not known."""
        table = self.tables["summary"]
        rows = table[(table["condition"] == condition) & (table["measure"] == measure)]
        return rows.iloc[0] if len(rows) and pd.notna(rows["value"].iloc[0]) else None

    def chance_range(self, condition: str, reference: str) -> tuple[float, float]:
        """The central 95% of recall by random heads of the same layers, a mean over seeds."""
        table = self.tables["overlap"]
        own = table[(table["condition"] == condition) & (table["reference"] == reference)
                    & (table["threshold"] == self.inputs.request.threshold) & (table["measure"] == "recall")]
        return float(own["chance_low"].mean()), float(own["chance_high"].mean())

    def n_heads(self, condition: str) -> list[int]:
        """Retrieval heads of each run of a condition."""
        table = self.tables["head_scores"]
        if table.empty:
            return []
        own = table[table["condition"] == condition]
        return [int((one["score"] > self.inputs.request.threshold).sum()) for _, one in own.groupby("seed")]


def result(inputs: Inputs, measured: Parts, knocked_out: Parts, patched: Parts) -> Result:
    """The tables and the summary, from the parts of all runs."""
    metric, at = task_of(inputs.task).main_metric, places(inputs.test)
    heads = _rows(measured, lambda key, one: one["heads"])
    tables = {
        "performance": _rows(measured, lambda key, one: [
            {**key.columns, **one_row}
            for one_row in metric_rows(pd.DataFrame(one["answers"]), inputs.task, inputs.request.bootstrap)
        ]),
        "answers": _rows(measured, lambda key, one: [
            {**key.columns, "example": number, "reference": example.answer, "prediction": answer["prediction"],
             "place": place, **{name: value for name, value in answer.items() if name not in ("id", "prediction")}}
            for number, (example, place, answer) in enumerate(zip(inputs.test, at, one["answers"], strict=True))
        ]),
        "by_place": pd.DataFrame(_by_place(inputs, measured, metric, np.array(at))),
        "place_gains": pd.DataFrame(_place_gains(inputs, measured, metric, np.array(at))),
        "training": _rows(measured, lambda key, one: [{**key.columns, **one["training"]}] if one["training"] else []),
        "head_scores": heads,
        "overlap": overlaps(inputs, measured) if len(heads) else pd.DataFrame(),
        "missed_heads": missed(inputs, measured) if len(heads) else pd.DataFrame(),
        "knockout": _rows(knocked_out, lambda key, one: one["knockout"]),
        "knockout_effects": _rows(knocked_out, lambda key, one: one["knockout_effects"]),
        "patching": _rows(patched, lambda key, one: one["patching"]),
    }
    summary = [*_scores(inputs, measured, metric), *shares(inputs, measured, tables["overlap"]),
               *losses(inputs, knocked_out), *gains(inputs, patched)]
    return Result(inputs, tables | {"summary": pd.DataFrame(summary, columns=SUMMARY)}, metric)


def _rows(
    parts: Parts, rows: Callable[[RunKey, Mapping[str, Any]], Iterable[dict[str, Any]]]
) -> pd.DataFrame:
    return pd.DataFrame([one for key, part in parts.items() for one in rows(key, part)])


def values(answers: Sequence[Mapping[str, Any]], measure: str, metric: str) -> np.ndarray:
    """One number per example, float64 `[n]`, NaN where it is not known.

    Args:
        answers: of `work.answer_rows`.
        measure: `score` (the metric), `subspan` (best-subspan exact match), `context_gain` (loss without the needles
            less that with them), `words` (of the model's answer), or one of `work.LOSSES`.
        metric: the task's.
    """
    if measure == "words":
        return np.array([len(row["prediction"].split()) for row in answers], dtype=np.float64)
    if measure == "context_gain":
        return values(answers, "answer_loss_without", metric) - values(answers, "answer_loss", metric)
    name = {"score": metric, "subspan": "best_subspan_em"}.get(measure, measure)
    return np.array([row.get(name, np.nan) for row in answers], dtype=np.float64)


def _each(inputs: Inputs, measured: Parts, condition: str, measure: str, metric: str) -> np.ndarray:
    """The values of a condition, float64 `[seeds, n]`."""
    return np.stack([values(measured[key]["answers"], measure, metric) for key in inputs.runs(condition)])


def _scores(inputs: Inputs, measured: Parts, metric: str) -> Iterator[dict[str, Any]]:
    """The score of each condition and `BESIDE`, with paired differences to the untuned model and to the real run."""
    for measure in ("score", *BESIDE):
        each = {condition: _each(inputs, measured, condition, measure, metric) for condition in inputs.conditions}
        known = ~np.isnan(np.concatenate(list(each.values()))).any(axis=0)
        if not known.any():
            continue
        each = {condition: own.compress(known, axis=1) for condition, own in each.items()}
        over = "over_untuned" if measure == "score" else f"{measure}_over_untuned"
        for condition, own in each.items():
            told = {measure: own}
            if condition != UNTUNED:
                told[over] = own - each[UNTUNED]
            if measure == "score" and REFERENCE in each and condition not in (UNTUNED, REFERENCE):
                told["below_real"] = each[REFERENCE][: len(own)] - own  # by seed, or all less the only real run
            for name, one in told.items():
                yield {**inputs.row(condition, name, one), "n": int(known.sum())}


def _by_place(inputs: Inputs, measured: Parts, metric: str, at: np.ndarray) -> Iterator[dict[str, Any]]:
    """The table `by_place`: each condition's scores and losses by the place of the needle."""
    for condition in inputs.conditions:
        for measure in SHOWN:
            own = _each(inputs, measured, condition, measure, metric)
            known = ~np.isnan(own).any(axis=0)
            for name in _in_order(at):
                inside = own[:, (at == name) & known]
                if inside.size:
                    found = inputs.interval(inside)
                    yield {"condition": condition, "place": name, "measure": measure, "value": found.estimate,
                           "low": found.low, "high": found.high, "n": inside.shape[1], "n_seeds": len(own)}


def _place_gains(inputs: Inputs, measured: Parts, metric: str, at: np.ndarray) -> Iterator[dict[str, Any]]:
    """The table `place_gains`: what each condition gains over no fine-tuning at a place and at all others.

    `p` is the probability of so uneven gains when places do not matter: among permutations of the places over the
    examples, those in which some place is ahead of the others by as much as this one is (so that it counts all places).
    """
    for condition in inputs.conditions[1:]:
        for measure in GAINS:
            gained = (_each(inputs, measured, condition, measure, metric)
                      - _each(inputs, measured, UNTUNED, measure, metric))
            known = ~np.isnan(gained).any(axis=0) & (at != "")
            gained, places_of = gained[:, known], at[known]
            for name, p in unevenness(gained.mean(axis=0), places_of).items():
                here = places_of == name
                inside, outside = inputs.interval(gained[:, here]), inputs.interval(gained[:, ~here])
                yield {
                    "condition": condition, "place": name, "measure": measure, "gain": inside.estimate,
                    "low": inside.low, "high": inside.high, "n": int(here.sum()), "elsewhere": outside.estimate,
                    "elsewhere_low": outside.low, "elsewhere_high": outside.high, "n_elsewhere": int((~here).sum()),
                    "p": p,
                }


def unevenness(gained: np.ndarray, at: np.ndarray, n: int = PERMUTATIONS) -> dict[str, float]:
    """For each place the probability that some place is ahead of the others by as much when places do not matter.

    By place, in order; empty with fewer than two. `gained` is float64 `[n_examples]`, `at` their places, and `n` the
    number of permutations.
    """
    names = _in_order(at)
    if len(names) < 2:
        return {}
    # per place, a contrast of the mean there with the mean elsewhere, in units of its standard error
    here = np.stack([at == name for name in names]).astype(np.float64)
    inside, total = here.sum(axis=1, keepdims=True), len(at)
    weights = (here / inside - (1 - here) / (total - inside)) / np.sqrt(1 / inside + 1 / (total - inside))
    seen = weights @ gained
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.permutation(gained) for _ in range(n)], axis=1)
    largest = (weights @ drawn).max(axis=0)
    # the permutation that was seen is one of them
    return {name: (1 + int((largest >= one - 1e-12).sum())) / (n + 1) for name, one in zip(names, seen, strict=True)}


def _in_order(at: np.ndarray) -> list[str]:
    """The different places, as they follow one another in a prompt."""
    return sorted(set(at) - {""}, key=lambda name: (PARTS.index(name), "") if name in PARTS else (len(name), name))
