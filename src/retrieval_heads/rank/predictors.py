"""What training sets are ranked by, and how sure the probe examples are of which of two sets is better."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from retrieval_heads.stats.bootstrap import RESAMPLES, bootstrap_difference


@dataclass(frozen=True)
class Predictor:
    """One quantity that may tell good training sets from bad ones.

    Attributes:
        label: what a reader sees.
        promising: `low` or `high`, the values that promise performance.
        measured_as: its name in the report's tables; None where the report has no such quantity.
        measured_few: its name there when the heads come from few probe examples.
        of_heads: it needs the heads of a model trained on real examples.
    """

    label: str
    promising: str
    measured_as: str | None
    measured_few: str | None = None
    of_heads: bool = False

    def name_in_report(self, few: bool) -> str | None:
        return self.measured_few if few and self.measured_few else self.measured_as


PREDICTORS = {
    "probe_loss": Predictor("probe loss", "low", "probe_loss"),
    "recall": Predictor("recall of the real heads", "high", "recall", "recall_few", of_heads=True),
    "cosine": Predictor("cosine with the real scores", "high", "cosine", "cosine_few", of_heads=True),
    "base_recall": Predictor("recall of the base's heads", "high", "base_overlap"),
    "base_cosine": Predictor("cosine with the base's scores", "high", None),
    "training_loss": Predictor("training loss", "low", "training_loss"),
    "ngram_overlap": Predictor("overlap of word pairs", "high", "ngram_overlap"),
}
"""In the order in which they are shown."""


def ranked(values: pd.DataFrame) -> pd.DataFrame:
    """Ranks of the sets by each predictor, 1 the most promising; sets with equal values share the better rank.

    Args:
        values: one row a set, one column a predictor, NaN where it is not known.

    Returns:
        The same shape, float64; NaN where the value is.
    """
    ranks = pd.DataFrame(np.nan, index=values.index, columns=values.columns)
    for name in values:
        known = values[name].notna()
        sign = 1 if PREDICTORS[name].promising == "low" else -1
        ranks.loc[known, name] = rankdata(sign * values.loc[known, name], method="min")
    return ranks


def order(values: pd.DataFrame, predictor: str) -> list[str]:
    """The sets from the most promising to the least by one predictor; equal ones as they were given."""
    return list(ranked(values)[predictor].sort_values(kind="stable").index)


def probability_better(
    first: np.ndarray, second: np.ndarray, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """The share of bootstrap samples of the probe examples in which the first set's mean loss is the lower one.

    The examples are the same for both, and are drawn together. Samples in which the means are equal count half. Only
    the chance of the probe examples is in it: another seed of the fine-tuning may differ by more.

    Args:
        first, second: float64 `[n]`, loss on each probe example.
        n_resamples, seed: of the bootstrap.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    n, rng = len(difference), np.random.default_rng(seed)
    means = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) @ difference / n
    return float((means < 0).mean() + (means == 0).mean() / 2)


def compared(losses: Mapping[str, np.ndarray], seed: int = 0) -> list[dict[str, Any]]:
    """Each two sets, the one of the lower mean loss first: difference with its interval, and that probability.

    Returns:
        Dicts of `first`, `second`, `difference` (second less first, nats a token), `low`, `high` (95%), `probability`.
    """
    by_loss = sorted(losses, key=lambda name: float(np.mean(losses[name])))
    rows = []
    for first, second in itertools.combinations(by_loss, 2):
        found = bootstrap_difference(losses[second], losses[first], seed=seed)
        rows.append({
            "first": first, "second": second, "difference": found.estimate, "low": found.low, "high": found.high,
            "probability": probability_better(losses[first], losses[second], seed=seed),
        })
    return rows
