"""What the runs of a diagnosis say together: tidy tables, and for each set the few numbers that a reader looks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.diagnose.request import UNTUNED
from retrieval_heads.diagnose.work import real_run
from retrieval_heads.keys import RunKey
from retrieval_heads.metrics import main_metric
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stages.common import metric_rows
from retrieval_heads.stages.head_sets import score_matrix
from retrieval_heads.stats.bootstrap import Interval, bootstrap_crossed, crossed_means, percentile_interval
from retrieval_heads.stats.overlap import THRESHOLDS, overlap_curve

Part = Mapping[str, Any]

SUMMARY = ["condition", "measure", "value", "low", "high", "chance", "n", "n_seeds"]


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
    metric = main_metric(inputs.task)
    heads = _rows(measured, lambda key, one: one["heads"])
    tables = {
        "performance": _rows(measured, lambda key, one: [
            {**key.columns, **row}
            for row in metric_rows(pd.DataFrame(one["answers"]), inputs.task, inputs.request.bootstrap)
        ]),
        "answers": _rows(measured, lambda key, one: [
            {**key.columns, "example": place, "reference": example.answer, "prediction": row["prediction"],
             **{name: value for name, value in row.items() if name not in ("id", "prediction")}}
            for place, (example, row) in enumerate(zip(inputs.test, one["answers"], strict=True))
        ]),
        "training": _rows(measured, lambda key, one: [{**key.columns, **one["training"]}] if one["training"] else []),
        "head_scores": heads,
        "overlap": _overlap(inputs, measured) if len(heads) else pd.DataFrame(),
        "knockout": _rows(knocked_out, lambda key, one: one["knockout"]),
        "knockout_effects": _rows(knocked_out, lambda key, one: one["knockout_effects"]),
        "patching": _rows(patched, lambda key, one: one["patching"]),
    }
    summary = [*_scores(inputs, measured, metric), *_shares(inputs, tables["overlap"]), *_knockout(inputs, tables),
               *_closed(inputs, patched)]
    return Result(inputs, tables | {"summary": pd.DataFrame(summary, columns=SUMMARY)}, metric)


def _rows(parts: Mapping[RunKey, Part], rows: Callable[[RunKey, Part], Iterable[dict[str, Any]]]) -> pd.DataFrame:
    return pd.DataFrame([row for key, part in parts.items() for row in rows(key, part)])


def _scores(inputs: Inputs, measured: Mapping[RunKey, Part], metric: str) -> list[dict[str, Any]]:
    """The score of each condition, and its paired differences to the untuned model and to the real run."""
    values = {key: np.array([row[metric] for row in part["answers"]], dtype=float) for key, part in measured.items()}
    untuned = values[inputs.runs(UNTUNED)[0]]
    rows = []
    for condition in inputs.conditions:
        keys = inputs.runs(condition)
        own = np.stack([values[key] for key in keys])
        rows.append(_row(inputs, condition, "score", _interval(inputs, own), len(keys)))
        if condition != UNTUNED:
            rows.append(_row(inputs, condition, "over_untuned", _interval(inputs, own - untuned), len(keys)))
        if inputs.request.has_real and condition not in (UNTUNED, REFERENCE):
            real = np.stack([values[real_run(inputs, key)] for key in keys])
            rows.append(_row(inputs, condition, "below_real", _interval(inputs, real - own), len(keys)))
    return rows


def _overlap(inputs: Inputs, measured: Mapping[RunKey, Part]) -> pd.DataFrame:
    """Each run's heads beside those of the real run and of the untuned model; chance is for heads drawn in each layer.

    Real runs have no other real run of their seed to stand beside.
    """
    matrices = {key: score_matrix(pd.DataFrame(part["heads"])) for key, part in measured.items()}
    thresholds = sorted({*THRESHOLDS, inputs.request.threshold})
    rows = []
    for key, scores in matrices.items():
        real = real_run(inputs, key)
        references = [inputs.runs(UNTUNED)[0], *([real] if real and key.condition != REFERENCE else [])]
        for reference in references:
            if reference == key:
                continue
            for found in overlap_curve(matrices[reference], scores, thresholds, n_permutations=1).to_dict("records"):
                rows += [{
                    **key.columns, "reference": reference.condition, "reference_seed": reference.seed,
                    "threshold": found["threshold"], "measure": measure, "value": found[measure],
                    "chance": found[f"{measure}_layer_chance"], "chance_low": found[f"{measure}_layer_chance_low"],
                    "chance_high": found[f"{measure}_layer_chance_high"], "p": found["overlap_layer_p"],
                    "n_reference": int(found["n_real"]), "n_heads": int(found["n_synthetic"]),
                    "n_common": int(found["n_common"]),
                } for measure in ("recall", "precision")]
    return pd.DataFrame(rows)


def _shares(inputs: Inputs, overlap: pd.DataFrame) -> list[dict[str, Any]]:
    """Recall and precision at the threshold: means over seeds, from the least to the greatest, beside chance."""
    if overlap.empty:
        return []
    rows = []
    at = overlap[overlap["threshold"] == inputs.request.threshold]
    for (condition, reference, measure), own in at.groupby(["condition", "reference", "measure"], sort=False):
        known = own.dropna(subset=["value"])
        if len(known):
            ends = (known["value"].min(), known["value"].max()) if len(known) > 1 else (None, None)
            value = Interval(known["value"].mean(), *ends)
            size = known["n_reference" if measure == "recall" else "n_heads"].mean()
            rows.append({**_row(inputs, condition, f"{measure}_of_{reference}", value, len(known)),
                         "chance": known["chance"].mean(), "n": round(size)})
    return rows


def _knockout(inputs: Inputs, tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """What the loss of all retrieval heads of a run, and of as many random ones, costs: means over seeds."""
    effects, knockout = tables["knockout_effects"], tables["knockout"]
    if effects.empty:
        return []
    rows = []
    for condition in inputs.conditions:
        found: dict[str, list[pd.Series]] = {}
        for seed, own in knockout[knockout["condition"] == condition].groupby("seed"):
            k = own["n_retrieval"].iloc[0]
            at = effects[(effects["condition"] == condition) & (effects["seed"] == seed) & (effects["k"] == k)
                         & (effects["metric"] == "forced_exact_match")]
            for contrast in ("retrieval", "random", "retrieval_over_random"):
                found.setdefault(contrast, []).extend(row for _, row in at[at["contrast"] == contrast].iterrows())
        for contrast, each in found.items():
            if each:
                # ends averaged over seeds: the mean is no less certain than one run
                mean = Interval(*(float(np.mean([row[end] for row in each])) for end in ("value", "low", "high")))
                rows.append(_row(inputs, condition, f"loss_without_{contrast}", mean, len(each)))
    return rows


def _closed(inputs: Inputs, patched: Mapping[RunKey, Part]) -> list[dict[str, Any]]:
    """The gap to the real run in right answers, and the share of it that each set of heads closes, where there is one.

    Seeds and examples are resampled together for gain and gap; samples without a gap say nothing of its share.
    """
    rows = []
    for condition in inputs.request.names:
        right = [patched[key]["right"] for key in inputs.runs(condition) if key in patched]
        if not right:
            continue
        before, real = (np.array([one[name] for one in right]) for name in ("none", "source"))
        gap = _interval(inputs, real - before)
        rows.append(_row(inputs, condition, "gap", gap, len(right)))
        for name in ("complement", "random_complement", "intersection", "random", "all"):
            if not all(name in one for one in right):
                continue
            gained = np.array([one[name] for one in right]) - before
            rows.append(_row(inputs, condition, f"gain_{name}", _interval(inputs, gained), len(right)))
            samples = crossed_means(np.stack([gained, real - before]), kept=(0,), n_resamples=inputs.request.bootstrap)
            if gap.low > 0 and samples is not None:
                gains, gaps = samples[:, 0], samples[:, 1]
                share = percentile_interval(float(gained.mean()) / gap.estimate, gains[gaps > 0] / gaps[gaps > 0])
                rows.append(_row(inputs, condition, f"closed_{name}", share, len(right)))
    return rows


def _interval(inputs: Inputs, values: np.ndarray) -> Interval:
    return bootstrap_crossed(values, n_resamples=inputs.request.bootstrap)


def _row(inputs: Inputs, condition: str, measure: str, value: Interval, n_seeds: int) -> dict[str, Any]:
    return {"condition": condition, "measure": measure, "value": value.estimate, "low": value.low, "high": value.high,
            "chance": None, "n": len(inputs.test), "n_seeds": n_seeds}
