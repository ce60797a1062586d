"""The area between the knock-out curves of one run: one number for how much more its retrieval heads carry than others.

Curves are of the share of right answers against the number of heads out, over log(1 + k), as the first heads matter
most. Draws of a control are averaged within the run: they were made for it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrieval_heads.stages.head_sets import CONTROLS, HeadSet
from retrieval_heads.stages.sweeps import METRICS, NAN, Resamples, Scores, as_cells
from retrieval_heads.stats.areas import area_between
from retrieval_heads.stats.resample import Interval

AXIS = "log"
METRIC = METRICS["exact_match"]


def area_rows(
    place: dict[str, Any], baseline: HeadSet, scores: Mapping[HeadSet, Scores], n_heads: int, resamples: Resamples,
) -> list[dict[str, Any]]:
    """One row a reference: the height of its curve above that of the retrieval heads, on average, with an interval.

    Args:
        place: key columns.
        baseline: the set that knocks nothing out.
        scores: of every set in one mode and scope.
        n_heads: heads of the model.
    """
    start = scores[baseline][METRIC][0]
    counts = sorted({len(one.heads) for one in scores if one.name == "retrieval"})
    curves = {
        name: np.array([start, *(_curve_point(scores, name, k, len(start)) for k in counts)])
        for name in ("retrieval", *CONTROLS)
    }
    rows = []
    for reference in CONTROLS:
        found = area_between(
            curves[reference], curves["retrieval"], [0, *counts], n_heads=n_heads, axis=AXIS,
            n_resamples=resamples.n_resamples, seed=resamples.seed,
        )
        rows.append({
            **place, "set": reference, **as_cells(Interval(found["area"], found["low"], found["high"])),
            "share": as_cells(Interval(found["share"], NAN, NAN))["value"], "start": float(start.mean()),
            "k_max": found["k_last"], "n": resamples.n,
        })
    return rows


def _curve_point(scores: Mapping[HeadSet, Scores], name: str, k: int, n: int) -> np.ndarray:
    """Mean over the draws, float64 `[n]`; NaN where there is no such set."""
    found = [one[METRIC][0] for head_set, one in scores.items() if head_set.name == name and len(head_set.heads) == k]
    return np.mean(found, axis=0) if found else np.full(n, np.nan)
