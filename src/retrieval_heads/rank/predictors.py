"""What training sets are ranked by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata


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
