"""What a function draws, for the tests of figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def drawn(function: Callable[..., Any], *args: Any, **options: Any) -> Axes:
    """The axis of a new figure, after the function has drawn on it."""
    ax = plt.subplots()[1]
    function(*args, ax=ax, **options)
    return ax
