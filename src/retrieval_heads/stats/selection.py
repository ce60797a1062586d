"""Choose a training set by a predictor, and what the choice costs against the best one.

In each task, base model and seed the candidate with the best predictor is taken. Its *regret* is the performance of the
best candidate less that of the one taken (simple regret of a best-arm choice; Bubeck, Munos and Stoltz 2009): 0 when
the best was taken. A random choice has the expected regret best - mean. The predictor is of use when its regret is
below that of a random choice, and of more use than another when it is below that one's.

Beside it stands the *rank agreement* over all candidates, Kendall's tau-a: pairs ordered alike less pairs ordered
otherwise, as a share of all pairs. A pair that the predictor or the performance does not order counts as neither, so it
is defined where the predictor is constant, as a random choice is: 0. Regret looks at the top alone and the agreement at
all places; with few candidates the agreement is the less noisy of the two.

The best of several noisy values is too high (the winner's curse), which raises all regrets alike and cancels in their
differences. By `value="mean"` a candidate is worth its mean over the seeds of its task and base model, which is what
someone who takes the training set can expect; by `value="run"`, what the very run gave. In the second case noise that
a predictor shares with its run counts as foresight: training loss may tell a lucky run, not a good training set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.errors import ConfigError
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, bootstrap_crossed, check_resampling
from retrieval_heads.stats.run_correlation import POOLED
from retrieval_heads.stats.runs import CONDITION, REPEAT, TASK, check_runs

NAN = float("nan")

DIRECTIONS = ("high", "low")
VALUES = ("mean", "run")

UNIT = (TASK, *REPEAT)
"""One choice is made in each."""

COLUMNS = ("regret", "random_regret", "agreement")
"""What a summary averages."""


def choices(
    runs: pd.DataFrame, predictors: Mapping[str, str], outcome: str, *, value: str = "mean",
) -> pd.DataFrame:
    """The choice of each predictor in each task, base model and seed.

    Args:
        runs: one row a `task`, `condition`, `base` and `seed`; its conditions are the candidates. Runs without an
            outcome are no candidates; those without a predictor are never taken by it.
        predictors: for each column, whether the `high` or the `low` values promise performance.
        outcome: the column of performance, higher is better; regrets are in its unit.
        value: `mean` or `run`, see above.

    Returns:
        One row a predictor, task, base model and seed: `n_candidates`, `n_unranked` (without a predictor), `taken` (its
        condition; several, parted by commas, where the best predictors are equal: then one of them is taken at random
        and `regret` is the expected one), `best` (the highest value), `regret`, `random_regret`, `agreement` (tau-a,
        -1 to 1), `reason` (empty, or why `regret` and `agreement` are NaN).

    Raises:
        ConfigError: an unknown direction or value, no predictors, or as in `runs.check_runs`.
    """
    if not predictors:
        raise ConfigError("no predictors", where="predictors", remedy="Name a column and `high` or `low`.")
    asked = [("value", value, VALUES), *((name, way, DIRECTIONS) for name, way in predictors.items())]
    for where, given, known in asked:
        if given not in known:
            raise ConfigError("unknown choice", where=where, value=given, remedy=f"Use one of {', '.join(known)}.")
    table = check_runs(runs, [*predictors, outcome]).dropna(subset=[outcome])
    own = table[outcome]
    by_set = table.groupby([TASK, REPEAT[0], CONDITION])[outcome]
    table = table.assign(_worth=own if value == "run" else by_set.transform("mean"))
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
    return row | {
        "taken": ", ".join(part.loc[equal, CONDITION].astype(str)), "regret": float(worth.max() - worth[equal].mean()),
        "agreement": _agreement(signs, worth),
    }


def _agreement(predictor: np.ndarray, worth: np.ndarray) -> float:
    """Kendall's tau-a; a pair with a NaN is not ordered."""
    i, j = np.triu_indices(len(worth), 1)
    return float((np.nan_to_num(np.sign(predictor[i] - predictor[j])) * np.sign(worth[i] - worth[j])).mean())


def summarise_regret(
    chosen: pd.DataFrame, reference: str | None = None, *, draw_tasks: bool = False, level: float = 0.95,
    n_resamples: int = RESAMPLES, seed: int = 0,
) -> pd.DataFrame:
    """Mean regret of each predictor beside that of a random choice and of a reference; per task and over all.

    Args:
        chosen: the table of `choices`. Base models and seeds in which a regret of some predictor and task is not
            defined are left out for all, so that all rows compare the same choices.
        reference: the predictor to compare with, such as the training loss; None: only the random choice.
        draw_tasks: draw tasks in the bootstrap too, which asks about other tasks of their kind; otherwise the tasks are
            all there is. Base models and seeds are always drawn, independently (`bootstrap.bootstrap_crossed`).
        level, n_resamples, seed: of the bootstrap.

    Returns:
        One row a task (`all` for the mean over tasks, if there are several) and predictor: `task`, `predictor`,
        `regret`, `random_regret`, `gain` (random less regret), `agreement`, `over_reference` (the reference's regret
        less that of this predictor), each with `NAME_low` and `NAME_high`; `hits`, the share of choices without regret;
        `n_choices`; `reason` where numbers are NaN. Positive gains speak for the predictor.

    Raises:
        ConfigError: an unknown reference, a table that is not one of `choices`, or a bad level.
    """
    needed = ["predictor", *UNIT, *COLUMNS]
    absent = [name for name in needed if name not in chosen]
    if absent:
        raise ConfigError("columns that are not there", where="chosen", value=absent, remedy="Give that of `choices`.")
    names = list(dict.fromkeys(chosen["predictor"]))
    if reference is not None and reference not in names:
        raise ConfigError("unknown predictor", where="reference", value=reference, remedy=f"Use one of {names}.")
    check_resampling(level, n_resamples)
    tasks = sorted(chosen[TASK].unique())
    rows = []
    for task in [*tasks, *([POOLED] if len(tasks) > 1 else [])]:
        part = chosen if task == POOLED else chosen[chosen[TASK] == task]
        tables = _cubes(part, names)
        for name in names:
            measures = _measures(tables, names.index(name), None if reference is None else names.index(reference))
            row: dict[str, Any] = {TASK: task, "predictor": name}
            for measure, cube in measures.items():
                found = Interval(NAN, NAN, NAN) if not cube.size else bootstrap_crossed(
                    cube, fixed=() if draw_tasks else (0,), level=level, n_resamples=n_resamples, seed=seed)
                row |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), found, strict=True))
            rows.append(row | _counts(measures["regret"], row["regret_low"]))
    return pd.DataFrame(rows)


def _counts(regret: np.ndarray, low: float) -> dict[str, Any]:
    if not regret.size:
        return {"hits": NAN, "n_choices": 0, "reason": "no base model and seed in which all regrets are defined"}
    reason = "no interval: nothing to resample" if np.isnan(low) else ""
    return {"hits": float((regret == 0).mean()), "n_choices": regret.size, "reason": reason}


def _measures(tables: dict[str, np.ndarray], own: int, reference: int | None) -> dict[str, np.ndarray]:
    regret, by_chance = tables["regret"][own], tables["random_regret"][own]
    measures = {"regret": regret, "random_regret": by_chance, "gain": by_chance - regret,
                "agreement": tables["agreement"][own]}
    return measures if reference is None else measures | {"over_reference": tables["regret"][reference] - regret}


def _cubes(part: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """Of each column `[predictors, tasks, base models, seeds]` of the base models and seeds without a gap."""
    n_tasks = part[TASK].nunique()
    cells = part["regret"].notna().groupby([part[name] for name in REPEAT]).sum()
    kept = cells[cells == len(names) * n_tasks].index.to_frame(index=False)
    # crossed: only seeds that every base model left has
    n_bases = kept["base"].nunique()
    kept = kept[kept.groupby("seed")["base"].transform("size") == n_bases]
    known = part.merge(kept, on=list(REPEAT)).assign(predictor=lambda t: pd.Categorical(t["predictor"], names))
    known = known.sort_values(["predictor", TASK, *REPEAT])
    shape = (len(names), n_tasks, n_bases, -1) if len(known) else (len(names), 0)
    return {column: known[column].to_numpy().reshape(shape) for column in COLUMNS}
