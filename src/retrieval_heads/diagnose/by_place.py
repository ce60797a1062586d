"""Scores by the place of the needle, and whether a set gains at one place only.

A set whose needles all stand at one place teaches a model to read that place. Its mean score rises by what it wins
there, and says nothing of what it does not find elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.check.places import PARTS, places
from retrieval_heads.diagnose.answers import values
from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.diagnose.rows import interval
from retrieval_heads.keys import RunKey
from retrieval_heads.settings import UNTUNED

SHOWN = ("score", "subspan", "answer_loss", "context_gain")
GAINS = ("score", "subspan", "context_gain")
"""What can be gained at a place: higher is better."""

PERMUTATIONS = 2000
LEVEL = 0.05


def place_rows(inputs: Inputs, measured: Mapping[RunKey, Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The table `by_place`: each condition's scores and losses by the place of the needle."""
    at, rows = np.array(places(inputs.test)), []
    for condition in inputs.conditions:
        keys = inputs.runs(condition)
        for measure in SHOWN:
            own = np.stack([values(measured[key]["answers"], measure, metric) for key in keys])
            known = ~np.isnan(own).any(axis=0)
            for name in sorted(set(at) - {""}, key=_order):
                inside = own[:, (at == name) & known]
                if inside.size:
                    found = interval(inputs, inside)
                    rows.append({"condition": condition, "place": name, "measure": measure, "value": found.estimate,
                                 "low": found.low, "high": found.high, "n": inside.shape[1], "n_seeds": len(keys)})
    return rows


def gain_rows(inputs: Inputs, measured: Mapping[RunKey, Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The table `place_gains`: what each condition gains over no fine-tuning at a place and at all others.

    `p` is the probability of so uneven gains when places do not matter: among permutations of the places over the
    examples, those in which some place is ahead of the others by as much as this one is (so that it counts all places).
    """
    at, rows = np.array(places(inputs.test)), []
    [untuned] = (measured[key]["answers"] for key in inputs.runs(UNTUNED))
    for condition in inputs.conditions:
        if condition == UNTUNED:
            continue
        keys = inputs.runs(condition)
        for measure in GAINS:
            gains = np.stack([values(measured[key]["answers"], measure, metric) for key in keys])
            gains = gains - values(untuned, measure, metric)
            kept = ~np.isnan(gains).any(axis=0) & (at != "")
            for name, p in unevenness(gains[:, kept].mean(axis=0), at[kept]).items():
                here = at[kept] == name
                inside, outside = (interval(inputs, gains[:, kept][:, part]) for part in (here, ~here))
                rows.append({
                    "condition": condition, "place": name, "measure": measure, "gain": inside.estimate,
                    "low": inside.low, "high": inside.high, "n": int(here.sum()), "elsewhere": outside.estimate,
                    "elsewhere_low": outside.low, "elsewhere_high": outside.high, "n_elsewhere": int((~here).sum()),
                    "p": p,
                })
    return rows


def unevenness(gains: np.ndarray, at: np.ndarray, n: int = PERMUTATIONS) -> dict[str, float]:
    """For each place the probability that some place is ahead of the others by as much when places do not matter.

    Args:
        gains: float64 `[n_examples]`.
        at: str `[n_examples]`, the place of each example.
        n: number of permutations.

    Returns:
        By place, in order; empty with fewer than two places.
    """
    names = sorted(set(at), key=_order)
    if len(names) < 2:
        return {}
    # per place, a contrast of the mean there with the mean elsewhere, in units of its standard error
    here = np.stack([at == name for name in names]).astype(np.float64)
    inside, total = here.sum(axis=1, keepdims=True), len(at)
    weights = (here / inside - (1 - here) / (total - inside)) / np.sqrt(1 / inside + 1 / (total - inside))
    seen = weights @ gains
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.permutation(gains) for _ in range(n)], axis=1)
    largest = (weights @ drawn).max(axis=0)
    # the permutation that was seen is one of them
    return {name: (1 + int((largest >= one - 1e-12).sum())) / (n + 1) for name, one in zip(names, seen, strict=True)}


def only_place(table: pd.DataFrame, condition: str) -> pd.Series | None:
    """The row of `place_gains` by which a condition gains at one place and not shown elsewhere; None without one.

    Best-subspan counts, and the gain from context; the score where there is no best-subspan. Their probabilities are
    compared with the level divided by their number.
    """
    if table.empty:
        return None
    own = table[table["condition"] == condition]
    wanted = ["subspan" if (own["measure"] == "subspan").any() else "score", "context_gain"]
    own = own[own["measure"].isin(wanted) & (own["p"] < LEVEL / len(wanted)) & (own["low"] > 0)
              & ~(own["elsewhere_low"] > 0)]
    return own.sort_values("p", kind="stable").iloc[0] if len(own) else None


def _order(name: str) -> tuple[int, str]:
    return (PARTS.index(name), "") if name in PARTS else (len(name), name)
