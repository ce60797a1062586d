"""Tables of runs: which conditions count, and means over runs with intervals.

In these intervals seeds and base models are drawn independently, and a run is in a sample as often as its seed times
its base model are. All runs of a seed go together, whatever their task and condition. The examples are not drawn: their
chance is in the runs' values, and shows between the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

from retrieval_heads.claims.verdict import ALL, plain
from retrieval_heads.data.conditions import CONDITIONS, kind_of
from retrieval_heads.stats.resample import RESAMPLES, UNKNOWN, Interval, percentile_interval, resampled_sums
from retrieval_heads.tables import get_table


def claimed(names: Iterable[str]) -> list[str]:
    """Those of the conditions that the claims are about, known ones first; left out are controls, un-tuned base models
    and other numbers of examples."""
    given = dict.fromkeys(names)
    own = [name for name in given if name not in CONDITIONS and name not in ("base", "rope")]
    return [name for name in CONDITIONS if name in given and not (kind_of(name).control or kind_of(name).sized)] + own


def synthetic(names: Iterable[str]) -> list[str]:
    """The synthetic conditions among them (ten in the report), without mixtures."""
    return [name for name in claimed(names) if kind_of(name).synthetic and not kind_of(name).members]


def mixtures(names: Iterable[str]) -> list[str]:
    """The mixtures among them."""
    return [name for name in claimed(names) if kind_of(name).members]


def frame(rows: Iterable[dict] | pd.DataFrame, table: str) -> pd.DataFrame:
    """Rows with the columns of a table of the data dictionary, and in them what comes back from a file: None for empty
    text, and float64 for a column of numbers and gaps, also where all are gaps."""
    names = [column.name for column in get_table(table).columns]
    made = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows), columns=names)
    for name in names:
        blank = made[name].astype(object) == ""
        if blank.any():
            made[name] = made[name].astype(object).where(~blank, None)
        if is_object_dtype(made[name]) and not made[name].map(lambda cell: isinstance(cell, str | bool)).any():
            made[name] = made[name].astype("float64")
    return made


def cells(interval: Iterable[float], name: str = "value") -> dict[str, float | None]:
    """An interval as cells of a table: `NAME`, `NAME_low`, `NAME_high`, or plain `low` and `high` for `value`."""
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return dict(zip((name, *ends), plain(interval), strict=True))


def from_cells(row: pd.Series, name: str = "value") -> tuple[float | None, ...]:
    """The interval in such cells of a row; None where one is empty."""
    return plain(row[cell] for cell in cells(UNKNOWN, name))


def told(row: pd.Series, name: str = "value", digits: int = 3) -> str:
    """The interval in such cells in words: `0.123 (0.101 to 0.145)`."""
    value, low, high = (f"{row[cell]:.{digits}f}" for cell in cells(UNKNOWN, name))
    return f"{value} ({low} to {high})"


def where(rows: pd.DataFrame, **cells: Any) -> pd.DataFrame:
    """The rows with these cells."""
    return rows[np.logical_and.reduce([rows[name] == value for name, value in cells.items()])]


def groups(rows: pd.DataFrame, counted: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Task, condition and rows: of each condition, and with `all` those counted of each task, and of all tasks."""
    yield from ((task, condition, part) for (task, condition), part in rows.groupby(["task", "condition"]))
    yield from ((task, ALL, part) for task, part in counted.groupby("task"))
    if len(counted):
        yield ALL, ALL, counted


def sums(
    runs: pd.DataFrame, columns: Sequence[str], *, n_resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sums `[columns]` over the runs of columns without gaps, and `[samples, columns]` in bootstrap samples over `base`
    and `seed` that hold a run; None where there is one seed and one base model, or no run."""
    values = runs[list(columns)].to_numpy(np.float64)
    factors = [pd.factorize(runs[axis], sort=True) for axis in ("base", "seed")]
    if max(len(labels) for _, labels in factors) < 2:
        return values.sum(axis=0), None
    samples, counts = resampled_sums(values, [codes for codes, _ in factors], n_resamples=n_resamples)
    return values.sum(axis=0), samples[counts > 0]


def ratio(runs: pd.DataFrame, top: str, bottom: str | None = None, *, n_resamples: int = RESAMPLES) -> Interval:
    """The sum of `top` over that of `bottom` (the number of runs when None: a mean) with its interval.

    Runs with a gap in either are left out. NaN throughout without runs, or where the sum below is not above 0; the ends
    also where it is not so in some sample, or there is one seed and base model.
    """
    known = runs.assign(_one=1.0) if bottom is None else runs
    names = [top, bottom or "_one"]
    known = known.dropna(subset=names)
    total, samples = sums(known, names, n_resamples=n_resamples)
    if not total[1] > 0:
        return UNKNOWN
    whole = samples is not None and (samples[:, 1] > 0).all()
    return percentile_interval(float(total[0] / total[1]), samples[:, 0] / samples[:, 1] if whole else None)


def one_sign(by_base: pd.Series, bases: Iterable[str]) -> bool:
    """Whether the mean of every one of the base models is above 0, or that of every one below; False where one has
    none."""
    means = by_base.reindex(sorted(set(bases))).to_numpy(np.float64)
    return bool(len(means)) and bool((means > 0).all() or (means < 0).all())
