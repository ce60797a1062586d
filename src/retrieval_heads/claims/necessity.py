"""Claim C4: retrieval heads are necessary.

The quantity is the area between the knock-out curves of random and of retrieval heads of a run, over log(1 + k), from
the table `knockout_area`. Runs count that answer at least a fifth of the examples before anything is knocked out: what
cannot be lost cannot be knocked out. A sign counts when the mean area has it in every base model, so a base model
without such a run leaves the claim undecided.

Beside it stands whether the heads are there for retrieval: what their knock-out costs on plain text. The unit is what
as many random heads of the same layers cost at the same place: *excess* = (cost of retrieval heads - cost of random
heads) / cost of random heads, a ratio of sums over runs. It is compared with the excess on the task, in the negative
log-likelihood of the answer, so that both are of a loss. The knock-out is that of all retrieval heads; on plain text at
all positions, on the task at those that predict the answer.

The table `controls` sets what all controls cost beside the retrieval heads. A report whose knock-out was made with
fewer controls has the others from a profile of their own, for some of its runs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.runs import (
    cells,
    claimed,
    frame,
    from_cells,
    groups,
    one_sign,
    ratio,
    sums,
    synthetic,
    where,
)
from retrieval_heads.claims.verdict import ALL, Judged, Verdict, decide, over_tasks, too_few
from retrieval_heads.keys import RUN
from retrieval_heads.stats.resample import NAN, RESAMPLES, percentile_interval
from retrieval_heads.wording import with_minus

MODE, SCOPE, METRIC, LOSS = "zero", "answer", "forced_exact_match", "nll"
"""Of the knock-out by which the claim is judged: how, where, by which metric, and by which loss beside it."""

ABLE = 0.2
"""Share of right answers that a run needs to be tested."""

MOST, LITTLE = 0.5, 0.25
"""Shares of the right answers: retrieval heads have to take at least the first, random ones less than the second."""

TEN = 10
"""Heads that the paper knocks out, whatever the number of retrieval heads."""

CONTROLS = ("retrieval", "random", "random_group", "bottom")
NAMES = {"random": "random heads of the same layers", "random_group": "heads matched by key/value group",
         "bottom": "the weakest of the same layers"}
"""Sets of the table `controls`, and what the controls among them are called."""

C4 = partial(
    Verdict, claim="C4", quantity="area between the knock-out curves of random and of retrieval heads",
    unit="share of right answers", n_of="runs", chapter="04_knockout", table="necessity", rule=
    "Supported when the area's interval lies above 0 in more than half of the able runs and below 0 in none, and all "
    "retrieval heads take at least half of the right answers while as many random ones take less than a quarter; in "
    "part when only the first holds; not supported when it lies below 0 in more runs than above.",
)


def judge_necessity(
    knockout: pd.DataFrame, areas: pd.DataFrame, text_loss: pd.DataFrame | None = None, *,
    n_resamples: int = RESAMPLES,
) -> Judged:
    """Claim C4 from the tables `knockout`, `knockout_area` and `text_loss`, without which `specificity` is empty."""
    runs = able_runs(knockout, areas)
    tables = {
        "necessity": necessity(runs, n_resamples=n_resamples),
        "specificity": specificity(runs, knockout, text_loss, n_resamples=n_resamples),
    }
    return Judged(tables, tuple(verdicts(tables["necessity"], tables["specificity"])))


def able_runs(knockout: pd.DataFrame, areas: pd.DataFrame) -> pd.DataFrame:
    """One row per run that heads were knocked out of.

    `start` is the share of right answers before; `without_retrieval` and `without_random` those without all retrieval
    heads, and without as many random ones (NaN where the run has none, or too few heads are free for a control);
    `ten_retrieval` and `ten_random` those without ten; `area`, `low`, `high`, `k_max` are of the area.
    """
    rows = _answers(knockout)
    start = rows[rows["set"] == "none"].set_index(RUN)
    runs = pd.DataFrame({"start": start["value"], "n_retrieval": start["n_retrieval"]})
    runs["able"] = runs["start"] >= ABLE
    rows = rows[(rows["mode"] == MODE) & (rows["scope"] == SCOPE)]
    for place, chosen in (("without", (rows["k"] == rows["n_retrieval"]) & (rows["k"] > 0)), ("ten", rows["k"] == TEN)):
        for name in ("retrieval", "random"):
            left = rows[chosen & (rows["set"] == name)].set_index(RUN)
            runs[f"{place}_{name}"] = left["value"].astype(float)
    beside_random = where(areas, mode=MODE, scope=SCOPE, set="random").set_index(RUN)
    beside_random = beside_random[["value", "low", "high", "k_max"]].astype(float).rename(columns={"value": "area"})
    return runs.join(beside_random).reset_index()


def _answers(knockout: pd.DataFrame) -> pd.DataFrame:
    """The rows of right answers without each set of heads, over all draws, in the conditions that count."""
    rows = where(knockout, metric=METRIC, draw=0)
    return rows[rows["condition"].isin(claimed(rows["condition"].unique()))]


def necessity(runs: pd.DataFrame, *, n_resamples: int = RESAMPLES) -> pd.DataFrame:
    """Counts and means of the able runs of each task and condition, of each task (`all`), and of all of them."""
    return frame(({"task": task, "condition": condition, **_row(part, runs["base"].unique(), n_resamples)}
                  for task, condition, part in groups(runs, runs)), "necessity")


def _row(part: pd.DataFrame, bases: Any, n_resamples: int) -> dict[str, Any]:
    able = part[part["able"]]
    area = able.dropna(subset=["area"])
    shares = able.dropna(subset=["without_retrieval", "without_random"])
    taken: dict[str, Any] = {}
    for cell, place, known in (("share", "without", shares), ("ten", "ten", able)):
        for name in ("retrieval", "random"):
            lost = known.assign(taken=known["start"] - known[f"{place}_{name}"])
            taken |= cells(ratio(lost, "taken", "start", n_resamples=n_resamples), f"{cell}_{name}")
    return {
        "n_runs": len(part), "n_able": len(able), "start": able["start"].mean(),
        "n_retrieval": able["n_retrieval"].mean(), "n_area": len(area),
        **cells(ratio(area, "area", n_resamples=n_resamples), "area"),
        "n_above": int((able["low"] > 0).sum()), "n_below": int((able["high"] < 0).sum()),
        "same_sign": one_sign(area.groupby("base")["area"].mean(), bases),
        "k_max_least": area["k_max"].min(), "k_max_most": area["k_max"].max(), "n_shares": len(shares),
        **taken,
    }


def specificity(
    runs: pd.DataFrame, knockout: pd.DataFrame, text_loss: pd.DataFrame | None, *, n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """The excess on plain text and on the task, and the difference of the two, of the able runs with all losses."""
    if text_loss is None or text_loss.empty:
        return frame([], "specificity")
    nll = knockout[(knockout["metric"] == LOSS) & (knockout["draw"] == 0)]
    nll = nll[(nll["set"] == "none") | ((nll["mode"] == MODE) & (nll["scope"] == SCOPE))]
    nll = nll.rename(columns={"value": "loss"})
    able = runs.loc[runs["able"] & (runs["n_retrieval"] > 0), [*RUN, "n_retrieval"]]
    keys = {name: pd.MultiIndex.from_frame(able.assign(set=name)[[*RUN, "set", "n_retrieval"]])
            for name in ("retrieval", "random")}
    costs = able.assign(**{f"{place}_{name}": cost.reindex(key).to_numpy()
                           for place, cost in (("text", _costs(text_loss)), ("task", _costs(nll)))
                           for name, key in keys.items()}).dropna()
    return frame((row for task, part in costs.groupby("task") for row in _excess_rows(task, part, n_resamples)),
                 "specificity")


def _costs(losses: pd.DataFrame) -> pd.Series:
    """Nats a token above the run as it is, by run, set and number of heads."""
    start = losses[losses["set"] == "none"][[*RUN, "loss"]].rename(columns={"loss": "start"})
    rows = losses[losses["set"] != "none"].merge(start, on=RUN)
    return (rows["loss"] - rows["start"]).set_axis(pd.MultiIndex.from_frame(rows[[*RUN, "set", "k"]]))


def _excess_rows(task: str, part: pd.DataFrame, n_resamples: int) -> list[dict]:
    total, samples = sums(part, [f"{place}_{name}" for place in ("text", "task") for name in ("retrieval", "random")],
                          n_resamples=n_resamples)
    rows, excess, drawn = [], [], []
    for place, top, unit in (("text", 0, 1), ("task", 2, 3)):
        value, resampled, reason = NAN, None, "random heads cost nothing, so there is no unit"
        if total[unit] > 0:
            value, reason = total[top] / total[unit] - 1, None
            if samples is not None and (samples[:, unit] > 0).all():
                resampled = samples[:, top] / samples[:, unit] - 1
            else:
                reason = "no interval: one run, or random heads cost nothing in a sample"
        excess.append(value)
        drawn.append(resampled)
        rows.append({"task": task, "place": place, "cost_retrieval": total[top] / len(part),
                     "cost_random": total[unit] / len(part), **cells(percentile_interval(value, resampled)),
                     "n": len(part), "reason": reason})
    both = None if any(one is None for one in drawn) else drawn[1] - drawn[0]
    value = excess[1] - excess[0]
    reason = "no interval in one of the two" if both is None else None
    if np.isnan(value):
        reason = "no unit in one of the two"
    return [*rows, {"task": task, "place": "difference", "cost_retrieval": None, "cost_random": None,
                    **cells(percentile_interval(value, both)), "n": len(part), "reason": reason}]


def verdicts(necessity: pd.DataFrame, specificity: pd.DataFrame) -> list[Verdict]:
    """One verdict per task, and that over all tasks."""
    totals = necessity[necessity["condition"] == ALL].set_index("task")
    few = too_few(len(synthetic(necessity.loc[necessity["condition"] != ALL, "condition"])))
    of_tasks = [_of_task(task, row, specificity, few) for task, row in totals.iterrows() if task != ALL]
    if not of_tasks:
        return []
    return [*of_tasks, over_tasks(of_tasks, from_cells(totals.loc[ALL], "area"))]


def _of_task(task: str, row: pd.Series, specificity: pd.DataFrame, few: str) -> Verdict:
    detail = " ".join(part for part in (few, _detail(row), specificity_sentence(specificity, task)) if part)
    return C4(task, _decide(row, few), *from_cells(row, "area"), int(row["n_able"]), detail)


def _decide(row: pd.Series, few: str) -> str:
    costs_more = row["area"] > 0 and row["n_above"] > row["n_able"] / 2 and not row["n_below"]
    return decide(
        undecided=few or not row["n_able"] or not row["same_sign"],
        supported=costs_more and row["share_retrieval"] >= MOST and row["share_random"] < LITTLE,
        in_part=costs_more,
        not_supported=row["area"] < 0 and row["n_below"] > row["n_above"],
    )


def _detail(row: pd.Series) -> str:
    if not row["n_able"]:
        return f"None of {row['n_runs']} runs answers {ABLE:.0%} of the examples, so nothing can be lost."
    text = (f"Of {row['n_able']} able runs ({row['n_runs']} in all) the area lies above 0 in {row['n_above']} and "
            f"below 0 in {row['n_below']}, beyond the interval. ")
    if not row["same_sign"]:
        text += "The mean area has not one sign in all base models, or one has no able run. "
    if row["n_area"] < row["n_able"]:
        text += f"{row['n_able'] - row['n_area']} have no random control and count as undecided. "
    if row["k_max_least"] < row["k_max_most"]:
        text += f"The curves end between {row['k_max_least']:.0f} and {row['k_max_most']:.0f} heads. "
    if not row["n_shares"]:
        return text + "No able run has as many random heads as retrieval heads to compare all of them."
    text += (f"Without all their retrieval heads the runs lose {row['share_retrieval']:.0%} of their right answers, "
             f"without as many random ones {row['share_random']:.0%} ({row['n_shares']} runs).")
    if pd.isna(row["ten_retrieval"]):
        return text
    collapse = "is seen here too" if row["ten_retrieval"] >= MOST else "is not seen here"
    return text + (f" The ten strongest alone take {row['ten_retrieval']:.0%}, ten random ones "
                   f"{row['ten_random']:.0%}: the collapse at ten heads that is reported of the paper {collapse}.")


def specificity_sentence(table: pd.DataFrame, task: str) -> str:
    """Whether the heads are specific for retrieval, in a task; empty where no able run was tried on plain text."""
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


def control_rows(knockout: pd.DataFrame, text_loss: pd.DataFrame) -> pd.DataFrame:
    """The table `controls`: all retrieval heads of the able runs knocked out, and as many of each control.

    A knock-out without the column `groups` is of an earlier version, with other controls, and gives no row.
    """
    if "groups" not in knockout:
        return frame([], "controls")
    rows = _answers(knockout)
    start = rows[(rows["set"] == "none") & (rows["value"] >= ABLE)][[*RUN, "value"]].rename(columns={"value": "start"})
    out = rows[(rows["mode"] == MODE) & (rows["scope"] == SCOPE) & (rows["k"] == rows["n_retrieval"])]
    out = out.merge(start, on=RUN)
    costs, out = _costs(text_loss), out[out["set"].isin(CONTROLS)]
    return frame(({"task": task, "set": name, **_control_row(own, costs)}
                  for (task, name), own in out.groupby(["task", "set"])), "controls")


def _control_row(own: pd.DataFrame, costs: pd.Series) -> dict[str, Any]:
    lost = own["start"] - own["value"]
    shares = lost / own["start"]
    text = costs.reindex(pd.MultiIndex.from_frame(own[[*RUN, "set", "k"]])).dropna()
    return {
        "n_runs": len(own), **{name: float(own[name].mean()) for name in ("k", "groups", "moved", "moved_group")},
        "taken": float(lost.sum() / own["start"].sum()), "least": float(shares.min()), "most": float(shares.max()),
        "text_cost": float(text.mean()) if len(text) else np.nan, "n_text": len(text),
    }


def control_sentence(controls: pd.DataFrame) -> str:
    """What each control costs, and where its heads are from, as Markdown; empty without rows."""
    lines = []
    for task, part in controls.groupby("task"):
        rows = part.set_index("set")
        if "retrieval" not in rows.index:
            continue
        own = rows.loc["retrieval"]
        said = [f"{NAMES[name]} {row.taken:.1%} (in {row.groups:.0f} groups; {row.moved:.1f} heads from another layer, "
                f"{row.moved_group:.1f} from another group)"
                for name, row in ((name, rows.loc[name]) for name in NAMES if name in rows.index)]
        lines.append(
            f"- {task}, {own.n_runs} able runs: all retrieval heads, {own.k:.0f} in {own.groups:.0f} key/value groups, "
            f"take {own.taken:.1%} of the right answers; as many {', '.join(said)}."
        )
    return with_minus("\n".join(lines))
