"""Whether retrieval heads are there for retrieval: what their knock-out costs on plain text (beside claim C4).

The unit is what as many random heads of the same layers cost at the same place: *excess* = (cost of retrieval heads -
cost of random heads) / cost of random heads, a ratio of sums over runs. It is compared with the excess on the task,
in the negative log-likelihood of the answer, so that both are of a loss. The knock-out is that of all retrieval heads;
on plain text at all positions, on the task at those that predict the answer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.repeated import cells, frame, one_row_a_key, sums
from retrieval_heads.keys import RUN
from retrieval_heads.stats.bootstrap import RESAMPLES, Interval, percentile_interval

NAN = float("nan")
MODE, SCOPE, METRIC = "zero", "answer", "nll"
PLACES = ("text", "task")

COLUMNS = ("task", "place", "cost_retrieval", "cost_random", "value", "low", "high", "n", "reason")


def specificity(
    runs: pd.DataFrame, knockout: pd.DataFrame, text_loss: pd.DataFrame | None, *, n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """The excess on plain text and on the task, and the difference of the two; three rows a task.

    Args:
        runs: one row a run with the key columns, `able` and `n_retrieval`; the able ones with all losses count.
        knockout: the table; its `nll` in mode `zero` and scope `answer`.
        text_loss: the table, or None.
        n_resamples: of the bootstrap over seeds and base models.

    Returns:
        Columns `COLUMNS`: `place` is `text`, `task` or `difference` (task less text: positive when the heads are
        specific); `cost_retrieval`, `cost_random` nats a token, mean over runs; `value` with its interval, in units of
        the cost of random heads; `n` runs; `reason` where a number is empty.
    """
    if text_loss is None or text_loss.empty:
        return frame([], COLUMNS)
    need(text_loss, [*RUN, "set", "k", "loss"], "text_loss")
    need(knockout, [*RUN, "mode", "scope", "set", "draw", "k", "metric", "value"], "knockout")
    text = text_loss[text_loss["draw"] == 0] if "draw" in text_loss else text_loss
    nll = knockout[(knockout["metric"] == METRIC) & (knockout["draw"] == 0)]
    nll = nll[(nll["set"] == "none") | ((nll["mode"] == MODE) & (nll["scope"] == SCOPE))]
    nll = nll.rename(columns={"value": "loss"})
    able = runs[runs["able"] & (runs["n_retrieval"] > 0)]
    costs = able[[*RUN, "n_retrieval"]].merge(_costs(text, able, "text"), on=RUN).merge(
        _costs(nll, able, "task"), on=RUN).dropna()
    return frame((row for task, part in costs.groupby("task") for row in _rows(task, part, n_resamples)), COLUMNS)


def _costs(losses: pd.DataFrame, runs: pd.DataFrame, place: str) -> pd.DataFrame:
    """Loss without all retrieval heads, and without as many random ones, less that of the run as it is."""
    sized = losses.merge(runs[[*RUN, "n_retrieval"]], on=RUN, suffixes=("_row", ""))
    sized = sized[(sized["set"] == "none") | (sized["k"] == sized["n_retrieval"])]
    sized = one_row_a_key(sized[sized["set"].isin(["none", "retrieval", "random"])], [*RUN, "set"], f"losses, {place}")
    wide = sized.pivot(index=RUN, columns="set", values="loss").reindex(columns=["none", "retrieval", "random"])
    costs = {f"{place}_{name}": wide[name] - wide["none"] for name in ("retrieval", "random")}
    return pd.DataFrame(costs).reset_index()


def _rows(task: str, part: pd.DataFrame, n_resamples: int) -> list[dict]:
    names = [f"{place}_{name}" for place in PLACES for name in ("retrieval", "random")]
    total, samples = sums(part, names, n_resamples=n_resamples)
    rows, excess, drawn = [], [], []
    for index, place in enumerate(PLACES):
        top, unit = total[2 * index], total[2 * index + 1]
        value, resampled, reason = NAN, None, ""
        if unit > 0:
            value = top / unit - 1
            if samples is not None and (samples[:, 2 * index + 1] > 0).all():
                resampled = samples[:, 2 * index] / samples[:, 2 * index + 1] - 1
            reason = "" if resampled is not None else "no interval: one run, or random heads cost nothing in a sample"
        else:
            reason = "random heads cost nothing, so there is no unit"
        excess.append(value)
        drawn.append(resampled)
        rows.append({"task": task, "place": place, "cost_retrieval": top / len(part), "cost_random": unit / len(part),
                     **cells(_interval(value, resampled)), "n": len(part), "reason": reason or None})
    both = None if any(one is None for one in drawn) else drawn[1] - drawn[0]
    value = excess[1] - excess[0]
    reason = "no interval in one of the two" if both is None else None
    if np.isnan(value):
        reason = "no unit in one of the two"
    return [*rows, {"task": task, "place": "difference", "cost_retrieval": None, "cost_random": None,
                    **cells(_interval(value, both)), "n": len(part), "reason": reason}]


def _interval(value: float, resampled: np.ndarray | None) -> Interval:
    return Interval(value, NAN, NAN) if resampled is None else percentile_interval(value, resampled)


def specificity_sentence(table: pd.DataFrame, task: str) -> str:
    """Whether the heads are specific for retrieval, in a task; empty where no able run was tried on plain text."""
    need(table, COLUMNS, "specificity")
    rows = table[table["task"] == task].set_index("place")
    if rows.empty:
        return ""
    text, of_task, difference = rows.loc["text"], rows.loc["task"], rows.loc["difference"]
    costs = (f"On plain text all retrieval heads cost {text['cost_retrieval']:.3f} nats a token (perplexity times "
             f"{np.exp(text['cost_retrieval']):.1f}), as many random ones {text['cost_random']:.3f}; on the task "
             f"{of_task['cost_retrieval']:.2f} and {of_task['cost_random']:.2f}.")
    unproven = "So they are of general use, and their specificity for retrieval is unproven"
    if pd.isna(difference["value"]):
        return f"{costs} {unproven}: random heads cost nothing, so their cost is no unit to compare the two in."
    excess = (f"In units of the cost of random heads that is an excess of {text['value']:,.1f} on plain text and of "
              f"{of_task['value']:,.1f} on the task")
    if difference["low"] > 0:
        there = ", though more than random heads there too" if text["low"] > 0 else ""
        return f"{costs} {excess}: they cost less where nothing is to be retrieved{there}."
    if difference["high"] < 0 or (pd.isna(difference["low"]) and difference["value"] <= 0):
        return f"{costs} {excess}, not less than on the task, so the heads are of general use."
    return f"{costs} {unproven}: {excess[:1].lower()}{excess[1:]}, and neither is shown to be larger."
