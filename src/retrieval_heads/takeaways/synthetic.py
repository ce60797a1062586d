"""What the pretrained study says of synthetic data beside real data: of answers, and of what heads gain."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.pretrained.shortfall import BETTER, EQUIVALENT, MARGIN, OPEN, SHORT
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.wording import listed

Tables = Mapping[str, pd.DataFrame]
NOT_YET = "not there yet"
KINDS = {"high_high": "LLM-written needles in real documents", "low_high": "template needles in real documents",
         "high_low": "LLM-written needles in repeated filler", "low_low": "template needles in repeated filler",
         "symbolic": "symbolic data"}
"""The synthetic sets in plain words."""


def short_of_real(tables: Tables) -> str:
    """After which of the named sets a shortfall is shown, and after which not, in plain words and without numbers."""
    rows = named_contrasts(tables)
    if rows.empty:
        return f"Whether synthetic data fall short of real data is {NOT_YET}."
    of_real = "models trained on real data"
    told = {SHORT: f"Models trained on {{sets}} are shown to answer worse than {of_real}.",
            BETTER: f"Models trained on {{sets}} are shown to answer better than {of_real}.",
            EQUIVALENT: f"Models trained on {{sets}} are shown to differ by less than {MARGIN:g} of F1 from {of_real}.",
            OPEN: f"For {{sets}} it is open: neither a shortfall nor a difference below {MARGIN:g} of F1 is shown."}
    sets = {finding: listed([KINDS[name] for name in part.condition]) for finding, part in rows.groupby("finding")}
    return " ".join(text.format(sets=sets[finding]) for finding, text in told.items() if finding in sets)


def named_contrasts(tables: Tables) -> pd.DataFrame:
    """The rows of the contrasts that decide C1, those with a finding."""
    rows = tables.get("contrasts", pd.DataFrame(columns=["outcome", "finding"]))
    return rows[(rows.outcome == "f1") & rows.finding.notna()]


def overlap(tables: Tables) -> str:
    """How much of what synthetic runs gain real runs gain, too, and how much of what these gain is found there."""
    rows = tables.get("strength_agreement", pd.DataFrame(columns=["condition", "heads", "precision"]))
    rows = rows[(rows.condition == ALL) & (rows.heads == "gained") & rows.precision.notna()]
    if rows.empty:
        return f"Which heads synthetic runs gain is {NOT_YET}."
    row = rows.iloc[0]
    within, covered = (with_ends(row.rename({f"{name}_low": "low", f"{name}_high": "high", name: "value"}))
                       for name in ("precision", "recall"))
    return (f"Of the strength that heads gain by synthetic training, {within} is gained by real training, too "
            f"({row.ceiling:.0%} between real runs, {row.chance:.0%} with heads permuted within layers). Of what they "
            f"gain by real training, {covered} is gained by synthetic training. The less a run "
            "gains, the more easily the first share is high.")


def with_ends(row: pd.Series) -> str:
    """A share in per cent with the ends of its interval, where it has one."""
    ends = "" if pd.isna(row.low) or pd.isna(row.high) else f" [{row.low:.0%}, {row.high:.0%}]"
    return f"{row.value:.0%}{ends}"
