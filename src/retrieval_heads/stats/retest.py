"""How far a detector agrees with itself, the ceiling of any overlap between two runs.

A finite probe set blurs the scores, so two detections of one run differ. The probe examples are split at random into
two disjoint halves, and measures of overlap are taken between the halves, over many splits (split-half reliability,
averaged; Nunnally and Bernstein 1994, chapter 7). A run beside itself gives the ceiling; two runs beside each other *on
different halves* give an overlap that has the same blur and can stand beside it. Comparing the overlap on all examples
with a ceiling from halves would be wrong: half the examples blur more, so the ceiling would be too low.

The normalised overlap is (observed - chance) / (ceiling - chance): 0 for random sets, 1 for runs that differ no more
than one run from itself. The ceiling of two runs is the geometric mean of theirs, as in the correction of a
correlation for attenuation (Spearman 1904). It can exceed 1, by chance alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.overlap import common_distribution, matrices

NAN = float("nan")

SPLITS = 100
WHY = {"recall": "the first run has no head", "precision": "the second run has no head", "cosine": "scores are all 0"}
"""The measures, and when they are not defined."""

MEASURES = tuple(WHY)


def half_overlap(
    first: ArrayLike, second: ArrayLike, threshold: float = 0.1, *, n_splits: int = SPLITS, seed: int = 0
) -> dict[str, float | int | str]:
    """Overlap of two runs, each scored on one half of the probe examples; of a run beside itself, its retest.

    Args:
        first, second: per-example scores `[n_examples, n_layers, n_heads]`, fractions, of the same examples in the same
            order. In recall the first is the real run.
        threshold: a head is a retrieval head when its mean score over the half is above this.
        n_splits, seed: random splits, of which each is used both ways round. The same seed and number of examples give
            the same splits, whatever the runs. With an odd number of examples, one stands aside in each split.

    Returns:
        For each of `recall`, `precision` and `cosine`: `NAME`, the mean over the splits in which it is defined, and
        `NAME_chance`, the mean expected value for random sets with the same heads in each layer (for the cosine, of
        scores permuted within layers) in the same splits; `n_half` (examples), `n_splits`, `undefined` (share of the
        splits without a recall or a precision) and `reason`.

    Raises:
        ConfigError: arrays of different or wrong shapes or with values that are not finite, fewer than two examples, or
            no splits.
    """
    one, two = _per_example(first, "first"), _per_example(second, "second")
    if one.shape != two.shape:
        raise ConfigError(
            "scores of different examples or models", where="half_overlap", value=(one.shape, two.shape),
            remedy="Give the scores of two runs of one base model on the same examples.",
        )
    if n_splits < 1:
        raise ConfigError("no splits", where="n_splits", value=n_splits, remedy="Use 100, say.")
    half, rng = len(one) // 2, np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for _ in range(n_splits):
        order = rng.permutation(len(one))
        a, b = order[:half], order[half : 2 * half]
        found += [_measures(one[x].mean(axis=0), two[y].mean(axis=0), threshold) for x, y in ((a, b), (b, a))]
    return {"n_half": half, "n_splits": n_splits} | _averaged(found)


def pair_ceiling(first: float, second: float) -> float:
    """The ceiling of two runs from their own retests, both in [0, 1]: the geometric mean; NaN if one is not defined."""
    for name, value in (("first", first), ("second", second)):
        if value < 0:
            raise ConfigError("a negative retest", where=name, value=value, remedy="Give a share or a cosine.")
    return float(np.sqrt(first * second))


def normalised_overlap(observed: float, chance: float, ceiling: float) -> dict[str, float | str]:
    """`normalised`: (observed - chance) / (ceiling - chance), and the `reason` where it is NaN.

    Not defined where a value is NaN, or the ceiling is not above chance: then detection tells heads from nothing, and
    there is no scale. All three must come from halves of the same size.
    """
    for name, value in (("observed", observed), ("chance", chance), ("ceiling", ceiling)):
        if np.isnan(value):
            return {"normalised": NAN, "reason": f"{name} is not defined"}
    if not ceiling > chance:
        return {"normalised": NAN, "reason": "the ceiling is not above chance"}
    return {"normalised": float((observed - chance) / (ceiling - chance)), "reason": ""}


def strict_subsets(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]], threshold: float = 0.1
) -> dict[str, float | int | str]:
    """How often the synthetic run's heads are a strict subset of the real run's: S in R, and S not R.

    Args:
        pairs: score matrices `[n_layers, n_heads]` of the real and of the synthetic run, one pair a comparison.
        threshold: a head is a retrieval head when its score is above this.

    Returns:
        `n_pairs`; `n_empty`, pairs without a synthetic head, whose empty set is a subset of anything and is left out;
        `n_strict`, `n_equal`, `n_neither`, which add up to the others; `strict` and `equal`, their shares of these;
        `strict_chance`, the share that random sets with the same heads in each layer would give; `reason`.

    Raises:
        ConfigError: as in `overlap.overlap`.
    """
    counts, chances = {"n_pairs": 0, "n_empty": 0, "n_strict": 0, "n_equal": 0, "n_neither": 0}, []
    for real, synthetic in pairs:
        r, s = (scores > threshold for scores in matrices(real, synthetic))
        counts["n_pairs"] += 1
        if not s.any():
            counts["n_empty"] += 1
            continue
        kind = "n_neither" if (s & ~r).any() else "n_strict" if (r & ~s).any() else "n_equal"
        counts[kind] += 1
        n_synthetic, probabilities = int(s.sum()), common_distribution(r, s)
        chances.append(float(probabilities[n_synthetic]) if n_synthetic < r.sum() else 0.0)
    known = len(chances)
    return counts | {
        "strict": counts["n_strict"] / known if known else NAN, "equal": counts["n_equal"] / known if known else NAN,
        "strict_chance": float(np.mean(chances)) if known else NAN,
        "reason": "" if known else "no pair with a synthetic head",
    }


def _measures(real: np.ndarray, synthetic: np.ndarray, threshold: float) -> dict[str, float]:
    r, s = real > threshold, synthetic > threshold
    common, expected = (r & s).sum(), (r.sum(axis=1) * s.sum(axis=1)).sum() / r.shape[1]  # hypergeometric means
    norm = np.linalg.norm(real) * np.linalg.norm(synthetic)
    permuted = (real.mean(axis=1) * synthetic.sum(axis=1)).sum()
    parts = {
        "recall": (common, expected, r.sum()), "precision": (common, expected, s.sum()),
        "cosine": ((real * synthetic).sum(), permuted, norm),
    }
    return {
        name + end: float(value / size) if size else NAN
        for name, (observed, chance, size) in parts.items() for end, value in (("", observed), ("_chance", chance))
    }


def _averaged(found: list[dict[str, float]]) -> dict[str, float | str]:
    """Means over the splits in which a measure is defined."""
    row: dict[str, float | str] = {}
    reasons, missing = [], {}
    for name in MEASURES:
        known = [split for split in found if not np.isnan(split[name])]
        missing[name] = 1 - len(known) / len(found)
        for column in (name, f"{name}_chance"):
            row[column] = float(np.mean([split[column] for split in known])) if known else NAN
        if not known:
            reasons.append(f"{name}: {WHY[name]} in any half")
    return row | {"undefined": max(missing["recall"], missing["precision"]), "reason": "; ".join(reasons)}


def _per_example(values: ArrayLike, where: str) -> np.ndarray:
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        scores = np.empty(0)
    if scores.ndim != 3 or len(scores) < 2 or not scores.size or not np.isfinite(scores).all():
        raise ConfigError(
            "not finite scores of at least two examples, examples by layers by heads", where=where, value=scores.shape,
            remedy="Give `per_example` of `retrieval_scores`.",
        )
    return scores
