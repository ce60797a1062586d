"""Claim C4 on the pretrained model: are retrieval heads necessary?

By how much the loss of the gold answer rises in the `real` runs when the strongest heads are knocked out, against three
kinds of random heads, and with the gold document against without it.
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
    by_condition,
    losses_by_set,
)
from retrieval_heads.claims.pretrained.sampled import (
    RESAMPLES,
    Truth,
    both,
    first_that_holds,
    lies_above,
    lies_below,
    resampled_means,
)
from retrieval_heads.claims.runs import from_cells
from retrieval_heads.claims.verdict import IN_PART, NOT, SUPPORTED, UNDECIDED, Verdict
from retrieval_heads.settings import REFERENCE

CONTROLS = ("random_layer", "random_group", "random_zero")
LAYERS = CONTROLS[0]

GAIN, RISE, OVER, OVER_WITHOUT, LOST, LOST_OVER = (
    "gain_from_context", "rise", "rise_over", "rise_over_without", "share_lost", "share_lost_over")

LARGE, SMALL, NEGLIGIBLE = 0.5, 0.25, 0.1
"""Shares of the gain from context: lost at least, lost by random heads at most, no more than random heads lose."""

RULE = (
    "Specific: at k = 3, 7, 14 the loss of the gold answer rises more than with random heads of the same layers, of as "
    "many key/value groups, and of score 0, and more than without the gold document. Supported: specific, more than "
    "half of the gain from context is lost at k = 14, and less than a quarter with random heads of the same layers; in "
    "part: specific; not supported: less than a tenth more than with random heads."
)


def necessity_rows(
    knockout_losses: pd.DataFrame, task: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The table `loss_effects` of one task, of knock-outs: every training set whose heads were knocked out.

    One row per training set, `effect`, number of heads and `control`: `gain_from_context` (k = 0), `rise` of the loss
    with the set `control` out, `rise_over` a control, `rise_over_without` the gold document, `share_lost` of the gain
    from context, `share_lost_over` the random heads of the same layers.
    """
    values, labels = {}, {}
    for name, part in by_condition(knockout_losses, task, "knockout_losses").items():
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
    effects, rows = _effects(labels[REFERENCE]), []
    for name, one in alike.items():
        counts = {"n": one.shape[1], "n_seeds": len(one), "seeds_counted": with_seeds}
        rows += [{"task": task, "condition": name, "effect": effect, "k": k, "control": control}
                 | means.cells(name, *parts) | counts for (effect, k, control), parts in effects.items()]
    return pd.DataFrame(rows)


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


def _effects(labels: list[tuple[str, int, str]]) -> dict[tuple[str, int, str], tuple]:
    """Every outcome, and the shares of the gain from context: the weights of outcomes, and what they are a share of.

    The gain that is lost is how much more the loss rises with the gold document than without it.
    """
    places = {label: place for place, label in enumerate(labels)}
    found: dict[tuple[str, int, str], tuple] = {label: ({place: 1.0},) for label, place in places.items()}
    gain = places.get((GAIN, 0, "none"))
    for effect, k, control in labels if gain is not None else ():
        if effect == OVER_WITHOUT and control == "without":
            own, of_random = places[effect, k, control], places.get((OVER_WITHOUT, k, LAYERS))
            found[LOST, k, STRONGEST] = {own: 1.0}, gain
            if of_random is not None:
                found |= {(LOST, k, LAYERS): ({of_random: 1.0}, gain),
                          (LOST_OVER, k, LAYERS): ({own: 1.0, of_random: -1.0}, gain)}
    return found


def verdict(rows: pd.DataFrame, task: str) -> Verdict:
    """Claim C4 in one task, from the rows of `necessity_rows`."""
    quantity = f"share of the gain from context of `real` that is lost with {MOST} heads"
    real = rows[rows["condition"] == REFERENCE].set_index(["effect", "k", "control"]) if len(rows) else rows
    wanted = [(GAIN, 0, "none"), (LOST, MOST, STRONGEST), (LOST, MOST, LAYERS), (LOST_OVER, MOST, LAYERS)]
    wanted += [(OVER, k, control) for k in COUNTS for control in CONTROLS]
    wanted += [(OVER_WITHOUT, k, "without") for k in COUNTS]
    absent = [key for key in wanted if not len(real) or key not in real.index]
    if absent or not real["seeds_counted"].all():
        why = (f"Not known: {', '.join(f'{effect} at k = {k} ({control})' for effect, k, control in absent)}." if absent
               else f"Fewer than {LEAST_SEEDS} seeds of `real`: intervals are over examples only.")
        return Verdict("C4", task, UNDECIDED, quantity, None, None, None, "fraction", 0, "runs", RULE, why, CHAPTER,
                       "loss_effects")
    lost, random = (real.loc[(LOST, MOST, control)] for control in (STRONGEST, LAYERS))
    beyond = [lies_above(real.loc[key], 0.0) for key in wanted if key[0] in (OVER, OVER_WITHOUT)]
    specific: Truth = both(*beyond)
    to_lose = lies_above(real.loc[(GAIN, 0, "none")], 0.0)
    outcome = first_that_holds([
        (SUPPORTED, both(specific, lies_above(lost, LARGE), lies_below(random, SMALL))), (IN_PART, specific),
        (NOT, lies_below(real.loc[(LOST_OVER, MOST, LAYERS)], NEGLIGIBLE)),
    ], UNDECIDED) if to_lose else UNDECIDED
    detail = (f"{sum(one is True for one in beyond)} of {len(beyond)} comparisons lie above 0. Random heads of the "
              f"same layers lose {random['value']:.3f} of the gain from context, which is "
              f"{real.loc[(GAIN, 0, 'none'), 'value']:.3f} nats a token"
              + ("." if to_lose else ": it is not shown to be above 0, so the claim is not tested."))
    return Verdict("C4", task, outcome, quantity, *from_cells(lost), "fraction", int(lost["n_seeds"]), "runs", RULE,
                   detail, CHAPTER, "loss_effects")
