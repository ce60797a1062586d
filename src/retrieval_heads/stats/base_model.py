"""What two runs share beyond the un-tuned base model that both were trained from.

Every run inherits the heads of its base model, so two runs agree before they have learned anything. Two measures leave
that out:

* the partial rank correlation of the two runs' scores given the base's, over heads (Spearman's rho of the residuals of
  a regression on the base's ranks; Kendall and Stuart 1973, chapter 27): what agreement is left among heads that were
  equally strong in the base model. Inside layers it also leaves out in which layers the heads are.
* the overlap of *gained* heads, those above the threshold in a run and not in the base. By chance they are drawn from
  the heads that the base does not have: with g candidates, r and s gained heads, the number of common ones is
  hypergeometric (g, r, s), or a sum of such numbers, one a layer.

A gain depends on the threshold: a head just below it in the base counts as gained when its score hardly moves. Show
it over thresholds, beside the partial correlation, which has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from retrieval_heads.stats.correlation import PERMUTATIONS, correlate
from retrieval_heads.stats.overlap import matrices, sets_row

NAN = float("nan")


def partial_score_correlation(
    first: ArrayLike, second: ArrayLike, base: ArrayLike, *, within_layers: bool = False,
    n_permutations: int = PERMUTATIONS, seed: int = 0,
) -> dict[str, float | str]:
    """Rank correlation of two runs' scores over heads, given those of their base model.

    Args:
        first, second, base: score matrices `[n_layers, n_heads]`, fractions.
        within_layers: take ranks inside each layer.
        n_permutations, seed: of the permutation test, which exchanges heads (inside layers, if so asked).

    Returns:
        `partial`, its two-sided `p`, `correlation` (without the base), `base_first` and `base_second` (of each run with
        the base), `n_heads`, `reason` (empty, or why `partial` or `p` is NaN). There is no interval: heads of one pair
        of runs are no sample; resample the runs' `partial` values instead.

    Raises:
        ConfigError: not three matrices of one shape with finite values.
    """
    one, two = matrices(first, second)
    _, start = matrices(one, base)
    groups = np.repeat(np.arange(len(one)), one.shape[1]) if within_layers else None

    def rho(x: np.ndarray, y: np.ndarray, covariate: np.ndarray | None = None, draws: int = 1) -> dict:
        return correlate(
            x.ravel(), y.ravel(), groups=groups, covariate=None if covariate is None else covariate.ravel(),
            n_resamples=1, n_permutations=draws, seed=seed,
        )

    found = rho(one, two, start, n_permutations)
    return {
        "partial": found["estimate"], "p": found["p"], "correlation": rho(one, two)["estimate"],
        "base_first": rho(start, one)["estimate"], "base_second": rho(start, two)["estimate"],
        "n_heads": one.size, "reason": "; ".join(why for why in found["reason"].split("; ") if "interval" not in why),
    }


def gained_overlap(real: ArrayLike, synthetic: ArrayLike, base: ArrayLike, threshold: float = 0.1) -> dict[str, float]:
    """Overlap of the heads that two runs have and their base model has not, beside its chance levels.

    Args:
        real, synthetic, base: score matrices `[n_layers, n_heads]`, fractions.
        threshold: a head is a retrieval head when its score is above this.

    Returns:
        The columns of `overlap.COLUMNS` that are about sets (recall, precision, Jaccard, subset, with their chance
        levels), where `n_heads` counts the heads that the base does not have and `n_real`, `n_synthetic`, `n_common`
        the gained ones; and `n_base`, `kept_real`, `kept_synthetic` (share of the base's heads that each run still
        has; NaN without any), `inherited_real`, `inherited_synthetic` (share of each run's heads that the base has; NaN
        without any). `reason` says why recall or precision is NaN.

    Raises:
        ConfigError: not three matrices of one shape with finite values.
    """
    one, two = matrices(real, synthetic)
    _, start = matrices(one, base)
    of_base = start > threshold
    row: dict[str, float] = sets_row(one, two, threshold, ~of_base) | {"n_base": int(of_base.sum())}
    for name, scores in (("real", one), ("synthetic", two)):
        has = scores > threshold
        both = int((has & of_base).sum())
        row[f"kept_{name}"] = both / of_base.sum() if of_base.any() else NAN
        row[f"inherited_{name}"] = both / has.sum() if has.any() else NAN
    empty = [f"the {name} run gained no head" for name in ("real", "synthetic") if not row[f"n_{name}"]]
    return row | {"reason": "; ".join(empty)}
