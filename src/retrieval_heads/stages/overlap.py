"""How far the retrieval heads of every run agree with those of the runs on real data, beside chance levels.

Every run is compared with the real run of its own seed, from the same base model; real runs and the base model itself
with the real runs of the other seeds too, which shows how much agreement there can be. Runs of one seed also start from
the same random adapter, so the claims are decided on pairs of different seeds (`claims.subsets`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.settings import REFERENCE
from retrieval_heads.stages.head_sets import score_matrix
from retrieval_heads.stats.overlap import overlap_curve

SET_MEASURES = ("recall", "precision", "jaccard")
MEASURES = (*SET_MEASURES, "cosine")

GROUP = ["task", "kind", "score_mode", "base", "condition", "seed"]
"""The columns that tell score matrices apart; those before the condition are the same in what is compared."""


def overlap_rows(head_scores: pd.DataFrame, thresholds: Iterable[float]) -> pd.DataFrame:
    """The table `overlap` from the table `head_scores`.

    Args:
        head_scores: of any runs, the base models among them; a task without a real run gives no row.
        thresholds: fractions; a head with a score above is a retrieval head.
    """
    thresholds, rows = tuple(thresholds), []
    matrices = {name: score_matrix(one) for name, one in head_scores.groupby(GROUP)}
    for run, scores in matrices.items():
        for other, real in matrices.items():
            if other[:-1] != (*run[:-2], REFERENCE) or other == run:
                continue
            if run[-2] not in (REFERENCE, "base") and other[-1] != run[-1]:
                continue
            place = dict(zip(GROUP, run, strict=True)) | {"reference_seed": other[-1]}
            rows += _compared(place, real, scores, thresholds)
    return pd.DataFrame(rows)


def _compared(
    place: dict[str, Any], real: np.ndarray, scores: np.ndarray, thresholds: tuple[float, ...],
) -> list[dict[str, Any]]:
    curve = overlap_curve(real, scores, thresholds)
    rows = [_row(place, found, measure) for found in curve.to_dict("records") for measure in SET_MEASURES]
    # one row: it does not depend on the threshold
    return [*rows, _row(place, curve.iloc[0].to_dict(), "cosine") | dict.fromkeys(
        ("threshold", "n_reference", "n_heads", "n_common"))]


def _row(place: dict[str, Any], found: dict[str, Any], measure: str) -> dict[str, Any]:
    p = "cosine" if measure == "cosine" else "overlap"
    numbers = {
        "value": found[measure],
        **{f"{level}{end}": found[f"{measure}_{level}{end}"]
           for level in ("chance", "layer_chance") for end in ("", "_low", "_high")},
        "p": found[f"{p}_p"], "layer_p": found[f"{p}_layer_p"],
    }
    counts = {"n_reference": "n_real", "n_heads": "n_synthetic", "n_common": "n_common"}
    return {
        **place, "threshold": found["threshold"], "measure": measure,
        **{name: None if np.isnan(number) else float(number) for name, number in numbers.items()},
        **{name: int(found[column]) for name, column in counts.items()},
    }


def same_seed(overlap: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs beside the real run of their own seed; for a base model, which has none, beside the first."""
    of_base = overlap.condition == "base"
    own = overlap[of_base].groupby("base").reference_seed.transform("min").reindex(overlap.index)
    return overlap[overlap.reference_seed == own.where(of_base, overlap.seed)]
