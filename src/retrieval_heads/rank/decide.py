"""Which of two candidate sets is the better one, said only where a further seed could not turn it.

Short fine-tunes on one set differ by their seed, often by more than two sets differ, and a few steps teach style before
they teach the task. So a difference of probe losses counts when it is larger than what one further fine-tuning of each
set would differ by, holds over the probe examples, is more than a small part of what training moved, does not rest on
needles at one place, and does not favour a set that can be solved by reading one place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from retrieval_heads.stats.resample import bootstrap_crossed, crossed_means

SURE = 0.95
"""Below this probability that the better of two sets is the better one, they are not told apart."""

HARDLY = 0.1
"""A difference that is less than this share of what training moved may turn with longer training."""


@dataclass(frozen=True)
class Comparison:
    """Two sets, the one of the lower mean probe loss first."""

    first: str
    second: str
    difference: float  # loss of the second less that of the first, nats per token
    low: float  # and `high`: its 95% interval over probe examples and seeds
    high: float
    probability: float  # share of those samples in which the first is better
    swap: float  # difference up to which one further fine-tuning of each may turn it, see `further_seed`
    against: tuple[str, ...]  # why the two are not told apart; empty where they are

    @property
    def told_apart(self) -> bool:
        return not self.against

    def text(self) -> str:
        """The finding as a sentence."""
        if self.told_apart:
            return (f"{self.first} is better than {self.second} by probe loss: by {self.difference:.3f} nats per token "
                    f"({self.low:.3f} to {self.high:.3f}); a further seed could turn {self.swap:.3f}")
        return f"{self.first} and {self.second} cannot be told apart: {'; '.join(self.against)}"


def compared(
    losses: Mapping[str, np.ndarray], untuned: np.ndarray, places: Sequence[str] = (),
    flaws: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Each two sets, those of low loss first.

    Args:
        losses: by set, probe losses `[n_seeds, n_examples]`, nats per token.
        untuned: those of the model without fine-tuning, `[n_examples]`.
        places: where the needle of each probe example stands; empty without needles.
        flaws: by set, why its examples can be solved by reading one place; empty or absent for the others.
    """
    by_loss = sorted(losses, key=lambda name: float(losses[name].mean()))
    return [_compared(first, second, losses, untuned, places, (flaws or {}).get(first, ""))
            for first, second in itertools.combinations(by_loss, 2)]


def _compared(
    first: str, second: str, losses: Mapping[str, np.ndarray], untuned: np.ndarray, places: Sequence[str], flaw: str,
) -> Comparison:
    better, each = losses[first], losses[second] - losses[first]
    found, samples = bootstrap_crossed(each), crossed_means(each)
    difference, moved = found.estimate, float(untuned.mean() - better.mean())
    probability = 0.5 if samples is None else float((samples > 0).mean() + (samples == 0).mean() / 2)
    swap = further_seed(better.mean(axis=1), losses[second].mean(axis=1))
    place = _single_place(each.mean(axis=0), places)
    reasons = (
        (flaw, f"{first} is ahead by {difference:.3f}, but {flaw}"),
        (math.isnan(swap), "one seed shows no spread (--seeds 0 1 2)"),
        (difference <= swap, f"they differ by {difference:.3f} nats per token, and another seed of each could turn "
                             f"{swap:.3f}"),
        (probability < SURE, f"over probe examples and seeds the probability that {first} is better is "
                             f"{probability:.3f}, below {SURE:g}"),
        (difference < HARDLY * moved or moved <= 0, f"the difference, {difference:.3f}, is small beside what training "
                                                    f"moved ({moved:.3f}), so that longer training may turn it"),
        (place, f"{first} is ahead only where the needle stands in {place}"),
    )
    return Comparison(first, second, difference, found.low, found.high, probability, swap,
                      tuple(text for holds, text in reasons if holds))


def further_seed(first: np.ndarray, second: np.ndarray) -> float:
    """The difference that one further fine-tuning of each set may turn: half a 95% prediction interval, nats per token.

    Student's t with Welch's degrees of freedom, for the difference of one new run of each set, whose means over
    `[n_seeds]` runs are known; NaN where a set has one run.
    """
    parts = [(np.var(one, ddof=1), len(one)) for one in (first, second) if len(one) > 1]
    if len(parts) < 2:
        return math.nan
    variance = sum(value * (1 + 1 / n) for value, n in parts)
    if not variance:
        return 0.0
    freedom = variance**2 / sum((value * (1 + 1 / n)) ** 2 / (n - 1) for value, n in parts)
    return float(t.ppf(0.975, freedom) * math.sqrt(variance))


def _single_place(difference: np.ndarray, places: Sequence[str]) -> str:
    """The place without whose examples the first set is not ahead any more; empty without one."""
    at = np.array(places)
    for name in sorted(set(places) - {""}):
        rest = (at != name) & (at != "")
        if rest.any() and difference[rest].mean() <= 0:
            return name
    return ""
