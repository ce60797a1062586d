"""Means over runs of several seeds and base models, of which some may be missing, with intervals over both.

Seeds and base models are drawn independently (the pigeonhole bootstrap, Owen 2007), and a run is in a sample as often
as its seed times its base model are. All runs of a seed go together, whatever their task and condition. The examples
are not drawn: their chance is in the runs' values, and shows between the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

from retrieval_heads.claims.verdict import plain
from retrieval_heads.errors import ResultError
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, percentile_interval

NAN = float("nan")


def sums(
    runs: pd.DataFrame, columns: Sequence[str], *, n_resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sums of columns over the runs, and the same in each bootstrap sample.

    Args:
        runs: one row a run, with the columns `base`, `seed` and `columns`, which are numbers without gaps.
        columns: their names.
        n_resamples, seed: of the bootstrap.

    Returns:
        float64 `[columns]`, and `[samples, columns]`, without the samples that hold no run: at most `n_resamples`. The
        second is None where there is one seed and one base model, or no run.
    """
    values = runs[list(columns)].to_numpy(np.float64)
    weights, rng = np.ones((n_resamples, len(runs))), np.random.default_rng(seed)
    drawn = False
    for axis in ("base", "seed"):
        codes, labels = pd.factorize(runs[axis], sort=True)
        if len(labels) > 1:
            drawn = True
            weights *= rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=n_resamples)[:, codes]
    total = values.sum(axis=0)
    if not drawn:
        return total, None
    # not by BLAS, whose sums depend on the number of threads in the last digit
    return total, np.einsum("br,rc->bc", weights, values)[weights.sum(axis=1) > 0]


def ratio(
    runs: pd.DataFrame, top: str, bottom: str | None = None, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The sum of `top` over that of `bottom` (the number of runs when None: a mean) with its interval.

    Runs with a gap in either are left out. NaN throughout without runs, or where the sum below is not above 0; the ends
    also where it is not so in some sample, or there is one seed and base model.
    """
    known = runs.assign(_one=1.0) if bottom is None else runs
    names = [top, bottom or "_one"]
    known = known.dropna(subset=names)
    if known.empty:
        return Interval(NAN, NAN, NAN)
    total, samples = sums(known, names, n_resamples=n_resamples, seed=seed)
    if not total[1] > 0:
        return Interval(NAN, NAN, NAN)
    estimate = float(total[0] / total[1])
    if samples is None or not (samples[:, 1] > 0).all():
        return Interval(estimate, NAN, NAN)
    return percentile_interval(estimate, samples[:, 0] / samples[:, 1])


def one_sign(by_base: pd.Series, bases: Iterable[str]) -> bool:
    """Whether the mean of every base model is above 0, or that of every one below; False where one has none.

    Args:
        by_base: means by name of the base model.
        bases: all that were studied.
    """
    means = by_base.reindex(sorted(set(bases))).to_numpy(np.float64)
    return bool(len(means)) and bool((means > 0).all() or (means < 0).all())


def cells(interval: Interval, name: str = "value") -> dict[str, float | None]:
    """An interval as cells of a table: `NAME`, `NAME_low`, `NAME_high`, or plain `low` and `high` for `value`."""
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return dict(zip((name, *ends), plain(interval), strict=True))


def one_row_a_key(table: pd.DataFrame, key: Sequence[str], where: str) -> pd.DataFrame:
    """The table itself; `ResultError` where two rows have one key."""
    doubled = table[table.duplicated(list(key))]
    if len(doubled):
        raise ResultError("two rows have one key", where=f"table {where}",
                          value=doubled.iloc[0][list(key)].to_dict(), remedy="Make the table again.")
    return table


def frame(rows: Iterable[dict], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table with these columns; a column of numbers and gaps is float64, also where all are gaps."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    for name in table.columns:
        if is_object_dtype(table[name]) and not table[name].map(lambda cell: isinstance(cell, str | bool)).any():
            table[name] = table[name].astype("float64")
    return table
