"""Predict the performance of a condition that was left out, from a predictor's relation to it in the other conditions.

For each task and each condition, a model is fitted to the runs of the task's other conditions and predicts the runs of
the one left out (leave-one-group-out cross-validation; Hastie, Tibshirani and Friedman 2009, section 7.10). The error
of a condition is the mean absolute error of its runs, so that every condition counts once. Predictors are compared on
the same runs, with a bootstrap over whole conditions of the paired difference of errors.

Models: `linear`, least squares; `isotonic`, the best monotone step function (pool adjacent violators), interpolated
linearly and constant outside the known range, rising or falling as the rank correlation *of the fitted runs* says. The
baseline predicts the mean of the other conditions: a predictor that does no better tells nothing that could be used.
With n conditions this mean's errors are n/(n - 1) times the deviations from the mean of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, check_resampling, percentile_interval
from retrieval_heads.stats.run_correlation import POOLED
from retrieval_heads.stats.runs import CONDITION, TASK, balanced

NAN = float("nan")

BASELINE = "mean"
"""Name of the baseline among the predictors."""

LEAST_CONDITIONS = 3
"""Two are needed to fit a relation, and one to be left out."""


def fit_linear(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The least squares line through points `[n]`; the mean of `y` where `x` does not vary."""
    centre, spread = x.mean(), ((x - x.mean()) ** 2).sum()
    slope = ((x - centre) * y).sum() / spread if np.ptp(x) else 0.0
    return lambda new: y.mean() + slope * (new - centre)


def fit_isotonic(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The monotone function with least squares through points `[n]`; equal `x` count as one point, by their mean."""
    sign = 1.0 if (rankdata(x) - (len(x) + 1) / 2) @ rankdata(y) >= 0 else -1.0
    places, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=y) / counts
    levels = sign * isotonic_regression(sign * means, weights=counts.astype(np.float64)).x
    return lambda new: np.interp(new, places, levels)


MODELS = {"linear": fit_linear, "isotonic": fit_isotonic}


def left_out_errors(
    runs: pd.DataFrame, predictors: Sequence[str], outcome: str, *, model: str = "linear"
) -> tuple[pd.DataFrame, list[str]]:
    """Errors in predicting every condition from the others, by each predictor and by the baseline.

    Args:
        runs: one row a `task`, `condition`, `base` and `seed` (see `runs.check_runs`), NaN where a value is not
            defined; give means over base models and seeds (one `base` and `seed`) to predict those.
        predictors: names of columns, any number; `mean`, the baseline's name, is taken.
        outcome: name of the column of performance; errors are in its unit.
        model: `linear` or `isotonic`.

    Returns:
        One row a task and condition: `task`, `condition`, `n_runs`, `observed` (mean performance), and for each
        predictor and for `mean` the mean absolute error; and the `task/condition` left out because some column is not
        defined in them. A task of fewer than three conditions gives no row.

    Raises:
        ConfigError: an unknown model, no predictors or one called `mean`, or as in `runs.check_runs`.
    """
    if model not in MODELS:
        raise ConfigError("unknown model", where="model", value=model, remedy=f"Use one of {', '.join(MODELS)}.")
    predictors = list(predictors)
    if not predictors or BASELINE in predictors or len(set(predictors)) < len(predictors):
        raise ConfigError(
            "not a list of different predictors", where="predictors", value=predictors,
            remedy=f"Name columns, each once; `{BASELINE}` is the baseline's name.",
        )
    table, left_out = balanced(runs, [*predictors, outcome])
    rows = []
    for task, part in table.groupby(TASK):
        conditions = part[CONDITION].unique()
        if len(conditions) < LEAST_CONDITIONS:
            left_out += [f"{task}/{condition}" for condition in conditions]
            continue
        rows += [{TASK: task} | _left_out(part, condition, predictors, outcome, MODELS[model])
                 for condition in conditions]
    columns = [TASK, CONDITION, "n_runs", "observed", *predictors, BASELINE]
    return pd.DataFrame(rows, columns=columns), sorted(left_out)


def _left_out(
    part: pd.DataFrame, condition: str, predictors: list[str], outcome: str, fit: Callable[..., Callable],
) -> dict[str, object]:
    away = part[CONDITION] == condition
    known, y = part[~away], part.loc[away, outcome].to_numpy()
    row: dict[str, object] = {CONDITION: condition, "n_runs": len(y), "observed": float(y.mean())}
    for name in predictors:
        predict = fit(known[name].to_numpy(), known[outcome].to_numpy())
        row[name] = float(np.abs(predict(part.loc[away, name].to_numpy()) - y).mean())
    return row | {BASELINE: float(np.abs(known[outcome].mean() - y).mean())}


def summarise_errors(
    errors: pd.DataFrame, predictors: Sequence[str], reference: str = BASELINE, *, level: float = 0.95,
    n_resamples: int = RESAMPLES, seed: int = 0,
) -> pd.DataFrame:
    """Mean absolute error of each predictor, and how much lower it is than that of a reference; per task and over all.

    Args:
        errors: the table of `left_out_errors`.
        predictors: columns of it to be judged; a reference among them is left out.
        reference: the column to compare with, a predictor or `mean`.
        level, n_resamples, seed: of the bootstrap, which draws whole conditions, with all their tasks.

    Returns:
        One row a task (`all` for the mean over all, if there are several) and predictor: `task`, `predictor`,
        `reference`, `error` with `error_low`, `error_high`; `reference_error`; `gain` (reference less predictor,
        positive where the predictor is better) with `gain_low`, `gain_high`; `skill` (gain as a share of the
        reference's error); `n_conditions`; `reason` where a value is NaN. An interval needs three conditions. It holds
        the fitted predictions fixed, so it is approximate: conditions left out in turn share the others as their basis.

    Raises:
        ConfigError: a column that is not there, or as in `bootstrap.check_resampling`.
    """
    judged = [name for name in predictors if name != reference]
    absent = [name for name in (TASK, CONDITION, reference, *judged) if name not in errors]
    if absent:
        raise ConfigError(
            "columns that are not there", where="errors", value=absent, remedy="Give the table of `left_out_errors`.")
    check_resampling(level, n_resamples)
    parts = [(task, part) for task, part in errors.groupby(TASK)]
    if len(parts) > 1:
        parts.append((POOLED, errors))
    rows = []
    for task, part in parts:
        columns = part[[reference, *judged]].to_numpy().T
        estimates, resampled = _cluster_means(columns, part[CONDITION], n_resamples, seed)
        few = part[CONDITION].nunique() < LEAST_CONDITIONS
        for index, name in enumerate(judged, start=1):
            error = _interval(estimates[index], resampled[index], level, few)
            gain = _interval(estimates[0] - estimates[index], resampled[0] - resampled[index], level, few)
            reasons = ["no interval: too few conditions"] * few + ["no skill: no error to reduce"] * (not estimates[0])
            rows.append({
                TASK: task, "predictor": name, "reference": reference, "error": error.estimate,
                "error_low": error.low, "error_high": error.high, "reference_error": float(estimates[0]),
                "gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high,
                "skill": gain.estimate / float(estimates[0]) if estimates[0] else NAN,
                "n_conditions": part[CONDITION].nunique(), "reason": "; ".join(reasons),
            })
    return pd.DataFrame(rows)


def _interval(estimate: float, resampled: np.ndarray, level: float, few: bool) -> Interval:
    return Interval(float(estimate), NAN, NAN) if few else percentile_interval(float(estimate), resampled, level)


def _cluster_means(
    columns: np.ndarray, clusters: pd.Series, n_resamples: int, seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Means `[k]` of `columns` `[k, n]`, and those `[k, n_resamples]` of samples of whole clusters."""
    codes, names = pd.factorize(clusters)
    sizes = np.bincount(codes)
    sums = np.stack([np.bincount(codes, weights=column) for column in columns])
    n = len(names)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    # einsum, not BLAS, whose sums depend on the number of threads in the last digit
    drawn = np.einsum("bc,kc->kb", weights, sums) / (weights * sizes).sum(axis=1)
    return columns.mean(axis=1), drawn
