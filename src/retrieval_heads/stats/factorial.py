"""Main effects and interaction of two ordered factors: realism of the needle and diversity of the haystack.

Every effect is a contrast of the nine cell means, a weighted sum whose weights add up to 0 (Cox 1958, *Planning of
Experiments*, chapter 6), so it is the same for performance and for its difference to `real`, up to the sign: the
real run cancels, and with it its share of chance. Only the mean cost of all cells depends on `real`.

* `FACTOR`: cost of going from the highest level to the lowest, averaged over the levels of the other factor;
* `FACTOR_linear`: the same by a straight line through all levels, equally spaced (a trend contrast);
* `FACTOR_curvature`: how much more a middle level costs than the line between the ends says (0: it lies on it);
* `difference`: the first factor's cost less the second's: which axis costs more;
* `interaction`: difference of differences of the extremes, low-low - low-high - high-low + high-high. Positive: the
  two together cost more than the sum of each alone; negative: less;
* `linear_by_linear`: the interaction of the two lines (Agresti 2013, section 10.5, for its use with ordered levels).
  With three levels the middle one has no weight, and it *is* `interaction`.

A metric between 0 and 1 cannot fall below 0: two large costs then add up to less than their sum, which is an
interaction on this scale and may be none on another. With `scale="log_odds"` the cells' means are turned into log-odds
first, in every bootstrap sample too. An interaction that has the same sign on both scales is not one of the floor
alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from retrieval_heads.stats.resample import RESAMPLES, crossed_means, percentile_interval

SCALES = ("difference", "log_odds")

FACTORS = ("concept", "context")
"""The two factors: concept expression and context diversity."""


def factorial_effects(
    costs: ArrayLike, *, scale: str = "difference", n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Effects of two ordered factors on a cost, with intervals over all further axes.

    Args:
        costs: `[levels of the first, levels of the second, ...]`, both from the highest level (most real) to the
            lowest, at least two of each. The further axes are crossed and resampled: seeds, base models, examples, the
            same in all cells. On the scale `difference` a cost is performance of `real` less that of the cell, paired;
            on `log_odds` it is an error, 1 - performance, a fraction.
        scale: `difference`, or `log_odds` of the cells' means.

    Returns:
        One row per effect, as above: `effect`, `estimate`, `low`, `high` (in the unit of the costs, or log-odds) and
        `reason` (empty, or why a number is NaN). `mean` is the mean of all cells, with the scale `difference` only.
    """
    table = np.asarray(costs, dtype=np.float64)
    weights = contrasts(table.shape[:2])
    if scale == "difference":
        weights = {"mean": np.full(table.shape[:2], 1 / (table.shape[0] * table.shape[1]))} | weights
    cells = table.reshape(*table.shape[:2], -1).mean(axis=-1)
    resampled = crossed_means(table, kept=(0, 1), n_resamples=n_resamples, seed=seed)
    if scale == "log_odds":
        n = int(np.prod(table.shape[2:]))
        cells, resampled = _log_odds(cells, n), None if resampled is None else _log_odds(resampled, n)
    rows = []
    for name, weight in weights.items():
        found = percentile_interval(float((weight * cells).sum()),
                                    None if resampled is None else np.einsum("ij,bij->b", weight, resampled))
        rows.append({"effect": name, **found._asdict(),
                     "reason": "no interval: nothing to resample" if resampled is None else ""})
    return pd.DataFrame(rows)


def contrasts(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The weights of each effect, float64 `shape`, each adding up to 0."""
    ends, lines, found = [], [], {}
    for axis, (name, n) in enumerate(zip(FACTORS, shape, strict=True)):
        end, line = np.zeros(n), np.arange(n) - (n - 1) / 2
        end[0], end[-1] = -1, 1
        line *= (n - 1) / (line @ line)  # a slope times the range: unit of the extremes' difference
        ends.append(end)
        lines.append(line)

        parts = {name: end, f"{name}_linear": line}
        if n > 2:
            parts[f"{name}_curvature"] = np.array([-0.5, *[1 / (n - 2)] * (n - 2), -0.5])
        other = np.full(shape[1 - axis], 1 / shape[1 - axis])
        found |= {key: np.outer(part, other) if axis == 0 else np.outer(other, part) for key, part in parts.items()}
    return found | {
        "difference": found[FACTORS[0]] - found[FACTORS[1]],
        "interaction": np.outer(*ends), "linear_by_linear": np.outer(*lines),
    }


def _log_odds(means: np.ndarray, n: int) -> np.ndarray:
    """Log-odds of means of `n` values, half a case added on both sides so that 0 and 1 have one (Haldane 1956)."""
    return np.log((means * n + 0.5) / (n - means * n + 0.5))
