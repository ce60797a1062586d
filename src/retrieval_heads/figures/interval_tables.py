"""Tables for reading: rounded numbers with their intervals, in the order of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from retrieval_heads.claims.necessity import METRIC
from retrieval_heads.figures.common import MANY_RUNS
from retrieval_heads.figures.style import in_order, metric_label
from retrieval_heads.keys import RUN
from retrieval_heads.wording import span, with_minus

DASH = "–"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.42 [0.30, 0.55]`; without brackets where there is no interval, a dash where there is no value."""
    if pd.isna(value):
        return DASH
    text = f"{value:.2f}" + ("" if pd.isna(low) or pd.isna(high) else f" [{low:.2f}, {high:.2f}]")
    return with_minus(text)


def cells(rows: pd.DataFrame, name: str = "value") -> list[str]:
    """The values of a column with the ends of their intervals, which are in `NAME_low` and `NAME_high`, as text."""
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return [with_interval(*row) for row in rows[[name, *ends]].to_numpy(dtype=float)]


def with_range(values: pd.Series, digits: int = 2) -> str:
    """The mean of some runs with the least and the greatest, `0.42 (0.30 to 0.55)`; one run, or equal ones, alone."""
    known = values.dropna()
    if known.empty:
        return DASH
    mean, low, high = (f"{value:.{digits}f}" for value in (known.mean(), known.min(), known.max()))
    return with_minus(mean if low == high else f"{mean} ({low} to {high})")


def in_run_order(table: pd.DataFrame, keys: Sequence[str] = RUN) -> pd.DataFrame:
    """Rows of runs by task, condition in the order of the figures, seed and base model."""
    place = {condition: number for number, condition in enumerate(in_order(table.condition))}
    return table.sort_values(list(keys), kind="stable", ignore_index=True, key=lambda column: column.map(place)
                             if column.name == "condition" else column)


def by_condition(table: pd.DataFrame, columns: Mapping[str, str], digits: int = 2) -> pd.DataFrame:
    """One row per condition and, for each task, the mean of each column over the runs with the least and the greatest.

    `columns` says what to show of the rows of runs, and how it is called.
    """
    order = in_order(table.condition)
    runs = table.groupby(["condition", "task"]).size()
    shown = {"condition": order, "runs a task": [span(runs[condition]) for condition in order]}
    for task, of_task in table.groupby("task"):
        for column, name in columns.items():
            if of_task[column].notna().any():
                shown[f"{task}, {name}"] = [
                    with_range(of_task.loc[of_task.condition == one, column], digits) for one in order]
    return pd.DataFrame(shown)


def scores_table(scores: pd.DataFrame, metrics: Mapping[str, Sequence[str]], many: int = MANY_RUNS) -> pd.DataFrame:
    """Scores for reading: one row per run with intervals; with many runs one row per condition, with ranges.

    From rows of the tables `performance` and `base` (which has no seed) of one length; `metrics` of each task are in
    the table by condition.
    """
    if len(scores[RUN].drop_duplicates()) <= many:
        seeds = [DASH if pd.isna(seed) else str(int(seed)) for seed in scores.seed]
        shown = scores.assign(score=cells(scores), seed=seeds)[lambda table: table.metric != METRIC]
        return in_run_order(shown.pivot(index=RUN, columns="metric", values="score").reset_index()).fillna(DASH)
    wanted = {(task, name) for task, names in metrics.items() for name in names}
    chosen = scores[[pair in wanted for pair in zip(scores.task, scores.metric, strict=True)]]
    wide = chosen.pivot(index=RUN, columns="metric", values="value").reset_index()
    names = dict.fromkeys(name for own in metrics.values() for name in own)
    return by_condition(wide, {name: metric_label(name) for name in names})


def counts_table(counts: pd.DataFrame, many: int = MANY_RUNS) -> pd.DataFrame:
    """Numbers of retrieval heads (`findings.retrieval_counts`): one row per run, of many runs one per condition."""
    if len(counts) > many:
        return by_condition(counts, {"heads": "retrieval heads", "beyond_chance": "of them above chance"}, 0)
    names = {"heads": "retrieval heads", "layers": "in layers", "beyond_chance": "of them above chance",
             "best": "best score", "chance": "highest chance level", "n_used": "examples"}
    return in_run_order(counts).rename(columns=names)


def answers_table(answers: pd.DataFrame) -> pd.DataFrame:
    """What each condition's run says (rows of `answers` of one run each): a column for each reference answer."""
    said = answers.fillna({"prediction": DASH})
    said = said.assign(reference=[f"{row.example + 1}. {row.reference}" for row in said.itertuples()])
    wide = said.pivot(index="condition", columns="reference", values="prediction")
    return wide.loc[in_order(wide.index), sorted(wide.columns, key=lambda name: int(name.split(".")[0]))].reset_index()


def effects_table(effects: pd.DataFrame, many: int = MANY_RUNS) -> pd.DataFrame:
    """What each set costs and how retrieval heads compare with random ones (`knockout_effects` of a mode, scope, k).

    One row per run; with many runs one row per condition, of retrieval and random heads only.
    """
    names = {"retrieval": "retrieval heads", "random": "random heads", "random_group": "of the same groups",
             "bottom": "weakest heads", "retrieval_over_random": "retrieval over random"}
    rows = effects[effects.metric == METRIC]
    if len(rows[RUN].drop_duplicates()) > many:
        wide = rows.pivot(index=RUN, columns="contrast", values="value").reset_index()
        return by_condition(wide, {name: names[name] for name in ("retrieval", "random") if name in wide})
    return _wide(rows, "contrast", names, "value")


def patching_table(patching: pd.DataFrame) -> pd.DataFrame:
    """The gap of each run, the shares of it that sets of heads close, and what they gain over random heads."""
    rows = patching[(patching.metric == METRIC) & (patching.draw == 0)]
    some = rows[rows.n_heads > 0]
    closed = {name: f"closed by {name}" for name in ("intersection", "complement", "all")}
    over = {name: f"{name} over random" for name in ("intersection", "complement")}
    table = _wide(rows, "set", {"source": "gap"}, "change")
    for names, column in ((closed, "closed"), (over, "over_random")):
        table = table.merge(_wide(some, "set", names, column), how="left", on=RUN)
    return table.fillna(DASH)


def _wide(rows: pd.DataFrame, by: str, names: dict[str, str], column: str) -> pd.DataFrame:
    """One row per run, one text column for each entry of `names`, in that order."""
    known = rows[rows[by].isin(names)]
    wide = known.assign(cell=cells(known, column)).pivot(index=RUN, columns=by, values="cell")
    wide = wide.reindex(columns=list(names)).astype(object).fillna(DASH)
    return in_run_order(wide.rename(columns=names).rename_axis(columns=None).reset_index())
