"""Synthetic context extension through retrieval heads: load a model, score its heads, knock them out, patch them.

The names below are imported when first used, so that `import retrieval_heads` and the command line start without torch.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# a library asks for widgets as soon as it is imported in a notebook; there are no bars in a page to show by them
warnings.filterwarnings("ignore", message="IProgress not found")

_HOMES = {
    "ablate_heads": "heads.ablate",
    "answer_losses": "evaluation",
    "evaluate": "evaluation",
    "forced_exact": "evaluation",
    "load_model": "models.load",
    "patch_heads": "heads.patch",
    "random_heads": "heads.select",
    "retrieval_scores": "heads.scores",
    "select_heads": "heads.select",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("retrieval-heads")
        except PackageNotFoundError:  # run from its sources
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
