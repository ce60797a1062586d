"""How far two tables of head scores agree, each measure beside what chance gives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from retrieval_heads.errors import ConfigError
from retrieval_heads.heads.select import select_heads
from retrieval_heads.stats.overlap import NAN, matrices, overlap

TOP = (10, 20, 50)
"""How many of the best heads are compared."""


def score_agreement(
    first: ArrayLike, second: ArrayLike, threshold: float = 0.1, top: Iterable[int] = TOP
) -> pd.DataFrame:
    """Agreement of two score tables `[n_layers, n_heads]` of one model, or of two of one shape.

    Args:
        threshold: heads strictly above it are compared as sets.
        top: sizes of the sets of best heads. A size is left out when one of the tables has fewer heads with a score
            above 0, as the others would be taken in the order of layers.

    Returns:
        Rows `measure`, `value`, `chance` (expected for random heads), `low`, `high` (central 95% of chance) and `p`
        (chance of at least as much; NaN where there is nothing to test). `spearman` is over all heads, with the usual
        two-sided p-value; `top K` the common share of the best K; `jaccard`, `recall` (share of the first's heads that
        the second has) and `precision` (the other way round) are of the heads above the threshold. Their p-value is
        one, that of the number of common heads.

    Raises:
        ConfigError: tables of different shapes, not two-dimensional or with values that are not finite; a threshold
            that is not finite; a size below one.
    """
    one, two = matrices(first, second)
    if not np.isfinite(threshold):
        raise ConfigError("no finite number", where="threshold", value=threshold, remedy="Use 0.1, say.")
    varied = np.ptp(one) > 0 and np.ptp(two) > 0
    rho, p = spearmanr(one, two, axis=None) if varied else (NAN, NAN)
    rows = [{"measure": "spearman", "value": float(rho), "chance": 0.0, "low": NAN, "high": NAN, "p": float(p)}]
    for k in top:
        if k < 1:
            raise ConfigError("less than one head", where="top", value=k, remedy="Give whole numbers from 1.")
        if min((one > 0).sum(), (two > 0).sum()) >= k:
            best = [_mask(select_heads(table, k=k), table.shape) for table in (one, two)]
            row = overlap(*best, 0.5, n_permutations=1)  # recall and precision are the same: k heads in either
            rows.append(_row(f"top {k}", "recall", row))
    row = overlap(one, two, threshold, n_permutations=1)
    rows += [_row(name, name, row) for name in ("jaccard", "recall", "precision")]
    return pd.DataFrame(rows)


def _row(measure: str, name: str, row: dict[str, float]) -> dict[str, float | str]:
    return {
        "measure": measure, "value": row[name], "chance": row[f"{name}_chance"], "low": row[f"{name}_chance_low"],
        "high": row[f"{name}_chance_high"], "p": row["overlap_p"],
    }


def _mask(heads: list[tuple[int, int]], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape)
    mask[tuple(np.array(heads).T)] = 1
    return mask
