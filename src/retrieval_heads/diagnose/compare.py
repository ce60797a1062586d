"""What the runs of a diagnosis say together: tidy tables, and for each set the few numbers that a reader looks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.check.places import places
from retrieval_heads.data.example import task_of
from retrieval_heads.diagnose.answers import values
from retrieval_heads.diagnose.by_place import gain_rows, place_rows
from retrieval_heads.diagnose.effects import gains, losses
from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.diagnose.rows import SUMMARY, interval, row
from retrieval_heads.diagnose.shared_heads import missed, overlaps, shares
from retrieval_heads.diagnose.work import real_run
from retrieval_heads.keys import RunKey
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stages.common import metric_rows

Part = Mapping[str, Any]

BESIDE = ("subspan", "answer_loss", "context_gain", "end_loss", "words")
"""What stands beside the score, see `answers.values`."""


@dataclass(frozen=True)
class Result:
    """All that the report is made of.

    Attributes:
        inputs: what it was computed from.
        tables: tidy tables by name.
        metric: by which sets are compared.
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


def result(
    inputs: Inputs, measured: Mapping[RunKey, Part], knocked_out: Mapping[RunKey, Part], patched: Mapping[RunKey, Part],
) -> Result:
    """The tables and the summary, from the parts of all runs (`work.Work`)."""
    metric = task_of(inputs.task).main_metric
    heads = _rows(measured, lambda key, one: one["heads"])
    tables = {
        "performance": _rows(measured, lambda key, one: [
            {**key.columns, **one_row}
            for one_row in metric_rows(pd.DataFrame(one["answers"]), inputs.task, inputs.request.bootstrap)
        ]),
        "answers": _rows(measured, lambda key, one: [
            {**key.columns, "example": place, "reference": example.answer, "prediction": answer["prediction"],
             "place": place_of_needle,
             **{name: value for name, value in answer.items() if name not in ("id", "prediction")}}
            for place, (example, place_of_needle, answer) in enumerate(
                zip(inputs.test, places(inputs.test), one["answers"], strict=True))
        ]),
        "by_place": pd.DataFrame(place_rows(inputs, measured, metric)),
        "place_gains": pd.DataFrame(gain_rows(inputs, measured, metric)),
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


def _rows(parts: Mapping[RunKey, Part], rows: Callable[[RunKey, Part], Iterable[dict[str, Any]]]) -> pd.DataFrame:
    return pd.DataFrame([one for key, part in parts.items() for one in rows(key, part)])


def _scores(inputs: Inputs, measured: Mapping[RunKey, Part], metric: str) -> list[dict[str, Any]]:
    """The score of each condition and `BESIDE`, with paired differences to the untuned model and to the real run."""
    rows = []
    for measure in ("score", *BESIDE):
        each = {key: values(part["answers"], measure, metric) for key, part in measured.items()}
        known = ~np.isnan(np.stack(list(each.values()))).any(axis=0)
        if not known.any():
            continue
        each = {key: one[known] for key, one in each.items()}
        over = "over_untuned" if measure == "score" else f"{measure}_over_untuned"
        for condition in inputs.conditions:
            keys = inputs.runs(condition)
            own = np.stack([each[key] for key in keys])
            told = {measure: own}
            if condition != UNTUNED:
                told[over] = own - each[inputs.runs(UNTUNED)[0]]
            if measure == "score" and inputs.request.has_real and condition not in (UNTUNED, REFERENCE):
                told["below_real"] = np.stack([each[real_run(inputs, key)] for key in keys]) - own
            rows += [{**row(inputs, condition, name, interval(inputs, one), len(keys)), "n": int(known.sum())}
                     for name, one in told.items()]
    return rows
