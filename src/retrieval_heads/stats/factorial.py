"""Main effects and interaction of two ordered factors: realism of the needle and diversity of the haystack.

Every effect is a contrast of the nine cell means, a weighted sum whose weights add up to 0 (Cox 1958, *Planning of
Experiments*, chapter 6), so it is the same for performance and for its difference to `real`, up to the sign: the
real run cancels, and with it its share of chance. Only the mean cost of all cells depends on `real`.

* `FACTOR`: cost of going from the highest level to the lowest, averaged over the levels of the other factor;
* `FACTOR_linear`: the same by a straight line through all levels, at the scores given (a trend contrast);
* `FACTOR_curvature`: how much more a middle level costs than the line between the ends says (0: it lies on it);
* `difference`: the first factor's cost less the second's: which axis costs more;
* `interaction`: difference of differences of the extremes, low-low - low-high - high-low + high-high. Positive: the
  two together cost more than the sum of each alone; negative: less;
* `linear_by_linear`: the interaction of the two lines (Agresti 2013, section 10.5, for its use with ordered levels).
  With three equally spaced levels the middle one has no weight, and it *is* `interaction`. It says more only at other
  scores (measured realism, say) or with more levels.

A metric between 0 and 1 cannot fall below 0: two large costs then add up to less than their sum, which is an
interaction on this scale and may be none on another. With `scale="log_odds"` the cells' means are turned into log-odds
first, in every bootstrap sample too. An interaction that has the same sign on both scales is not one of the floor
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.bootstrap import RESAMPLES, check_resampling, crossed_means, percentile_interval

NAN = float("nan")
SCALES = ("difference", "log_odds")

FACTORS = ("concept", "context")
"""Default names of the two factors: concept expression and context diversity."""


def factorial_effects(
    costs: ArrayLike, *, names: Sequence[str] = FACTORS,
    scores: tuple[ArrayLike | None, ArrayLike | None] = (None, None), scale: str = "difference", level: float = 0.95,
    n_resamples: int = RESAMPLES, seed: int = 0,
) -> pd.DataFrame:
    """Effects of two ordered factors on a cost, with intervals over all further axes.

    Args:
        costs: `[levels of the first, levels of the second, ...]`, both from the highest level (most real) to the
            lowest, at least two of each. The further axes are crossed and resampled: seeds, base models, examples, the
            same in all cells. On the scale `difference` a cost is performance of `real` less that of the cell, paired;
            on `log_odds` it is an error, 1 - performance, a fraction.
        names: of the factors.
        scores: a number for each level of each factor, in the same order, rising or falling throughout; equally spaced
            when None.
        scale: `difference`, or `log_odds` of the cells' means.
        level, n_resamples, seed: coverage, number of samples and random seed of the bootstrap.

    Returns:
        One row an effect, as above: `effect`, `estimate`, `low`, `high` (in the unit of the costs, or log-odds) and
        `reason` (empty, or why a number is NaN). `mean` is the mean of all cells, with the scale `difference` only.

    Raises:
        ConfigError: costs that are not finite or have too few axes or levels, scores that are not in order, an unknown
            scale, or fractions outside [0, 1] for log-odds.
    """
    table = _costs(costs, scale)
    check_resampling(level, n_resamples)
    weights = contrasts(table.shape[:2], names=names, scores=scores)
    if scale == "difference":
        weights = {"mean": np.full(table.shape[:2], 1 / (table.shape[0] * table.shape[1]))} | weights
    cells = table.reshape(*table.shape[:2], -1).mean(axis=-1)
    resampled = crossed_means(table, kept=(0, 1), n_resamples=n_resamples, seed=seed)
    if scale == "log_odds":
        n = int(np.prod(table.shape[2:]))
        cells, resampled = _log_odds(cells, n), None if resampled is None else _log_odds(resampled, n)
    rows = []
    for name, weight in weights.items():
        estimate = float((weight * cells).sum())
        row = {"effect": name, "estimate": estimate, "low": NAN, "high": NAN, "reason": ""}
        if resampled is None:
            row["reason"] = "no interval: nothing to resample"
        else:
            values = np.einsum("ij,bij->b", weight, resampled)
            _, row["low"], row["high"] = percentile_interval(estimate, values, level)
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts(
    shape: tuple[int, int], *, names: Sequence[str] = FACTORS,
    scores: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> dict[str, np.ndarray]:
    """The weights of each effect, float64 `shape`, each adding up to 0. Errors as in `factorial_effects`."""
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError("not two different names", where="names", value=list(names), remedy="Name both factors.")
    ends, lines, found = [], [], {}
    for axis, (name, n) in enumerate(zip(names, shape, strict=True)):
        values = _scores(scores[axis], n, name)
        end, line = np.zeros(n), values - values.mean()
        end[0], end[-1] = -1, 1
        line *= (values[-1] - values[0]) / (line @ line)  # a slope times the range: unit of the extremes' difference
        ends.append(end)
        lines.append(line)

        parts = {name: end, f"{name}_linear": line}
        if n > 2:
            at = ((values[1:-1] - values[0]) / (values[-1] - values[0])).mean()  # where the middle is, from 0 to 1
            parts[f"{name}_curvature"] = np.array([at - 1, *[1 / (n - 2)] * (n - 2), -at])
        other = np.full(shape[1 - axis], 1 / shape[1 - axis])
        found |= {key: np.outer(part, other) if axis == 0 else np.outer(other, part) for key, part in parts.items()}
    return found | {
        "difference": found[names[0]] - found[names[1]],
        "interaction": np.outer(*ends), "linear_by_linear": np.outer(*lines),
    }


def _log_odds(means: np.ndarray, n: int) -> np.ndarray:
    """Log-odds of means of `n` values, half a case added on both sides so that 0 and 1 have one (Haldane 1956)."""
    return np.log((means * n + 0.5) / (n - means * n + 0.5))


def _scores(values: ArrayLike | None, n: int, where: str) -> np.ndarray:
    try:
        scores = np.arange(n, dtype=float) if values is None else np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        scores = np.empty(0)
    steps = np.diff(scores) if scores.shape == (n,) else np.zeros(1)
    if not (np.isfinite(steps).all() and ((steps > 0).all() or (steps < 0).all())):
        raise ConfigError(
            f"not {n} numbers in order, one a level", where=f"scores of {where}", value=values,
            remedy="Give rising or falling numbers, from the highest level to the lowest.",
        )
    return scores


def _costs(values: ArrayLike, scale: str) -> np.ndarray:
    if scale not in SCALES:
        raise ConfigError("unknown scale", where="scale", value=scale, remedy=f"Use one of {', '.join(SCALES)}.")
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.ndim < 2 or min(table.shape) < 1 or min(table.shape[:2]) < 2 or not np.isfinite(table).all():
        raise ConfigError(
            "not finite costs of at least two levels of two factors", where="costs", value=table.shape,
            remedy="Give levels of the first factor by levels of the second, by seeds, base models or examples.",
        )
    if scale == "log_odds" and not ((table >= 0) & (table <= 1)).all():
        raise ConfigError(
            "log-odds of what is no fraction", where="costs", value=(float(table.min()), float(table.max())),
            remedy="Give errors, 1 - performance, not differences to the real run.",
        )
    return table
