"""Claims C4 and C5 on the pretrained model: what knocking heads out, and patching them in, does to the loss of answers.

**C4, necessity.** By how much the loss of the gold answer rises in the `real` runs when the strongest heads are knocked
out, against three kinds of random heads, and with the gold document against without it.

**C5, sufficiency.** One pooled share: what patching takes off the loss of the gold answer, over the five synthetic
sets, of what lies between these runs and the real runs of the same seeds. As the sets share the real runs, they are
averaged within a seed first.
"""

from __future__ import annotations

from functools import partial

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
from retrieval_heads.claims.pretrained.sampled import RESAMPLES, at_least, both, lies_above, lies_below, resampled_means
from retrieval_heads.claims.runs import from_cells
from retrieval_heads.claims.verdict import ALL, Verdict, decide, undecided
from retrieval_heads.settings import REFERENCE

Effects = dict[tuple[str, int, str], tuple]
"""By effect, number of heads and control: weights of outcomes, and the outcome that their sum is a share of, if any."""

CONTROLS = ("random_layer", "random_group", "random_zero")
SETS = {STRONGEST: "the strongest heads", "random_layer": "random heads of the same layers",
        "random_group": "random heads of as many groups", "random_zero": "heads of score 0", "all": "all heads"}
"""Sets of heads in words."""

LAYERS = CONTROLS[0]

GAIN, RISE, OVER, OVER_WITHOUT, LOST, LOST_OVER = (
    "gain_from_context", "rise", "rise_over", "rise_over_without", "share_lost", "share_lost_over")

LARGE, LITTLE, NEGLIGIBLE = 0.5, 0.25, 0.1
"""Shares of the gain from context: lost at least, lost by random heads at most, no more than random heads lose."""

C4 = partial(
    Verdict, claim="C4", quantity=f"share of the gain from context of `real` that is lost with {MOST} heads",
    unit="fraction", n_of="runs", chapter=CHAPTER, table="loss_effects", rule=
    "Specific: at k = 3, 7, 14 the loss of the gold answer rises more than with random heads of the same layers, of as "
    "many key/value groups, and of score 0, and more than without the gold document. Supported: specific, more than "
    "half of the gain from context is lost at k = 14, and less than a quarter with random heads of the same layers; in "
    "part: specific; not supported: less than a tenth more than with random heads.",
)

EVERY = "all"
GAP, CLOSED, CLOSED_OVER = "gap", "share_closed", "share_closed_over"
SMALL, NEARLY = 0.1, 0.9

C5 = partial(
    Verdict, claim="C5", unit="fraction", n_of="seeds", chapter=CHAPTER, table="loss_effects",
    quantity=f"share of the gap in loss that {MOST} heads of the real run close, over the synthetic sets", rule=
    f"The share of the gap in loss that {MOST} heads close, over five synthetic sets. Helps: above 0, and above random "
    "heads of the same layers. Supported: it helps, is below 1, and all heads close more; in part: it helps; not "
    f"supported: below {SMALL}, less than {SMALL} above random heads, or above {NEARLY}.",
)


_EFFECTS = {
    GAIN: "the gain from context", RISE: "the rise of the loss without {heads}", OVER: "the rise beyond that without "
    "{heads}", OVER_WITHOUT: "the rise beyond that without the gold document", LOST: "the share lost without {heads}",
    LOST_OVER: "the share lost beyond that without {heads}", GAP: "the gap", CLOSED: "the share closed by {heads}",
    CLOSED_OVER: "the share closed beside that by {heads}",
}


def _not_known(keys: list[tuple[str, int, str]], where: str = "") -> str:
    """What is missing, in words: each effect with the numbers of heads at which it is."""
    sizes: dict[str, list[str]] = {}
    for effect, k, control in keys:
        sizes.setdefault(_EFFECTS[effect].format(heads=SETS.get(control, "")), []).extend([str(k)] * bool(k))
    said = [f"{what} (k = {', '.join(ks)})" if ks else what for what, ks in sizes.items()]
    return f"Not known{where}: {'; '.join(said)}."


def necessity_rows(
    knockout_losses: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The table `loss_effects` of one task, of knock-outs: every training set whose heads were knocked out.

    One row per training set, `effect`, number of heads and `control`: `gain_from_context` (k = 0), `rise` of the loss
    with the set `control` out, `rise_over` a control, `rise_over_without` the gold document, `share_lost` of the gain
    from context, `share_lost_over` the random heads of the same layers.
    """
    values, labels = {}, {}
    for name, part in by_condition(knockout_losses, task).items():
        where = f"table knockout_losses, {task}, {name}"
        columns = _outcomes(*(losses_by_set(part, column, where) for column in ("nll", "nll_without")))
        if columns:
            values[name], labels[name] = np.stack(list(columns.values()), axis=-1), list(columns)
    # sets with the same outcomes and examples as the real runs share the variance of seeds
    alike = {name: one for name, one in values.items() if REFERENCE in values
             and labels[name] == labels[REFERENCE] and one.shape[1:] == values[REFERENCE].shape[1:]}
    if not alike:
        return pd.DataFrame()
    with_seeds = len(alike[REFERENCE]) >= LEAST_SEEDS
    means = resampled_means(alike, with_seeds=with_seeds, n_resamples=n_resamples, seed=seed)
    effects = _effects(labels[REFERENCE])
    return pd.DataFrame([
        {"task": task, "condition": name, "effect": effect, "k": k, "control": control, **means.cells(name, *parts),
         "n": one.shape[1], "n_seeds": len(one), "seeds_counted": with_seeds}
        for name, one in alike.items() for (effect, k, control), parts in effects.items()
    ])


def _outcomes(
    losses: dict[tuple[str, int], np.ndarray], without: dict[tuple[str, int], np.ndarray]
) -> dict[tuple[str, int, str], np.ndarray]:
    """By effect, number of heads and control, `[seeds, examples]`; nothing without the loss of the run as it is."""
    start, alone = losses.get(("none", 0)), without.get(("none", 0))
    if start is None:
        return {}
    found = {} if alone is None else {(GAIN, 0, "none"): alone - start}
    for k in sorted({k for _, k in losses if k}):
        for name in (STRONGEST, *CONTROLS):
            if (name, k) in losses:
                found[RISE, k, name] = losses[name, k] - start
        if (STRONGEST, k) not in losses:
            continue
        for name in CONTROLS:
            if (name, k) in losses:
                found[OVER, k, name] = losses[STRONGEST, k] - losses[name, k]
        if alone is not None and (STRONGEST, k) in without:
            own = without[STRONGEST, k] - alone
            found[OVER_WITHOUT, k, "without"] = found[RISE, k, STRONGEST] - own
            if (LAYERS, k) in without and (LAYERS, k) in losses:
                found[OVER_WITHOUT, k, LAYERS] = found[RISE, k, LAYERS] - (without[LAYERS, k] - alone)
    return found


def _effects(labels: list[tuple[str, int, str]]) -> Effects:
    """Every outcome, and the shares of the gain from context: the weights of outcomes, and what they are a share of.

    The gain that is lost is how much more the loss rises with the gold document than without it.
    """
    places = {label: place for place, label in enumerate(labels)}
    found: Effects = {label: ({place: 1.0},) for label, place in places.items()}
    gain = places.get((GAIN, 0, "none"))
    for effect, k, control in labels if gain is not None else ():
        if effect == OVER_WITHOUT and control == "without":
            own, of_random = places[effect, k, control], places.get((OVER_WITHOUT, k, LAYERS))
            found[LOST, k, STRONGEST] = {own: 1.0}, gain
            if of_random is not None:
                found |= {(LOST, k, LAYERS): ({of_random: 1.0}, gain),
                          (LOST_OVER, k, LAYERS): ({own: 1.0, of_random: -1.0}, gain)}
    return found


def necessity_verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C4 in one task, from the rows of `necessity_rows`."""
    real = rows[rows["condition"] == REFERENCE].set_index(["effect", "k", "control"]) if len(rows) else rows
    wanted = [(GAIN, 0, "none"), (LOST, MOST, STRONGEST), (LOST, MOST, LAYERS), (LOST_OVER, MOST, LAYERS)]
    wanted += [(OVER, k, control) for k in COUNTS for control in CONTROLS]
    wanted += [(OVER_WITHOUT, k, "without") for k in COUNTS]
    absent = [key for key in wanted if not len(real) or key not in real.index]
    if absent or not real["seeds_counted"].all():
        why = _not_known(absent) if absent else (
            f"Fewer than {LEAST_SEEDS} seeds of `real`: intervals are over examples only.")
        return undecided(C4, task, why)
    lost, random = (real.loc[(LOST, MOST, control)] for control in (STRONGEST, LAYERS))
    beyond = [lies_above(real.loc[key], 0.0) for key in wanted if key[0] in (OVER, OVER_WITHOUT)]
    specific = both(*beyond)
    to_lose = lies_above(real.loc[(GAIN, 0, "none")], 0.0)
    outcome = decide(
        undecided=not to_lose, supported=both(specific, lies_above(lost, LARGE), lies_below(random, LITTLE)),
        in_part=specific, not_supported=lies_below(real.loc[(LOST_OVER, MOST, LAYERS)], NEGLIGIBLE),
    )
    detail = (f"{sum(one is True for one in beyond)} of {len(beyond)} comparisons lie above 0. Random heads of the "
              f"same layers lose {random['value']:.3f} of the gain from context, which is "
              f"{real.loc[(GAIN, 0, 'none'), 'value']:.3f} nats a token"
              + ("." if to_lose else ": it is not shown to be above 0, so the claim is not tested."))
    return C4(task, outcome, *from_cells(lost), int(lost["n_seeds"]), detail)


def patching_rows(
    patching_losses: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The table `loss_effects` of one task, of patching: each synthetic set, and all of them pooled (`all`).

    One row per training set, `effect`, number of heads and `control`: `gap` to the real run (k = 0), `share_closed` of
    it by the set `control`, `share_closed_over` random heads (the strongest less these), or by which all heads close
    more (control `all`).
    """
    values, kinds = {}, {}
    for name, part in by_condition(patching_losses, task).items():
        losses = losses_by_set(part, "nll", f"table patching_losses, {task}, {name}")
        if ("none", 0) in losses and ("source", 0) in losses:
            start = losses["none", 0]
            values[name] = {(GAP, 0): start - losses["source", 0]}
            values[name] |= {key: start - one for key, one in losses.items() if key[0] not in ("none", "source")}
            kinds[name] = frozenset(part["seed"]), start.shape
    if set(SYNTHETIC) <= set(values) and len({kinds[name] for name in SYNTHETIC}) == 1:
        common = sorted(set.intersection(*(set(values[name]) for name in SYNTHETIC)), key=str)
        values[ALL] = {key: np.mean([values[name][key] for name in SYNTHETIC], axis=0) for key in common}
    rows = []
    for name, one in values.items():
        array = np.stack(list(one.values()), axis=-1)
        with_seeds = len(array) >= LEAST_SEEDS
        means = resampled_means({name: array}, with_seeds=with_seeds, n_resamples=n_resamples, seed=seed)
        rows += [
            {"task": task, "condition": name, "effect": effect, "k": k, "control": control,
             **means.cells(name, *parts), "n": array.shape[1], "n_seeds": len(array), "seeds_counted": with_seeds}
            for (effect, k, control), parts in _shares(list(one)).items()
        ]
    return pd.DataFrame(rows)


def _shares(keys: list[tuple[str, int]]) -> Effects:
    """The gap, the share of it that each set closes, and by how much more the strongest and all heads do."""
    gap, every = keys.index((GAP, 0)), next((keys.index(key) for key in keys if key[0] == EVERY), None)
    effects: Effects = {(GAP, 0, "none"): ({gap: 1.0},)}
    for place, (name, k) in enumerate(keys):
        if place == gap:
            continue
        effects[CLOSED, k, name] = {place: 1.0}, gap
        if name == STRONGEST and (LAYERS, k) in keys:
            effects[CLOSED_OVER, k, LAYERS] = {place: 1.0, keys.index((LAYERS, k)): -1.0}, gap
        if name == STRONGEST and every is not None:
            effects[CLOSED_OVER, k, EVERY] = {every: 1.0, place: -1.0}, gap
    return effects


def patching_verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C5 in one task, from the rows of `patching_rows`."""
    pooled = rows[rows["condition"] == ALL].set_index(["effect", "k", "control"]) if len(rows) else rows
    wanted = [(GAP, 0, "none"), (CLOSED, MOST, STRONGEST), (CLOSED_OVER, MOST, LAYERS), (CLOSED_OVER, MOST, EVERY)]
    absent = [key for key in wanted if not len(pooled) or key not in pooled.index]
    if absent or not pooled["seeds_counted"].all():
        why = _not_known(absent, " for all five sets") if absent else (
            f"Fewer than {LEAST_SEEDS} seeds: intervals are over examples only.")
        return undecided(C5, task, why, n_of="sets")
    gap, closed, over, left = (pooled.loc[key] for key in wanted)
    there = lies_above(gap, 0.0)
    helps = both(lies_above(closed, 0.0), lies_above(over, 0.0))
    is_open = both(lies_below(closed, 1.0), lies_above(left, 0.0))
    against = [lies_below(closed, SMALL), lies_below(over, SMALL), lies_above(closed, NEARLY)]
    outcome = decide(undecided=not there, not_supported=at_least(1, against), supported=both(helps, is_open),
                     in_part=helps)
    shown = "; ".join(f"{k} heads close {pooled.loc[(CLOSED, k, STRONGEST), 'value']:.3f}" for k in COUNTS
                      if (CLOSED, k, STRONGEST) in pooled.index)
    detail = (f"The gap is {gap['value']:.3f} nats a token" + (
        "" if there else ", not shown to be above 0, so the claim is not tested") + f". {shown}. Random heads of the "
        f"same layers close {over['value']:.3f} less, all heads {left['value']:.3f} more.")
    return C5(task, outcome, *from_cells(closed), int(closed["n_seeds"]), detail)
