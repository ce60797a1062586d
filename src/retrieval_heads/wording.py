"""Words and numbers of sentences, in tables and on pages: names of quantities, p-values, lists, minus signs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval_heads.data.conditions import CONDITIONS, LEVELS

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "exact_match": "exact match", "f1": "token F1", "best_subspan_em": "best-subspan match",
    "citation_precision": "citation precision", "citation_recall": "citation recall", "citation_f1": "citation F1",
    "forced_exact_match": "exact match, teacher forced",
}
"""Metrics in words."""

PREDICTORS = {
    "recall": "recall of heads", "recall_few": "recall, 20 probe examples", "precision": "precision of heads",
    "cosine": "cosine of scores", "cosine_few": "cosine, 20 probe examples", "mean_strength": "mean strength of heads",
    "n_heads": "number of heads", "mass_cosine": "cosine of attention mass",
    "query_mass_cosine": "cosine of question mass (QRHead)", "contribution_cosine": "cosine of contributions (LOCOS)",
    "score_top": "top heads by copy score", "mass_top": "top heads by attention mass",
    "query_mass_top": "top heads by question mass (QRHead)",
    "contribution_top": "top heads by contribution (LOCOS)", "base_overlap": "overlap with the base model",
    "training_loss": "training loss", "probe_loss": "loss on the probe examples",
    "ngram_overlap": "word pairs in common",
}
"""Predictors of performance in words."""

_CONDITIONS = {
    "base": "untrained", "rope": "untrained, theta raised", "real_limited": "real, few relations",
    "real_short": "real, short texts", "real_shuffled": "real, wrong answers",
}
_LEVELS = {name: f"{name.partition('_')[0]} needles, {name.partition('_')[2]} haystack"
           for name, one in CONDITIONS.items() if one.concept in LEVELS and not one.members}

_MINUS = re.compile(r"(?<![\w.)\]`'\"/=-])-(?=\.?\d)")
_SIGNED_NOUGHT = re.compile(r"−(0(?:\.0+)?)(?![\d.]*\d)")


def words(condition: str) -> str:
    """A condition in words, for a label: `mid needles, low haystack`; an unknown one as it is called."""
    known = CONDITIONS.get(condition)
    if condition in _CONDITIONS or condition in _LEVELS:
        return _CONDITIONS.get(condition) or _LEVELS[condition]
    if known is not None and known.sized:
        return f"{words(known.members[0])}, {known.scale:g} x examples"
    if known is not None and len(known.members) > 1:
        return " + ".join(map(words_short, known.members))
    return condition


def words_short(condition: str) -> str:
    """The same where there is little room: `mid / low`, of needle and haystack."""
    return " / ".join(condition.split("_")) if condition in _LEVELS else words(condition)


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`: three digits everywhere, and a p-value is never nought."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shares_of(values: pd.Series) -> str:
    """Fractions by their names: `98% of mdqa and 34% of musique`."""
    return listed([f"{value:.0%} of {name}" for name, value in values.items()])


def span(values: pd.Series, form: str = ".0f") -> str:
    """The least and the greatest of some numbers, `20 to 24`; one of them where both look the same."""
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def plural(number: object, name: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number} {name}" if str(number) == "1" else f"{number} {name}s"


def with_minus(text: str) -> str:
    """Text for readers: a minus sign before a number where the text has a hyphen, and no sign before a nought.

    Files keep the hyphen, by which programs read numbers.
    """
    return _SIGNED_NOUGHT.sub(r"\1", _MINUS.sub("−", text))
