"""Numbers of the summary in words: a value with its interval, where that has any width."""

from __future__ import annotations

import pandas as pd

NO_WIDTH = 1e-9
"""An interval this narrow has none but that of rounding."""


def plain(row: pd.Series) -> str:
    return with_ends(row, ".2f")


def signed(row: pd.Series) -> str:
    return with_ends(row, "+.2f")


def share(row: pd.Series) -> str:
    return with_ends(row, ".0%", "in all samples")


def with_ends(row: pd.Series, form: str, same: str = "the same on all examples") -> str:
    """`0.50 (0.40 to 0.60)`; the interval is left out where it is not known, and in words where it has no width."""
    value, width = f"{row['value']:{form}}", row["high"] - row["low"]
    if width != width:
        return value
    return f"{value} ({same})" if width < NO_WIDTH else \
        f"{value} ({row['low']:{form}} to {row['high']:{form}})"
