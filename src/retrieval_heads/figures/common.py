"""What the figures of the interventions and of the overlap share: runs as one point, one legend for all panels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

METRIC = "forced_exact_match"
"""The metric of the interventions that the claims are judged by."""

VALUE_LABELS = {
    METRIC: "exact match,\nteacher forced (fraction)", "token_accuracy": "token accuracy (fraction)",
    "nll": "negative log-likelihood\n(nats per token)",
}


def value_label(metric: str) -> str:
    """A metric of the interventions with its unit, for an axis."""
    return VALUE_LABELS.get(metric, metric)


REPEATED = ["seed", "base"]
"""The key columns of a run that tell apart the repetitions of a condition."""


def over_runs(
    table: pd.DataFrame, by: Sequence[str], columns: Sequence[str] = ("value", "low", "high"),
) -> pd.DataFrame:
    """Means of columns over seeds and base models, with the number of runs as `n_runs`; one run gives its rows.

    The mean of the runs' lower ends is at most the lower end of an interval of the mean over the same examples, and
    likewise above: averaged ends are on the safe side for chance in the *examples*. They say nothing of chance in the
    training, for which the single runs have to be shown.

    Args:
        table: tidy rows with the columns `REPEATED`.
        by: the columns that tell the points apart.
        columns: what is averaged; an empty cell is left out.
    """
    runs = table.groupby(REPEATED).ngroup()
    groups = table.assign(run=runs).groupby(list(by), sort=False, dropna=False)
    return groups[list(columns)].mean().assign(n_runs=groups["run"].nunique()).reset_index()


def counts(values: pd.Series) -> str:
    """The numbers in a column as text for a label: `24`, or `20 to 24` where they differ."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def write_empty(ax: Axes, text: str) -> None:
    """Say in an empty panel why nothing is drawn, and take the scales away."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="small", color="#444444")
    ax.set_xticks([])
    ax.set_yticks([])


def shared_legend(figure: Figure, axes: Sequence[Axes], columns: int = 3) -> None:
    """One legend below the panels, with every entry of any of them once."""
    entries = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if not entries:
        return
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, fontsize="small")
