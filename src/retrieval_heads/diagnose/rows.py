"""Rows of the table `summary`: one number of one training set, with an interval over all its seeds and examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.stats.resample import Interval, bootstrap_crossed

SUMMARY = ["condition", "measure", "value", "low", "high", "chance", "n", "n_seeds"]


def interval(inputs: Inputs, values: np.ndarray) -> Interval:
    """The mean of `values` `[seeds, n]` or `[seeds, draws, n]`; seeds, random draws and examples are resampled."""
    return bootstrap_crossed(values, n_resamples=inputs.request.bootstrap)


def row(inputs: Inputs, condition: str, measure: str, value: Interval, n_seeds: int) -> dict[str, Any]:
    """One row over the test examples; what has a chance level, or is over something else, changes it."""
    return {"condition": condition, "measure": measure, "value": value.estimate, "low": value.low, "high": value.high,
            "chance": None, "n": len(inputs.test), "n_seeds": n_seeds}
