"""Claim C2 on the pretrained model: are the heads of synthetic runs mostly a subset of those of real runs?

By the strength-weighted precision of what a run gained over theta alone, beside the ceiling between real runs. The
interval resamples the probe examples of each half; it is centred on the estimate, as a resample adds noise, and noise
makes the minima of strengths smaller. Seeds are not resampled: the rule has to hold with each of them left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from retrieval_heads.claims.arrays import flat, seed_means
from retrieval_heads.claims.pretrained.loading import CHAPTER, LEAST_SEEDS, SYNTHETIC, Probed
from retrieval_heads.claims.pretrained.sampled import RESAMPLES, Sampled, at_least, both, lies_above, lies_below
from retrieval_heads.claims.runs import from_cells
from retrieval_heads.claims.strengths import beside, chance_within_layers, pair_values
from retrieval_heads.claims.verdict import ALL, Verdict, decide, first_that_holds, undecided
from retrieval_heads.settings import REFERENCE
from retrieval_heads.stats.resample import blocks, draw
from retrieval_heads.wording import words

HEADS = ("all", "gained")
LEAST_PART, LEAST_CEILING = 0.8, 0.5
NEEDED, REFUTING = 4, 3
"""Of the five synthetic sets: in so many it has to hold, or to fail."""

PERMUTATIONS = 2000
HOLDS, FAILS, OPEN = "holds", "fails", "open"

C2 = partial(
    Verdict, claim="C2", quantity="strength-weighted precision of what synthetic runs gain, mean of the sets",
    unit="fraction", n_of="synthetic sets", chapter=CHAPTER, table="strength_agreement", rule=
    f"Strength-weighted precision of gained strength at least {LEAST_PART} of the ceiling between real seeds, beyond "
    "the interval over probe examples, with each seed left out, and above chance within layers: supported when it "
    f"holds in {NEEDED} of 5 synthetic sets; not supported when it fails in {REFUTING}; in part when it holds of all "
    f"strength only; tested only where the ceiling is at least {LEAST_CEILING} and above chance.",
)

BLOCK = 256
"""Resamples in memory at a time."""


def agreement_rows(
    probes: Probed, task: str, *, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """The table `strength_agreement` of one task: every training set beside the real runs, where there are any.

    Gained strength needs theta alone. The row `all` is the mean of the synthetic sets.
    """
    real = probes.reference
    if real is None:
        return pd.DataFrame()
    kinds = {"all": probes.strengths(), "gained": probes.gained_strengths()}
    kinds = {heads: own for heads, own in kinds.items() if own is not None}
    samples, rows = _resampled(probes, real, list(kinds), n_resamples, seed), []
    for heads, own in kinds.items():
        pairs = dict(zip(("recall", "precision"), pair_values(flat(own), flat(own[:, [real]])), strict=True))
        chance, chance_high = chance_within_layers(own, own[:, [real]], n_permutations, seed)
        estimates = {name: seed_means(found) for name, found in pairs.items()}
        estimates["difference"] = _difference(estimates["precision"], real)
        left_out = np.stack([_difference(seed_means(one), real) for one in _seeds_left_out(pairs["precision"])], -1)
        for condition, members in _sets(probes.conditions).items():
            cells = {}
            for name, found in estimates.items():
                drawn, estimate = samples[heads][name][:, members].mean(axis=1), float(found[members].mean())
                cells |= {name if end == "value" else f"{name}_{end}": cell
                          for end, cell in Sampled(estimate, drawn - drawn.mean() + estimate).cells().items()}
            described = pd.DataFrame([beside(own[:, i], own[:, real]) for i in members]).mean()
            left = left_out[members].mean(axis=0)
            rows.append({
                "task": task, "condition": condition, "heads": heads, **cells, "chance": float(chance[members].mean()),
                "chance_high": float(chance_high[members[0]]) if len(members) == 1 else None,
                "ceiling": float(estimates["precision"][real]),
                "left_out_least": float(left.min()), "left_out_most": float(left.max()), **described,
                "n_pairs": int((~np.isnan(pairs["precision"][members])).sum()),
                "n_seeds": int(probes.there[members].sum(axis=1).min()),
                "n": sum(half.shape[2] for half in probes.halves),
            })
    return pd.DataFrame([row | {"finding": _finding(row)} for row in rows])


def _sets(conditions: Sequence[str]) -> dict[str, list[int]]:
    """The places of each training set, and of the synthetic sets together where all are there, which decide nothing."""
    every = {name: [i] for i, name in enumerate(conditions)}
    return every | ({ALL: [every[name][0] for name in SYNTHETIC]} if set(SYNTHETIC) <= set(every) else {})


def _difference(precision: np.ndarray, real: int) -> np.ndarray:
    """By how much precision `[..., conditions]` exceeds the part of the ceiling that it has to reach."""
    return precision - LEAST_PART * precision[..., [real]]


def _seeds_left_out(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs `[..., seeds, seeds]` with each seed left out in turn, as run and as real run."""
    return (np.delete(np.delete(pairs, out, axis=-1), out, axis=-2) for out in range(pairs.shape[-1]))


def _resampled(
    probes: Probed, real: int, kinds: list[str], n_resamples: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """By kind of strength and measure, float64 `[resamples, conditions]`."""
    rng = np.random.default_rng(seed)
    shape = probes.halves[0].shape
    alone = probes.alone or tuple(np.zeros((half.shape[2], *shape[3:]), np.float32) for half in probes.halves)
    # [examples, runs and theta alone, heads] of each half, of those heads only that any of them has
    cubes = [np.concatenate([flat(half).transpose(2, 0, 1, 3).reshape(half.shape[2], -1, shape[3] * shape[4]),
                             flat(own)[:, None]], axis=1) for half, own in zip(probes.halves, alone, strict=True)]
    active = np.any([cube.any(axis=(0, 1)) for cube in cubes], axis=0)
    cubes = [cube[..., active] for cube in cubes]
    found: dict = {heads: {"recall": [], "precision": []} for heads in kinds}
    for size in blocks(n_resamples, BLOCK):
        drawn = np.stack([(draw(rng, len(cube), size) / len(cube)).astype(np.float32) @ cube.reshape(len(cube), -1)
                          for cube in cubes])
        drawn = np.maximum(drawn, 0).reshape(2, size, cubes[0].shape[1], active.sum())  # there may be no such head
        runs = drawn[:, :, :-1].reshape(2, size, *shape[:2], active.sum())
        runs = np.where(probes.there[..., None], runs, np.nan)
        for heads in kinds:
            own = runs if heads == "all" else np.maximum(runs - drawn[:, :, -1][:, :, None, None], 0)
            for name, pairs in zip(("recall", "precision"), pair_values(own, own[:, :, [real]]), strict=True):
                found[heads][name].append(seed_means(pairs))
    for measures in found.values():
        measures |= {name: np.concatenate(parts).astype(np.float64) for name, parts in measures.items()}
        measures["difference"] = _difference(measures["precision"], real)
    return found


def _finding(row: dict) -> str:
    # with one seed there is no real run of another; the mean of the sets is shown and decides nothing
    if row["condition"] in (REFERENCE, ALL) or row["precision"] is None:
        return OPEN
    above = both(lies_above(row, 0.0, "difference_"), row["left_out_least"] > 0, row["precision"] > row["chance_high"])
    below = both(lies_below(row, 0.0, "difference_"), row["left_out_most"] < 0)
    fails = True if row["precision"] <= row["chance"] else below
    return first_that_holds({HOLDS: above, FAILS: fails}, OPEN)


def verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C2 in one task, from the table `strength_agreement`."""
    gained = rows[rows["heads"] == "gained"].set_index("condition") if len(rows) else rows
    names = [name for name in (REFERENCE, *SYNTHETIC) if len(gained) and name in gained.index]
    few = [name for name in (REFERENCE, *SYNTHETIC) if name not in names or gained.loc[name, "n_seeds"] < LEAST_SEEDS]
    why = ""
    if few:
        why = f"Fewer than {LEAST_SEEDS} seeds, or no theta alone to compare with: {'; '.join(map(words, few))}."
    elif pd.isna(gained.loc[REFERENCE, "precision"]):
        why = "No strength is gained in the real runs, so it is not tested."
    if why:
        return undecided(C2, task, why)
    sets = gained.loc[list(SYNTHETIC)]
    everything = rows[(rows["heads"] == "all") & rows["condition"].isin(SYNTHETIC)]
    holds, fails = ((sets["finding"] == name).tolist() for name in (HOLDS, FAILS))
    in_all = (everything["finding"] == HOLDS).tolist()
    ceiling = gained.loc[REFERENCE]
    stable = ceiling["precision"] >= LEAST_CEILING and ceiling["precision"] > ceiling["chance_high"]
    outcome = decide(
        undecided=not stable, supported=at_least(NEEDED, holds), not_supported=at_least(REFUTING, fails),
        in_part=at_least(NEEDED, in_all),
    )
    detail = (f"Of what is gained it holds in {sum(holds)} and fails in {sum(fails)} of {len(sets)} synthetic sets; of "
              f"all strength it holds in {sum(in_all)}. The ceiling is {ceiling['precision']:.2f}, its chance at most "
              f"{ceiling['chance_high']:.2f}" + ("." if stable else ": nothing stable is gained, so it is not tested."))
    return C2(task, outcome, *from_cells(gained.loc[ALL], "precision"), len(sets), detail)
