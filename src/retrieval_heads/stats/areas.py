"""Area between two knock-out curves: performance against the number k of heads knocked out, for two orders of heads.

One number for "retrieval heads cost more than random ones" that does not depend on a k chosen afterwards, as the area
over the perturbation curve of pixel flipping (Samek et al. 2017, section III). The curve of the reference (random or
bottom heads) less that of the treated (retrieval heads) is integrated over the axis by the trapezoid rule and divided
by the axis' range. With scores in [0, 1] it lies in [-1, 1]: 0 for equal curves; positive where the treated heads cost
more; 1 is approached only where one head less takes everything and the reference never loses anything.

Two axes:

* `log`: log(1 + k), the default. The counts are about doubled from one to the next, and each doubling weighs the same.
  Heads are knocked out in order of strength, so what tells the orders apart happens at small k.
* `fraction`: k / n_heads. Every head weighs the same, so the area is about models of which most heads are gone, where
  all curves are at the floor. It compares models of different size; show it beside the other.

The area is linear in the scores, so every example has its own, and a bootstrap of the mean of these is one of the area.
Both curves end at the last k that both have: an area to half of the heads is not comparable with one to all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.resample import NAN, RESAMPLES, check_resampling, crossed_means, floats, percentile_interval

AXES = ("log", "fraction")


def area_between(
    reference: ArrayLike, treated: ArrayLike, k: ArrayLike, *, n_heads: int, axis: str = "log", level: float = 0.95,
    n_resamples: int = RESAMPLES, seed: int = 0,
) -> dict[str, float | int | str]:
    """Area of the reference curve minus the treated one, paired by example, with its interval.

    Args:
        reference, treated: scores in [0, 1], `[..., len(k), n]`, larger is better, of the same n examples. Leading axes
            (draws, seeds, base models) are crossed and resampled like the examples; one of length 1, or missing, is the
            same for all of the other's. Draws that are made anew for each run belong to the run: average over them
            first when there are several runs. NaN at a k for which there is no such set.
        k: numbers of heads knocked out, rising from 0, where both curves are the unchanged model.
        n_heads: heads of the model.
        axis: `log` or `fraction`, see above.
        level: coverage of the interval.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        `area`, `low`, `high`; `share`, `share_low`, `share_high`, the area as a share of the mean score at k = 0, which
        is what could be lost; `axis`, `k_last` (largest k used), `n_k`, `n` (examples), `reason` (empty, or why a
        number is NaN).

    Raises:
        ConfigError: shapes that do not fit, scores outside [0, 1], curves that differ at k = 0 or have gaps, counts
            that are not rising whole numbers from 0 to at most `n_heads`, or an unknown axis.
    """
    check_resampling(level, n_resamples)
    first, second, counts = _curves(reference, treated, _counts(k, n_heads))
    row: dict[str, float | int | str] = dict.fromkeys(("area", "low", "high", "share", "share_low", "share_high"), NAN)
    row |= {"axis": axis, "k_last": int(counts[-1]), "n_k": len(counts), "n": first.shape[-1], "reason": ""}
    if axis not in AXES:
        raise ConfigError("unknown axis", where="axis", value=axis, remedy=f"Use one of {', '.join(AXES)}.")
    if len(counts) < 2:
        return row | {"reason": "no k above 0 that both curves have"}
    places = np.log1p(counts) if axis == "log" else counts / n_heads
    areas = trapezoid(first - second, places, axis=-2) / np.ptp(places)
    both = np.stack([areas, np.broadcast_to(first[..., 0, :], areas.shape)])  # [2, ..., n]
    row["area"], before = (float(mean) for mean in both.reshape(2, -1).mean(axis=1))
    resampled = crossed_means(both, kept=(0,), n_resamples=n_resamples, seed=seed)
    if resampled is None:
        row["reason"] = "no interval: one example"
    lost = None if resampled is None else resampled[:, 0]
    _, row["low"], row["high"] = percentile_interval(row["area"], lost, level)
    if not before:
        return row | {"reason": "no share: nothing is right at k = 0"}
    row["share"] = row["area"] / before
    if resampled is not None:
        lost, whole = resampled[resampled[:, 1] > 0].T  # a sample without a right answer has nothing to lose
        _, row["share_low"], row["share_high"] = percentile_interval(row["share"], lost / whole, level)
    return row


def _counts(k: ArrayLike, n_heads: int) -> np.ndarray:
    counts = floats(k)
    rising = counts.ndim == 1 and len(counts) and counts[0] == 0 and (np.diff(counts) > 0).all()
    if not (rising and (counts == np.round(counts)).all() and counts[-1] <= n_heads):
        raise ConfigError(
            f"not rising numbers of heads from 0 to at most {n_heads}", where="k", value=k,
            remedy="Give the numbers of heads knocked out, with 0 for the unchanged model.",
        )
    return counts


def _curves(reference: ArrayLike, treated: ArrayLike, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both curves `[..., K, n]` at the counts that both have, and these counts."""
    first, one = _curve(reference, "reference", counts)
    second, two = _curve(treated, "treated", counts)
    if first.shape[-1] != second.shape[-1]:
        raise ConfigError(
            "curves of different examples", where="area_between", value=(first.shape, second.shape),
            remedy="Give both curves on the same examples, in the same order.",
        )
    first, second = first[..., one & two, :], second[..., one & two, :]
    try:
        same = np.allclose(first[..., 0, :], second[..., 0, :])
    except ValueError as error:
        raise ConfigError(
            "leading axes that do not fit", where="area_between", value=(first.shape, second.shape),
            remedy="Give the same draws, seeds or base models for both, or none for one.",
        ) from error
    if not same:
        raise ConfigError(
            "curves that differ where no head is knocked out", where="area_between", value="k = 0",
            remedy="Give two curves of the same runs.",
        )
    return first, second, counts[one & two]


def _curve(values: ArrayLike, name: str, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve `[..., K, n]` and at which counts there is one, bool `[K]`."""
    curve = floats(values)
    if curve.ndim < 2 or not curve.size or curve.shape[-2] != len(counts):
        raise ConfigError(
            f"not scores at {len(counts)} numbers of heads", where=name, value=curve.shape,
            remedy="Give scores by number of heads by example.",
        )
    missing = np.isnan(curve)
    known = ~missing.any(axis=tuple(axis for axis in range(curve.ndim) if axis != curve.ndim - 2))
    if not missing[..., ~known, :].all() or not known[0]:
        raise ConfigError(
            "scores that are missing for some examples only, or at k = 0", where=name, value=counts[~known].tolist(),
            remedy="Give NaN only for a number of heads without a set.",
        )
    if (curve[..., known, :] < 0).any() or (curve[..., known, :] > 1).any():
        raise ConfigError(
            "scores outside 0 and 1", where=name, value=(float(np.nanmin(curve)), float(np.nanmax(curve))),
            remedy="Give fractions, such as exact match; the area of a loss has no scale.",
        )
    return curve, known
