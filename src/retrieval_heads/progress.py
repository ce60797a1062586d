"""Progress bars that show on a terminal and leave no trace in a log or a rendered page."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap `items` in a bar on standard error when that is a terminal; hand them on unchanged otherwise."""
    return tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)
