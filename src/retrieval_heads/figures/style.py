"""What all figures share: SVG on white, colours that the colour-blind can tell apart, one order of conditions.

    use_style()
    figure, axes = panels(profile.tasks)
    for task, ax in zip(profile.tasks, axes):
        plot_performance(table[table.task == task], ax=ax)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.errors import ConfigError
from retrieval_heads.wording import METRICS
from retrieval_heads.wording import words as words
from retrieval_heads.wording import words_short as words_short

BASE_CONDITIONS = ("base", "rope")
"""The model without any fine-tuning: as it is, and with the raised RoPE theta alone."""

ORDER = (*BASE_CONDITIONS, *CONDITIONS)
"""The order of conditions in every figure and table: untrained, real, from more to less real, mixtures, controls."""

WIDTH = 7.2
"""Inches of a figure as wide as a page of the book."""

_GREYS = {"base": "#555555", "rope": "#999999"}
# its seventh colour is too pale on white, its eighth a grey like those of the controls
_PALETTE = [to_hex(sns.color_palette("colorblind")[place]) for place in (0, 1, 2, 3, 4, 5, 9)]
_FIRST = ("real", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
# chosen by a search that keeps each apart from all others, also as the red- and the green-blind see them; `mid` needles
# are violet, and lighter where the haystack is less diverse
_LATER = {
    "high_mid": "#7b682a", "mid_high": "#3a0459", "mid_mid": "#5b12d0", "mid_low": "#8074ff", "low_mid": "#6e4a76",
    "real_limited-high_high": "#3c1a00", "real_limited-low_low": "#ffb000", "high_high-symbolic": "#1c3f9c",
    "high_low-low_high": "#0801f8",
    "real_short": "#25001e", "real_shuffled": "#cb5f62",
}
_COLOURS = _GREYS | dict(zip(_FIRST, _PALETTE, strict=True)) | _LATER
# four sides for a diverse haystack, six or eight for the middle one, three for a repeated one
_MARKERS = {
    "base": ">", "rope": ">", "real": "o", "real_limited": "p", "symbolic": "*",
    "high_high": "s", "mid_high": "d", "low_high": "D", "high_mid": "h", "mid_mid": "8", "low_mid": "H",
    "high_low": "v", "mid_low": "<", "low_low": "^", "real_short": "X", "real_shuffled": "X",
}
_MIXTURE_MARKER = "P"


def use_style() -> None:
    """Set the style for the figures that follow: light grid on white, also where the page is dark; SVG in a notebook.

    Text stays text, which keeps a picture small and sharp. DejaVu Sans, by which matplotlib lays it out, is wider than
    the fonts that stand in for it, so nothing overlaps where it is missing.

    Every chapter begins by it, so a parameter that the chapter does not have is refused here, too.
    """
    check_parameters()
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85, rc={
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110,
        "axes.edgecolor": "#666666", "grid.color": "#e4e4e4", "axes.titleweight": "bold", "axes.titlesize": 10,
        "legend.frameon": False, "figure.constrained_layout.use": True,
        "text.parse_math": False,  # a dollar in a name opens no formula
        "svg.fonttype": "none", "svg.hashsalt": "retrieval-heads",  # the same ids in equal pictures
    })
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})


def check_parameters(cells: Sequence[str] | None = None) -> None:
    """Refuse what papermill was asked for and the notebook does not have, where papermill alone only warns.

    Args:
        cells: the code cells that were run, in order; None for those of the notebook that this is called in, if any.

    Raises:
        ConfigError: an injected name that the cell before it does not set.
    """
    if cells is None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        cells = shell.user_ns.get("In", ()) if shell is not None else ()
    for place, cell in enumerate(cells):
        if place and cell.startswith("# Parameters\n"):  # the cell that papermill puts behind the one tagged so
            known, given = ([target.id for one in ast.parse(code).body if isinstance(one, ast.Assign)
                             for target in one.targets if isinstance(target, ast.Name)]
                            for code in (cells[place - 1], cell))
            if unknown := [name for name in given if name not in known]:
                raise ConfigError("unknown parameter", where="papermill", value=", ".join(unknown),
                                  remedy=f"The parameters of this notebook are: {', '.join(known)}.")


def in_order(conditions: Iterable[str]) -> list[str]:
    """The conditions, each once, in the common order; unknown ones come last, in their own."""
    found = list(dict.fromkeys(conditions))
    return sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def few(conditions: Iterable[str], chosen: Sequence[str], most: int = 8) -> list[str]:
    """The conditions in order where there are at most so many, else those of them that are among the chosen ones."""
    order = in_order(conditions)
    return order if len(order) <= most else [name for name in order if name in chosen]


def group(condition: str) -> int:
    """Which group a condition is in: 0 untrained, 1 real, 2 synthetic, 3 mixtures, 4 controls, 5 sizes."""
    known = CONDITIONS.get(condition)
    if condition in BASE_CONDITIONS:
        return 0
    if known is None or known.sized:
        return 5
    return 4 if known.control else 3 if len(known.members) > 1 else 2 if known.synthetic else 1


def has_sizes(conditions: Iterable[str]) -> bool:
    """Whether some of the conditions differ from another in the number of examples only."""
    return any(name in CONDITIONS and CONDITIONS[name].sized for name in conditions)


def colour(condition: str) -> str:
    """The colour of a condition, the same in every figure; black for an unknown one."""
    return _COLOURS.get(_unsized(condition), "#000000")


def marker(condition: str) -> str:
    """The marker of a condition, the same in every figure, so that it is told apart without colours too.

    The mixtures share one, as do the two controls, and the two of the model without training; other numbers of examples
    look like the condition itself.
    """
    condition = _unsized(condition)
    mixture = condition in CONDITIONS and len(CONDITIONS[condition].members) > 1
    return _MARKERS.get(condition, _MIXTURE_MARKER if mixture else ".")


def _unsized(condition: str) -> str:
    """The condition that another number of examples of it is to look like."""
    known = CONDITIONS.get(condition)
    return known.members[0] if known is not None and known.sized else condition


def metric_label(metric: str) -> str:
    """A metric in words, for an axis."""
    return METRICS.get(metric, metric)


def axis(ax: Axes | None = None) -> Axes:
    """The given axis, or that of a new figure."""
    return plt.subplots(figsize=(WIDTH, 3.4))[1] if ax is None else ax


def panels(
    titles: Sequence[str], columns: int = 3, height: float = 3.2, width: float | None = None, **settings,
) -> tuple[Figure, list[Axes]]:
    """A figure with one titled axis for each entry, in rows of at most `columns`; empty places stay empty.

    Args:
        titles: one for each axis.
        columns: axes in a row.
        height: inches of a row.
        width: inches of the figure; `WIDTH` for more than one axis in a row, and less for one.
        settings: of `matplotlib.pyplot.subplots`, such as `sharey=True`.
    """
    columns = max(1, min(columns, len(titles)))
    rows = -(-len(titles) // columns)
    if width is None:
        width = WIDTH if columns > 1 else 0.7 * WIDTH
    figure, grid = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **settings)
    for ax in grid.flat[len(titles):]:
        ax.set_visible(False)
    for ax, title in zip(grid.flat, titles, strict=False):
        ax.set_title(title)
    return figure, list(grid.flat[: len(titles)])


def interval_bars(value: Iterable[float], low: Iterable[float], high: Iterable[float]) -> np.ndarray:
    """Distances `[2, n]` from the values to the ends of their intervals, for `Axes.errorbar`; 0 where there is none."""
    value, low, high = (np.asarray(list(column), dtype=float) for column in (value, low, high))
    return np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
