"""Tables for reading: rounded numbers with their intervals, in the order of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from retrieval_heads.figures.choice import MANY_RUNS
from retrieval_heads.figures.common import METRIC
from retrieval_heads.figures.style import in_order, metric_label
from retrieval_heads.keys import RUN

DASH = "–"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.42 [0.30, 0.55]`; without brackets where there is no interval, a dash where there is no value."""
    if pd.isna(value):
        return DASH
    text = f"{value:.2f}"
    if not (pd.isna(low) or pd.isna(high)):
        text += f" [{low:.2f}, {high:.2f}]"
    return text.replace("-0.00", "0.00")


def in_run_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs by task, condition in the order of the figures, seed and base model."""
    place = {condition: number for number, condition in enumerate(in_order(table.condition))}
    return table.sort_values(
        RUN, key=lambda column: column.map(place) if column.name == "condition" else column, kind="stable",
        ignore_index=True,
    )


def with_range(values: pd.Series, digits: int = 2) -> str:
    """The mean of some runs with the least and the greatest, `0.42 (0.30 to 0.55)`; one run, or equal ones, alone."""
    known = values.dropna()
    if known.empty:
        return DASH
    mean, low, high = (f"{value:.{digits}f}" for value in (known.mean(), known.min(), known.max()))
    text = mean if low == high else f"{mean} ({low} to {high})"
    return text.replace("-0.00", "0.00")


def by_condition(table: pd.DataFrame, columns: Mapping[str, str], digits: int = 2) -> pd.DataFrame:
    """One row per condition and, for each task, the mean of each column over the runs with the least and the greatest.

    Args:
        table: one row per run, with the columns `RUN`.
        columns: what to show, and how it is called.
        digits: after the point.
    """
    order = in_order(table.condition)
    runs = table.groupby(["condition", "task"]).size().groupby("condition")
    shown = {"condition": order, "runs a task": [
        str(low) if low == high else f"{low} to {high}"
        for low, high in zip(runs.min()[order], runs.max()[order], strict=True)
    ]}
    for task, of_task in table.groupby("task"):
        for column, name in columns.items():
            if of_task[column].notna().any():
                shown[f"{task}, {name}"] = [
                    with_range(of_task.loc[of_task.condition == one, column], digits) for one in order]
    return pd.DataFrame(shown)


def scores_table(scores: pd.DataFrame, metrics: Mapping[str, Sequence[str]], many: int = MANY_RUNS) -> pd.DataFrame:
    """Scores for reading: one row per run with intervals; with many runs one row per condition, with ranges.

    Args:
        scores: rows of the tables `performance` and `base` of one length; the latter have no seed.
        metrics: the metrics of each task in the table by condition.
        many: from more runs than this on, a row is a condition.
    """
    runs = scores[RUN].drop_duplicates()
    if len(runs) <= many:
        cells = [with_interval(*row) for row in scores[["value", "low", "high"]].itertuples(index=False)]
        seeds = [DASH if pd.isna(seed) else str(int(seed)) for seed in scores.seed]
        shown = scores.assign(score=cells, seed=seeds)[lambda table: table.metric != METRIC]
        return in_run_order(shown.pivot(index=RUN, columns="metric", values="score").reset_index()).fillna(DASH)
    wanted = {(task, name) for task, names in metrics.items() for name in names}
    chosen = scores[[pair in wanted for pair in zip(scores.task, scores.metric, strict=True)]]
    wide = chosen.pivot(index=RUN, columns="metric", values="value").reset_index()
    names = dict.fromkeys(name for own in metrics.values() for name in own)
    return by_condition(wide, {name: metric_label(name) for name in names})


def counts_table(counts: pd.DataFrame, many: int = MANY_RUNS) -> pd.DataFrame:
    """Numbers of retrieval heads for reading: one row per run, or a condition where there are many runs.

    Args:
        counts: `findings.retrieval_counts`.
        many: from more runs than this on, a row is a condition.
    """
    if len(counts) > many:
        return by_condition(counts, {"heads": "retrieval heads", "beyond_chance": "of them above chance"}, 0)
    names = {"heads": "retrieval heads", "layers": "in layers", "beyond_chance": "of them above chance",
             "best": "best score", "chance": "highest chance level", "n_used": "examples"}
    return in_run_order(counts).rename(columns=names)


def answers_table(answers: pd.DataFrame) -> pd.DataFrame:
    """What each condition's run says, one row per condition, a column for each reference answer.

    Args:
        answers: rows of the table `answers` of one task, seed and base model.
    """
    said = answers.fillna({"prediction": DASH})
    said = said.assign(reference=[f"{row.example + 1}. {row.reference}" for row in said.itertuples()])
    wide = said.pivot(index="condition", columns="reference", values="prediction")
    return wide.loc[in_order(wide.index), sorted(wide.columns, key=lambda name: int(name.split(".")[0]))].reset_index()


def effects_table(effects: pd.DataFrame, metric: str = METRIC, many: int = MANY_RUNS) -> pd.DataFrame:
    """What each set costs and how retrieval heads compare with random ones; one row per run.

    With many runs one row is a condition, and has retrieval and random heads only.

    Args:
        effects: rows of the table `knockout_effects` of one mode, scope and k.
        metric: one of the table's metrics.
        many: from more runs than this on, a row is a condition.
    """
    names = {"retrieval": "retrieval heads", "random": "random heads", "random_group": "of the same groups",
             "bottom": "weakest heads", "retrieval_over_random": "retrieval over random"}
    rows = effects[effects.metric == metric]
    if len(rows[RUN].drop_duplicates()) > many:
        wide = rows.pivot(index=RUN, columns="contrast", values="value").reset_index()
        return by_condition(wide, {name: names[name] for name in ("retrieval", "random") if name in wide})
    return _wide(rows, "contrast", names, ("value", "low", "high"))


def patching_table(patching: pd.DataFrame, metric: str = METRIC) -> pd.DataFrame:
    """The gap of each run, the shares of it that sets of heads close, and what they gain over random heads."""
    rows = patching[(patching.metric == metric) & (patching.draw == 0)]
    gap = _wide(rows, "set", {"source": "gap"}, ("change", "change_low", "change_high"))
    closed = _wide(
        rows[rows.n_heads > 0], "set", {name: f"closed by {name}" for name in ("intersection", "complement", "all")},
        ("closed", "closed_low", "closed_high"),
    )
    over = _wide(
        rows[rows.n_heads > 0], "set", {name: f"{name} over random" for name in ("intersection", "complement")},
        ("over_random", "over_random_low", "over_random_high"),
    )
    return gap.merge(closed, how="left", on=RUN).merge(over, how="left", on=RUN).fillna(DASH)


def _wide(rows: pd.DataFrame, by: str, names: dict[str, str], columns: tuple[str, str, str]) -> pd.DataFrame:
    """One row per run, one text column for each entry of `names`, in that order."""
    known = rows[rows[by].isin(names)]
    cells = [with_interval(*row) for row in known[list(columns)].to_numpy(dtype=float)]
    wide = known.assign(cell=cells).pivot(index=RUN, columns=by, values="cell")
    wide = wide.reindex(columns=list(names)).astype(object).fillna(DASH)
    return in_run_order(wide.rename(columns=names).rename_axis(columns=None).reset_index())
