"""Figures of the study: functions from tidy tables (`tables.yaml`) to matplotlib axes; no result is computed here.

Every function takes an axis or makes one, and returns it. `style.py` holds what all figures share. The names below are
those of `tidy.py`, for tables of one's own; they are imported when first used, as matplotlib is not always installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["head_map", "head_overlap", "knockout_curve", "patching_bars", "recall_against_performance"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.tidy"), name)


def __dir__() -> list[str]:
    return __all__
