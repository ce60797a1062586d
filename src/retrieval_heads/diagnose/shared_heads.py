"""Which retrieval heads each set's runs have in common with the real run or the untuned model, and which they miss.

Recall and precision have an interval over seeds and probe examples, which are resampled together; the probe examples
are the same for all runs, and are drawn together. A resampled score is blurred twice, once by the probe examples at
hand and once by the draw from them, so heads near the threshold come and go more than they should: the interval is
rather wide, and lies rather low.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.diagnose.rows import row
from retrieval_heads.diagnose.work import real_run
from retrieval_heads.keys import RunKey
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stages.head_sets import score_matrix
from retrieval_heads.stats.bootstrap import Interval, percentile_interval
from retrieval_heads.stats.overlap import THRESHOLDS, overlap_curve

Part = Mapping[str, Any]

MEASURES = ("recall", "precision")

NAN = float("nan")
ROUNDING = 1e-6
"""Kept scores have six digits: a mean that is no more than this above the threshold is at it."""


def references(inputs: Inputs, key: RunKey) -> list[RunKey]:
    """Whose heads a run's are compared with: those of the untuned model and of the real run, but not its own.

    Real runs have no other real run of their seed to stand beside.
    """
    real = None if key.condition == REFERENCE else real_run(inputs, key)
    return [one for one in (inputs.runs(UNTUNED)[0], real) if one not in (None, key)]


def overlaps(inputs: Inputs, measured: Mapping[RunKey, Part]) -> pd.DataFrame:
    """The table `overlap`: each run beside its references, over thresholds; chance is for heads drawn in each layer."""
    matrices = {key: score_matrix(pd.DataFrame(part["heads"])) for key, part in measured.items()}
    thresholds = sorted({*THRESHOLDS, inputs.request.threshold})
    return pd.DataFrame([
        {
            **key.columns, "reference": reference.condition, "reference_seed": reference.seed,
            "threshold": found["threshold"], "measure": measure, "value": found[measure],
            "chance": found[f"{measure}_layer_chance"], "chance_low": found[f"{measure}_layer_chance_low"],
            "chance_high": found[f"{measure}_layer_chance_high"], "p": found["overlap_layer_p"],
            "n_reference": int(found["n_real"]), "n_heads": int(found["n_synthetic"]),
            "n_common": int(found["n_common"]),
        }
        for key, scores in matrices.items() for reference in references(inputs, key)
        for found in overlap_curve(matrices[reference], scores, thresholds, n_permutations=1).to_dict("records")
        for measure in MEASURES
    ])


def missed(inputs: Inputs, measured: Mapping[RunKey, Part]) -> pd.DataFrame:
    """The table `missed_heads`: the real run's retrieval heads that a set's run of some seed lacks.

    Scores are means over all seeds; `missed` counts the pairs of runs in which the real one has the head and the set's
    has not, of `n_seeds` pairs.
    """
    threshold, rows = inputs.request.threshold, []
    for condition in inputs.request.names if inputs.request.has_real else ():
        pairs = [(score_matrix(pd.DataFrame(measured[real_run(inputs, key)]["heads"])),
                  score_matrix(pd.DataFrame(measured[key]["heads"]))) for key in inputs.runs(condition)]
        real, own = (np.stack(scores) for scores in zip(*pairs, strict=True))
        counts = ((real > threshold) & (own <= threshold)).sum(axis=0)
        rows += [
            {"condition": condition, "layer": int(layer), "head": int(head),
             "real_score": float(f"{real[:, layer, head].mean():.4g}"),
             "score": float(f"{own[:, layer, head].mean():.4g}"), "missed": int(counts[layer, head]),
             "n_seeds": len(pairs)}
            for layer, head in sorted(zip(*counts.nonzero(), strict=True),
                                      key=lambda place: (-real[:, *place].mean(), place))
        ]
    return pd.DataFrame(rows)


def shares(inputs: Inputs, measured: Mapping[RunKey, Part], overlap: pd.DataFrame) -> list[dict[str, Any]]:
    """Recall and precision at the threshold: means over the seeds in which they are defined, beside chance."""
    if overlap.empty:
        return []
    rows = []
    at = overlap[overlap["threshold"] == inputs.request.threshold]
    for (condition, reference, measure), own in at.groupby(["condition", "reference", "measure"], sort=False):
        known = own.dropna(subset=["value"])
        if known.empty:
            continue
        pairs = [(other, key) for key in inputs.runs(condition) for other in references(inputs, key)
                 if other.condition == reference]
        drawn = _resampled(inputs, [[measured[key]["each"] for key in pair] for pair in pairs], measure)
        estimate = float(known["value"].mean())
        value = Interval(estimate, NAN, NAN) if drawn is None else percentile_interval(estimate, drawn)
        size = known["n_reference" if measure == "recall" else "n_heads"].mean()
        rows.append({**row(inputs, condition, f"{measure}_of_{reference}", value, len(known)),
                     "chance": float(known["chance"].mean()), "n": round(size)})
    return rows


def _resampled(inputs: Inputs, pairs: list[list[Any]], measure: str) -> np.ndarray | None:
    """The mean over seeds in samples of seeds and probe examples; None where there is one of both.

    Args:
        pairs: for each seed, per-example scores `[n_probe, n_layers, n_heads]` of the reference and of the run.
        measure: `recall` or `precision`. A sample where it is not defined for any seed is left out.
    """
    n_seeds, n = len(pairs), len(pairs[0][0])
    if n_seeds * n == 1:
        return None
    n_resamples, rng = inputs.request.bootstrap, np.random.default_rng(0)
    examples = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples)
    total, count = np.zeros(n_resamples), np.zeros(n_resamples)
    for place, pair in enumerate(pairs):
        # not by BLAS, whose sums depend on the number of threads in the last digit
        reference, own = (
            np.einsum("be,eh->bh", examples, np.asarray(scores, dtype=np.float64).reshape(n, -1))
            > inputs.request.threshold + ROUNDING for scores in pair
        )
        size = (reference if measure == "recall" else own).sum(axis=1)
        share = (reference & own).sum(axis=1) / np.maximum(size, 1)
        weight = seeds[:, place] * (size > 0)
        total, count = total + weight * share, count + weight
    return (total[count > 0] / count[count > 0]) if (count > 0).any() else None
