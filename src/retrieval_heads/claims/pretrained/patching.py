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
    share,
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
    values, labels = {}, {}
    for name, part in by_condition(patching_losses, task, "patching_losses").items():
        losses = losses_by_set(part, "nll", f"table patching_losses, {task}, {name}")
        if ("none", 0) in losses and ("source", 0) in losses:
            start = losses["none", 0]
            found = {(GAP, 0): start - losses["source", 0]}
            found |= {key: start - one for key, one in losses.items() if key[0] not in ("none", "source")}
            values[name], labels[name] = found, set(found)
    rows = []
    for name, one in values.items():
        rows += _rows(one, {"task": task, "condition": name}, _seeds(patching_losses, task, [name]), n_resamples, seed)
    if all(name in values for name in SYNTHETIC):
        common = sorted(set.intersection(*(labels[name] for name in SYNTHETIC)), key=str)
        shapes = {values[name][GAP, 0].shape for name in SYNTHETIC}
        seeds = _seeds(patching_losses, task, SYNTHETIC)
        if len(shapes) == 1 and len(seeds) == next(iter(shapes))[0]:
            pooled = {key: np.mean([values[name][key] for name in SYNTHETIC], axis=0) for key in common}
            rows += _rows(pooled, {"task": task, "condition": ALL}, seeds, n_resamples, seed)
    return pd.DataFrame(rows)


def _seeds(table: pd.DataFrame, task: str, names: tuple[str, ...] | list[str]) -> list[int]:
    """The seeds that all of these sets have."""
    part = table[table["task"] == task]
    return sorted(set.intersection(*(set(part.loc[part["condition"] == name, "seed"]) for name in names)))


def _rows(values: dict, about: dict, seeds: list[int], n_resamples: int, seed: int) -> list[dict]:
    keys = list(values)
    array = np.stack([values[key] for key in keys], axis=-1)
    with_seeds = len(seeds) >= LEAST_SEEDS
    means = resampled_means({"one": array}, with_seeds=with_seeds, n_resamples=n_resamples, seed=seed)
    counts = {"n": array.shape[1], "n_seeds": len(seeds), "seeds_counted": with_seeds}
    gap, rows = keys.index((GAP, 0)), []

    def add(effect: str, k: int, control: str, parts: dict[int, float]) -> None:
        found = means.of(lambda one: share(
            sum(sign * one["one"][..., place] for place, sign in parts.items()), one["one"][..., gap]))
        rows.append(about | {"effect": effect, "k": k, "control": control} | found.cells() | counts)

    rows.append(about | {"effect": GAP, "k": 0, "control": "none"}
                | means.of(lambda one: one["one"][..., gap]).cells() | counts)
    every = next((keys.index(key) for key in keys if key[0] == EVERY), None)
    for place, (name, k) in enumerate(keys):
        if place == gap:
            continue
        add(CLOSED, k, name, {place: 1.0})
        if name == STRONGEST and (RANDOM, k) in keys:
            add(CLOSED_OVER, k, RANDOM, {place: 1.0, keys.index((RANDOM, k)): -1.0})
        if name == STRONGEST and every is not None:
            add(CLOSED_OVER, k, EVERY, {every: 1.0, place: -1.0})
    return rows


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
