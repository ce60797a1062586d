"""Figures of the study: functions from tidy tables (`tables.yaml`) to matplotlib axes; no result is computed here.

`style.py` and `common.py` hold what all figures share; of the other files the first line says whose chapter's figures
they are. The names below are those of `tidy.py`, for tables of one's own. They and the modules, as `figures.heads`, are
imported when first used, as matplotlib is not always installed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["head_map", "head_overlap", "knockout_curve", "patching_bars", "recall_against_performance"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.tidy"), name)
    if find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return __all__
