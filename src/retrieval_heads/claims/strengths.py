"""Strength-weighted recall and precision of the small study's runs, beside its measures of sets (table `subsets`).

Pairs of runs, halves and intervals are as there: real runs of the same base model and other seeds, opposite halves of
the probe examples, a bootstrap over base models and seeds. The chance level of a head is that on all probe examples.
They decide nothing in this study, whose rules speak of sets.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import BASE, TaskHeads, task_heads
from retrieval_heads.claims.pairs import known_mean, pair_intervals, pair_means
from retrieval_heads.claims.strength_pairs import beside, chance_within_layers, flat, of_kind, pair_values
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.bootstrap import RESAMPLES
from retrieval_heads.stats.strength import strength

HALVES = ("score_even", "score_odd")
THETA_ALONE = "rope"
PERMUTATIONS = 200


def strength_rows(
    head_scores: pd.DataFrame, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """The table `strengths` from the table `head_scores`.

    Args:
        head_scores: of all runs, with both halves and the chance level. Gained strength is told of where it has rows of
            the condition `rope`, the base model at the runs' length and theta; the base model at its own length is no
            measure of what was gained.
        n_resamples: of the bootstrap over base models and seeds.
        n_permutations: of the heads within layers, for chance.

    Returns:
        One row a task, condition and kind of strength; see the data dictionary. A task without real runs gives none.

    Raises:
        ResultError: as in `head_arrays.task_heads`.
    """
    trained = head_scores[head_scores["condition"] != BASE]
    trained = trained.assign(condition=trained["condition"].replace(THETA_ALONE, BASE))
    rows = []
    for one in task_heads(trained, (*HALVES, "chance")):
        if REFERENCE in one.conditions:
            rows += _rows(one, "all", n_resamples, n_permutations)
            if np.isfinite(one.base["chance"]).all():
                rows += _rows(one, "gained", n_resamples, n_permutations)
    return pd.DataFrame(rows)


def _rows(one: TaskHeads, heads: str, n_resamples: int, n_permutations: int) -> list[dict]:
    runs, alone = (np.stack([strength(values[half], values["chance"]) for half in HALVES])
                   for values in (one.runs, one.base))
    own = runs if heads == "all" else np.stack([
        of_kind(runs[:, :, base], alone[:, base], heads) for base in range(len(one.bases))], axis=2)
    place = one.conditions.index(REFERENCE)
    real = own[:, [place]]
    values = dict(zip(("recall", "precision"), pair_values(flat(own), flat(real)), strict=True))
    means = {name: pair_means(found) for name, found in values.items()}
    ends = {name: pair_intervals(found, n_resamples=n_resamples) for name, found in values.items()}
    chance, chance_high = (known_mean(found, -1) for found in chance_within_layers(own, real, n_permutations, 0))
    rows = []
    for i, condition in enumerate(one.conditions):
        of_bases = [beside(own[:, i, base], real[:, 0, base]) for base in range(len(one.bases))]
        others = {name: float(known_mean(np.array([found[name] for found in of_bases]), 0)) for name in of_bases[0]}
        cells = {}
        for name in values:
            cells |= {name: float(means[name][i]), f"{name}_low": float(ends[name][0][i]),
                      f"{name}_high": float(ends[name][1][i])}
        rows.append({
            "task": one.task, "condition": condition, "heads": heads, **cells, "chance": float(chance[i]),
            "chance_high": float(chance_high[i]), "ceiling": float(means["precision"][place]), **others,
            "n_pairs": int((~np.isnan(values["precision"][i])).sum()),
        })
    return rows
