"""What a predictor is worth: how well it foretells a condition that was left out, and what choosing by it costs.

**Left out.** For each task and each condition, a line is fitted to the runs of the task's other conditions and predicts
the runs of the one left out (leave-one-group-out cross-validation; Hastie, Tibshirani and Friedman 2009, section 7.10).
The error of a condition is the mean absolute error of its runs, so that every condition counts once. Predictors are
compared on the same runs, with a bootstrap over whole conditions of the paired difference of errors. The baseline
predicts the mean of the other conditions: a predictor that does no better tells nothing that could be used. With n
conditions this mean's errors are n/(n - 1) times the deviations from the mean of all.

**Chosen.** In each task, base model and seed the candidate with the best predictor is taken. Its *regret* is the
performance of the best candidate less that of the one taken (simple regret of a best-arm choice; Bubeck, Munos and
Stoltz 2009): 0 when the best was taken. A random choice has the expected regret best - mean. The predictor is of use
when its regret is below that of a random choice, and of more use than another when it is below that one's. A candidate
is worth its mean over the seeds of its task and base model, which is what someone who takes the training set can
expect: by the value of the very run, noise that a predictor shares with its run would count as foresight. The best of
several noisy values is too high (the winner's curse), which raises all regrets alike and cancels in their differences.

Beside regret stands the *rank agreement* over all candidates, Kendall's tau-a: pairs ordered alike less pairs ordered
otherwise, as a share of all pairs. A pair that the predictor or the performance does not order counts as neither, so it
is defined where the predictor is constant, as a random choice is: 0. Regret looks at the top alone and the agreement at
all places; with few candidates the agreement is the less noisy of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.stats.resample import NAN, RESAMPLES, bootstrap_crossed, percentile_interval, resampled_sums
from retrieval_heads.stats.runs import CONDITION, REPEAT, TASK, balanced, in_order, of_tasks

BASELINE = "mean"
"""Name of the baseline among the predictors."""

LEAST_CONDITIONS = 3
"""Two are needed to fit a relation, and one to be left out."""

UNIT = (TASK, *REPEAT)
"""One choice is made in each."""

MEASURES = ("regret", "random_regret", "agreement")


def fit_linear(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The least squares line through points `[n]`; the mean of `y` where `x` does not vary."""
    centre, spread = x.mean(), ((x - x.mean()) ** 2).sum()
    slope = ((x - centre) * y).sum() / spread if np.ptp(x) else 0.0
    return lambda new: y.mean() + slope * (new - centre)


def left_out_errors(runs: pd.DataFrame, predictors: list[str], outcome: str) -> pd.DataFrame:
    """Errors in predicting every condition from the others, by each predictor and by the baseline.

    In `runs`, NaN is not defined; give means over base models and seeds to predict those. One row per task and
    condition: `n_runs`, `observed` (mean outcome), and for each predictor and for `mean` the mean absolute error, in
    the unit of the outcome. A task of fewer than three conditions gives no row.
    """
    table, _ = balanced(runs, [*predictors, outcome])
    rows = []
    for task, part in table.groupby(TASK):
        y, columns = part[outcome].to_numpy(), {name: part[name].to_numpy() for name in predictors}
        codes, conditions = pd.factorize(part[CONDITION])
        for code, condition in enumerate(conditions if len(conditions) >= LEAST_CONDITIONS else ()):
            known, away = codes != code, codes == code
            foretold = {name: fit_linear(x[known], y[known])(x[away]) for name, x in columns.items()}
            errors = {name: float(np.abs(value - y[away]).mean())
                      for name, value in {**foretold, BASELINE: y[known].mean()}.items()}
            rows.append({TASK: task, CONDITION: condition, "n_runs": int(away.sum()),
                         "observed": float(y[away].mean()), **errors})
    return pd.DataFrame(rows, columns=[TASK, CONDITION, "n_runs", "observed", *predictors, BASELINE])


def summarise_errors(
    errors: pd.DataFrame, predictors: Sequence[str], reference: str = BASELINE, *, n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean absolute error of each predictor, and how much lower it is than that of a reference; per task and over all.

    From `left_out_errors`; the reference, a predictor or `mean`, is not compared with itself. The columns are those of
    the table `prediction_errors`. An interval needs three conditions. It holds the fitted predictions fixed, so it is
    approximate: conditions left out in turn share the others as their basis.
    """
    judged = [name for name in predictors if name != reference]
    rows = []
    for task, part in of_tasks(errors):
        columns = part[[reference, *judged]].to_numpy()
        means = columns.mean(axis=0)
        sums, counts = resampled_sums(columns, [pd.factorize(part[CONDITION])[0]], n_resamples=n_resamples, seed=seed)
        drawn = sums / counts[:, None]
        few = part[CONDITION].nunique() < LEAST_CONDITIONS
        reasons = ["no interval: too few conditions"] * few + ["no skill: no error to reduce"] * (not means[0])
        for i, name in enumerate(judged, start=1):
            error = percentile_interval(float(means[i]), None if few else drawn[:, i])
            gain = percentile_interval(float(means[0] - means[i]), None if few else drawn[:, 0] - drawn[:, i])
            rows.append({
                TASK: task, "predictor": name, "reference": reference, "error": error.estimate,
                "error_low": error.low, "error_high": error.high, "reference_error": float(means[0]),
                "gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high,
                "skill": gain.estimate / float(means[0]) if means[0] else NAN,
                "n_conditions": part[CONDITION].nunique(), "reason": "; ".join(reasons),
            })
    return pd.DataFrame(rows)


def choices(runs: pd.DataFrame, predictors: Mapping[str, str], outcome: str) -> pd.DataFrame:
    """The choice of each predictor in each task, base model and seed.

    Args:
        runs: its conditions are the candidates. Runs without an outcome are not candidates; those without a predictor
            are never taken by it.
        predictors: for each column, whether the `high` or the `low` values promise performance.
        outcome: the column of performance, higher is better; regrets are in its unit.

    Returns:
        One row per choice. `taken` are several conditions, parted by commas, where the best predictors are equal: then
        one of them is taken at random, and `regret` is the expected one. `best` is the highest value, `agreement`
        tau-a, from -1 to 1, and `reason` says why numbers are NaN.
    """
    table = in_order(runs, [*predictors, outcome]).dropna(subset=[outcome])
    table = table.assign(_worth=table.groupby([TASK, REPEAT[0], CONDITION])[outcome].transform("mean"))
    rows = [
        {"predictor": name, **dict(zip(UNIT, unit, strict=True)), **_choice(part, name, way)}
        for name, way in predictors.items() for unit, part in table.groupby(list(UNIT))
    ]
    return pd.DataFrame(rows)


def _choice(part: pd.DataFrame, predictor: str, way: str) -> dict[str, Any]:
    worth, signs = part["_worth"].to_numpy(), part[predictor].to_numpy() * (1 if way == "high" else -1)
    row: dict[str, Any] = {
        "n_candidates": len(part), "n_unranked": int(np.isnan(signs).sum()), "taken": "", "best": float(worth.max()),
        "regret": NAN, "random_regret": NAN, "agreement": NAN, "reason": "",
    }
    if len(part) < 2:
        return row | {"reason": "fewer than 2 candidates"}
    row["random_regret"] = float(worth.max() - worth.mean())
    if row["n_unranked"] == len(part):
        return row | {"reason": f"{predictor} is not defined for any candidate"}
    equal = signs == np.nanmax(signs)
    i, j = np.triu_indices(len(worth), 1)
    agree = np.nan_to_num(np.sign(signs[i] - signs[j])) * np.sign(worth[i] - worth[j])  # with a NaN it is no order
    return row | {
        "taken": ", ".join(part.loc[equal, CONDITION].astype(str)), "regret": float(worth.max() - worth[equal].mean()),
        "agreement": float(agree.mean()),
    }


def summarise_regret(
    chosen: pd.DataFrame, reference: str, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Mean regret of each predictor beside that of a random choice and of a reference; per task and over all.

    Of the table of `choices`, base models and seeds in which a regret of some predictor and task is not defined are
    left out for all, so that all rows compare the same choices. Positive numbers speak for the predictor: `gain` is the
    regret of a random choice less its own, `over_reference` that of the reference less its own. `hits` is the share of
    choices without regret; the other columns are those of the table `choice`.
    """
    names = list(dict.fromkeys(chosen["predictor"]))
    rows = []
    for task, part in of_tasks(chosen):
        cubes = _cubes(part, names)
        regrets, by_chance = cubes["regret"], cubes["random_regret"]
        for i, name in enumerate(names):
            row: dict[str, Any] = {TASK: task, "predictor": name}
            for measure, cube in {
                "regret": regrets[i], "random_regret": by_chance[i], "gain": by_chance[i] - regrets[i],
                "agreement": cubes["agreement"][i], "over_reference": regrets[names.index(reference)] - regrets[i],
            }.items():
                found = percentile_interval(NAN, None)
                if cube.size:
                    found = bootstrap_crossed(cube, fixed=(0,), n_resamples=n_resamples, seed=seed)
                row |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), found, strict=True))
            rows.append(row | _counts(regrets[i], row["regret_low"]))
    return pd.DataFrame(rows)


def _counts(regret: np.ndarray, low: float) -> dict[str, Any]:
    if not regret.size:
        return {"hits": NAN, "n_choices": 0, "reason": "no base model and seed in which all regrets are defined"}
    reason = "no interval: nothing to resample" if np.isnan(low) else ""
    return {"hits": float((regret == 0).mean()), "n_choices": regret.size, "reason": reason}


def _cubes(part: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """Of each measure `[predictors, tasks, base models, seeds]` of the base models and seeds without a gap."""
    n_tasks = part[TASK].nunique()
    cells = part["regret"].notna().groupby([part[name] for name in REPEAT]).sum()
    kept = cells[cells == len(names) * n_tasks].index.to_frame(index=False)
    # crossed: only seeds that every base model left has
    n_bases = kept["base"].nunique()
    kept = kept[kept.groupby("seed")["base"].transform("size") == n_bases]
    known = part.merge(kept, on=list(REPEAT)).assign(predictor=lambda t: pd.Categorical(t["predictor"], names))
    known = known.sort_values(["predictor", TASK, *REPEAT])
    shape = (len(names), n_tasks, n_bases, -1) if len(known) else (len(names), 0)
    return {column: known[column].to_numpy().reshape(shape) for column in MEASURES}
