"""Claim C5 on the pretrained model: do the real run's heads help when patched in, and do they leave a gap?

One pooled share: what patching takes off the loss of the gold answer, over the five synthetic sets, of what lies
between these runs and the real runs of the same seeds. As the sets share the real runs, they are averaged within a
seed first.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.pretrained.loading import (
    CHAPTER,
    COUNTS,
    LEAST_SEEDS,
    MOST,
    STRONGEST,
    SYNTHETIC,
    by_condition,
    losses_by_set,
)
from retrieval_heads.claims.pretrained.sampled import (
    RESAMPLES,
    at_least,
    both,
    first_that_holds,
    lies_above,
    lies_below,
    resampled_means,
)
from retrieval_heads.claims.runs import from_cells
from retrieval_heads.claims.verdict import ALL, IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict

RANDOM, EVERY = "random_layer", "all"
GAP, CLOSED, CLOSED_OVER = "gap", "share_closed", "share_closed_over"
SMALL, NEARLY = 0.1, 0.9

RULE = (
    f"The share of the gap in loss that {MOST} heads close, over five synthetic sets. Helps: above 0, and above random "
    "heads of the same layers. Supported: it helps, is below 1, and all heads close more; in part: it helps; not "
    f"supported: below {SMALL}, less than {SMALL} above random heads, or above {NEARLY}."
)


def patching_rows(
    patching_losses: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The table `loss_effects` of one task, of patching: each synthetic set, and all of them pooled (`all`).

    One row per training set, `effect`, number of heads and `control`: `gap` to the real run (k = 0), `share_closed` of
    it by the set `control`, `share_closed_over` random heads (the strongest less these), or by which all heads close
    more (control `all`).
    """
    values, kinds = {}, {}
    for name, part in by_condition(patching_losses, task, "patching_losses").items():
        losses = losses_by_set(part, "nll", f"table patching_losses, {task}, {name}")
        if ("none", 0) in losses and ("source", 0) in losses:
            start = losses["none", 0]
            values[name] = {(GAP, 0): start - losses["source", 0]}
            values[name] |= {key: start - one for key, one in losses.items() if key[0] not in ("none", "source")}
            kinds[name] = frozenset(part["seed"]), start.shape
    if set(SYNTHETIC) <= set(values) and len({kinds[name] for name in SYNTHETIC}) == 1:
        common = sorted(set.intersection(*(set(values[name]) for name in SYNTHETIC)), key=str)
        values[ALL] = {key: np.mean([values[name][key] for name in SYNTHETIC], axis=0) for key in common}
    return pd.DataFrame([row for name, one in values.items()
                         for row in _rows(one, {"task": task, "condition": name}, n_resamples, seed)])


def _rows(values: dict, about: dict, n_resamples: int, seed: int) -> list[dict]:
    keys = list(values)
    array = np.stack([values[key] for key in keys], axis=-1)
    with_seeds = len(array) >= LEAST_SEEDS
    means = resampled_means({"one": array}, with_seeds=with_seeds, n_resamples=n_resamples, seed=seed)
    counts = {"n": array.shape[1], "n_seeds": len(array), "seeds_counted": with_seeds}
    gap, every = keys.index((GAP, 0)), next((keys.index(key) for key in keys if key[0] == EVERY), None)
    effects: dict[tuple[str, int, str], tuple] = {(GAP, 0, "none"): ({gap: 1.0},)}
    for place, (name, k) in enumerate(keys):
        if place == gap:
            continue
        effects[CLOSED, k, name] = {place: 1.0}, gap
        if name == STRONGEST and (RANDOM, k) in keys:
            effects[CLOSED_OVER, k, RANDOM] = {place: 1.0, keys.index((RANDOM, k)): -1.0}, gap
        if name == STRONGEST and every is not None:
            effects[CLOSED_OVER, k, EVERY] = {every: 1.0, place: -1.0}, gap
    return [about | {"effect": effect, "k": k, "control": control} | means.cells("one", *parts) | counts
            for (effect, k, control), parts in effects.items()]


def verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C5 in one task, from the rows of `patching_rows`."""
    quantity = f"share of the gap in loss that {MOST} heads of the real run close, over the synthetic sets"
    pooled = rows[rows["condition"] == ALL].set_index(["effect", "k", "control"]) if len(rows) else rows
    wanted = [(GAP, 0, "none"), (CLOSED, MOST, STRONGEST), (CLOSED_OVER, MOST, RANDOM), (CLOSED_OVER, MOST, EVERY)]
    absent = [key for key in wanted if not len(pooled) or key not in pooled.index]
    if absent or not pooled["seeds_counted"].all():
        why = (f"Not known for all five sets: {', '.join(f'{effect} ({control})' for effect, _, control in absent)}."
               if absent else f"Fewer than {LEAST_SEEDS} seeds: intervals are over examples only.")
        return Verdict("C5", task, UNDECIDED, quantity, None, None, None, "fraction", 0, "sets", RULE, why, CHAPTER,
                       "loss_effects")
    gap, closed, over, left = (pooled.loc[key] for key in wanted)
    there = lies_above(gap, 0.0)
    helps = both(lies_above(closed, 0.0), lies_above(over, 0.0))
    is_open = both(lies_below(closed, 1.0), lies_above(left, 0.0))
    against = [lies_below(closed, SMALL), lies_below(over, SMALL), lies_above(closed, NEARLY)]
    outcome = first_that_holds([
        (NOT, at_least(1, against)), (SUPPORTED, both(helps, is_open)), (IN_PART, helps),
    ], UNDECIDED) if there else UNDECIDED
    shown = "; ".join(f"{k} heads close {pooled.loc[(CLOSED, k, STRONGEST), 'value']:.3f}" for k in COUNTS
                      if (CLOSED, k, STRONGEST) in pooled.index)
    detail = (f"The gap is {gap['value']:.3f} nats a token" + (
        "" if there else ", not shown to be above 0, so the claim is not tested") + f". {shown}. Random heads of the "
        f"same layers close {over['value']:.3f} less, all heads {left['value']:.3f} more.")
    return Verdict("C5", task, outcome, quantity, *from_cells(closed), "fraction", int(closed["n_seeds"]), "seeds",
                   RULE, detail, CHAPTER, "loss_effects")
