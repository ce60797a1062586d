"""Claim C2 on the pretrained model: are the heads of synthetic runs mostly a subset of those of real runs?

By the strength-weighted precision of what a run gained over theta alone, beside the ceiling between real runs. The
interval resamples the probe examples of each half; it is centred on the estimate, as a resample adds noise, and noise
makes the minima of strengths smaller. Seeds are not resampled: the rule has to hold with each of them left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.pretrained.loading import CHAPTER, SYNTHETIC
from retrieval_heads.claims.pretrained.resampling import LEAST_SEEDS
from retrieval_heads.claims.pretrained.sampled import (
    RESAMPLES,
    Sampled,
    at_least,
    both,
    first_that_holds,
    lies_above,
    lies_below,
    none_of,
)
from retrieval_heads.claims.pretrained.strengths import Probed, reference, seeds_left_out
from retrieval_heads.claims.strength_pairs import beside, chance_within_layers, flat, of_kind, pair_mean, pair_values
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict
from retrieval_heads.settings import REFERENCE

HEADS = ("all", "gained")
LEAST_PART, LEAST_CEILING = 0.8, 0.5
NEEDED, REFUTING = 4, 3
"""Of the five synthetic sets: in so many it has to hold, or to fail."""

PERMUTATIONS = 2000
HOLDS, FAILS, OPEN = "holds", "fails", "open"

RULE = (
    f"Strength-weighted precision of gained strength at least {LEAST_PART} of the ceiling between real seeds, beyond "
    "the interval over probe examples, with each seed left out, and above chance within layers: supported when it "
    f"holds in {NEEDED} of 5 synthetic sets; not supported when it fails in {REFUTING}; in part when it holds of all "
    f"strength only; tested only where the ceiling is at least {LEAST_CEILING} and above chance."
)

_CHUNK = 256


def agreement_rows(
    probes: Probed, task: str, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """The table `strength_agreement` of one task: every training set beside the real runs.

    Args:
        probes: the heads by probe example; gained strength needs theta alone.
        n_resamples: of the probe examples.
        n_permutations: of the heads within layers.
        seed: of both.

    Returns:
        One row a training set and kind of strength (`all`, `gained`); see the data dictionary. None without real runs.
    """
    real = reference(probes)
    if real is None:
        return pd.DataFrame()
    strengths, rows = probes.strengths(), []
    kinds = HEADS if probes.alone is not None else HEADS[:1]
    samples = _resampled(probes, real, kinds, n_resamples, seed)
    alone = probes.alone_strengths() if probes.alone is not None else np.zeros((2, *strengths.shape[-2:]))
    for heads in kinds:
        own = of_kind(strengths, alone, heads)
        recall, precision = pair_values(flat(own), flat(own[:, [real]]))
        chance, chance_high = chance_within_layers(own, own[:, [real]], n_permutations, seed)
        ceiling = float(pair_mean(precision)[real])
        left_out = np.stack([one - LEAST_PART * one[real] for one in seeds_left_out(precision)], axis=-1)
        for i, condition in enumerate(probes.conditions):
            number = {"recall": float(pair_mean(recall)[i]), "precision": float(pair_mean(precision)[i])}
            number["difference"] = number["precision"] - LEAST_PART * ceiling
            cells = {}
            for name, value in number.items():
                found = Sampled(value, samples[heads][name][:, i]).cells()
                cells |= {name if end == "value" else f"{name}_{end}": cell for end, cell in found.items()}
            rows.append({
                "task": task, "condition": condition, "heads": heads, **cells,
                "chance": float(chance[i]), "chance_high": float(chance_high[i]), "ceiling": ceiling,
                "left_out_least": float(left_out[i].min()), "left_out_most": float(left_out[i].max()),
                **beside(own[:, i], own[:, real]), "n_pairs": int((~np.isnan(precision[i])).sum()),
                "n_seeds": int(probes.there[i].sum()), "n": sum(half.shape[2] for half in probes.halves),
            })
    return pd.DataFrame([row | {"finding": _finding(row)} for row in rows])


def _resampled(
    probes: Probed, real: int, kinds: tuple[str, ...], n_resamples: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """By kind of strength and measure, float64 `[resamples, conditions]`, centred on the estimate."""
    rng = np.random.default_rng(seed)
    shape = probes.halves[0].shape
    alone = probes.alone or tuple(np.zeros((half.shape[2], *shape[3:]), np.float32) for half in probes.halves)
    # [examples, runs and theta alone, heads] of each half, of those heads only that any of them has
    cubes = [np.concatenate([flat(half).transpose(2, 0, 1, 3).reshape(half.shape[2], -1, shape[3] * shape[4]),
                             flat(own)[:, None]], axis=1) for half, own in zip(probes.halves, alone, strict=True)]
    active = np.any([cube.any(axis=(0, 1)) for cube in cubes], axis=0)
    cubes = [cube[..., active] for cube in cubes]
    found: dict = {heads: {name: [] for name in ("recall", "precision")} for heads in kinds}
    for start in range(0, n_resamples, _CHUNK):
        size = min(_CHUNK, n_resamples - start)
        drawn = np.stack([_weights(rng, len(cube), size) @ cube.reshape(len(cube), -1) for cube in cubes])
        drawn = np.maximum(drawn, 0).reshape(2, size, -1, active.sum())
        runs = drawn[:, :, :-1].reshape(2, size, *shape[:2], -1)
        runs = np.where(probes.there[..., None], runs, np.nan)
        for heads in kinds:
            own = runs if heads == "all" else np.maximum(runs - drawn[:, :, -1][:, :, None, None], 0)
            recall, precision = pair_values(own, own[:, :, [real]])
            found[heads]["recall"].append(pair_mean(recall))
            found[heads]["precision"].append(pair_mean(precision))
    return {heads: _centred(measures, probes, real, heads) for heads, measures in found.items()}


def _weights(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return (rng.multinomial(n, np.full(n, 1 / n), size=size) / n).astype(np.float32)


def _centred(measures: dict[str, list], probes: Probed, real: int, heads: str) -> dict[str, np.ndarray]:
    samples = {name: np.concatenate(parts).astype(np.float64) for name, parts in measures.items()}
    samples["difference"] = samples["precision"] - LEAST_PART * samples["precision"][:, [real]]
    alone = probes.alone_strengths() if heads == "gained" else np.zeros((2, 1, 1))
    own = flat(of_kind(probes.strengths(), alone, heads))
    recall, precision = map(pair_mean, pair_values(own, own[:, [real]]))
    estimates = {"recall": recall, "precision": precision, "difference": precision - LEAST_PART * precision[real]}
    return {name: values - values.mean(axis=0) + estimates[name] for name, values in samples.items()}


def _finding(row: dict) -> str:
    if row["condition"] == REFERENCE or row["precision"] is None:  # with one seed there is no real run of another
        return OPEN
    above = both(lies_above(row, 0.0, "difference_"), row["left_out_least"] > 0, row["precision"] > row["chance_high"])
    below = both(lies_below(row, 0.0, "difference_"), row["left_out_most"] < 0)
    fails = True if row["precision"] <= row["chance"] else below
    return first_that_holds([(HOLDS, above), (FAILS, fails)], OPEN)


def verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C2 in one task, from the table `strength_agreement`."""
    quantity = "strength-weighted precision of what synthetic runs gain, mean of the sets"
    gained = rows[rows["heads"] == "gained"].set_index("condition") if len(rows) else rows
    names = [name for name in (REFERENCE, *SYNTHETIC) if len(gained) and name in gained.index]
    few = [name for name in (REFERENCE, *SYNTHETIC) if name not in names or gained.loc[name, "n_seeds"] < LEAST_SEEDS]
    if few:
        why = f"Fewer than {LEAST_SEEDS} seeds, or no theta alone to compare with: {', '.join(few)}."
        return Verdict("C2", task, UNDECIDED, quantity, None, None, None, "fraction", 0, "synthetic sets", RULE, why,
                       CHAPTER, "strength_agreement")
    sets = gained.loc[list(SYNTHETIC)]
    everything = rows[(rows["heads"] == "all") & rows["condition"].isin(SYNTHETIC)]
    holds, fails = ((sets["finding"] == name).tolist() for name in (HOLDS, FAILS))
    in_all = (everything["finding"] == HOLDS).tolist()
    ceiling = gained.loc[REFERENCE]
    stable = ceiling["precision"] >= LEAST_CEILING and ceiling["precision"] > ceiling["chance_high"]
    outcome = first_that_holds([
        (SUPPORTED, at_least(NEEDED, holds)), (NOT, at_least(REFUTING, fails)),
        (IN_PART, both(at_least(NEEDED, in_all), none_of([at_least(NEEDED, holds)]))),
    ], UNDECIDED) if stable else UNDECIDED
    detail = (f"Of what is gained it holds in {sum(holds)} and fails in {sum(fails)} of {len(sets)} synthetic sets; of "
              f"all strength it holds in {sum(in_all)}. The ceiling is {ceiling['precision']:.2f}, its chance at most "
              f"{ceiling['chance_high']:.2f}" + ("." if stable else ": nothing stable is gained, so it is not tested."))
    return Verdict("C2", task, outcome, quantity, float(sets["precision"].mean()), None, None, "fraction", len(sets),
                   "synthetic sets", RULE, detail, CHAPTER, "strength_agreement")
