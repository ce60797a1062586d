"""What the controls of a knock-out cost beside retrieval heads: matched by layer, by key/value group, and the weakest.

A report whose knock-out was made with fewer controls has the others from a profile of their own, for some of its runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.claims.necessity import ABLE, METRIC, MODE, SCOPE
from retrieval_heads.claims.runs import claimed, frame
from retrieval_heads.keys import RUN
from retrieval_heads.wording import with_minus

SETS = ("retrieval", "random", "random_group", "bottom")

def control_rows(knockout: pd.DataFrame, text_loss: pd.DataFrame) -> pd.DataFrame:
    """The table `controls`: all retrieval heads of the able runs knocked out, and as many of each control.

    A knock-out without the column `groups` is of an earlier version, with other controls, and gives no row.
    """
    if "groups" not in knockout:
        return frame([], "controls")
    rows = knockout[(knockout["metric"] == METRIC) & (knockout["draw"] == 0)]
    rows = rows[rows["condition"].isin(claimed(rows["condition"].unique()))]
    start = rows[(rows["set"] == "none") & (rows["value"] >= ABLE)][[*RUN, "value"]].rename(columns={"value": "start"})
    out = rows[(rows["mode"] == MODE) & (rows["scope"] == SCOPE) & (rows["k"] == rows["n_retrieval"])]
    out = out.merge(start, on=RUN)
    costs = _text_costs(text_loss)
    found = []
    for task, part in out.groupby("task"):
        for name in SETS:
            own = part[part["set"] == name]
            if len(own):
                found.append({"task": task, "set": name, **_row(own, costs)})
    return frame(found, "controls")


def _row(own: pd.DataFrame, costs: pd.Series) -> dict[str, Any]:
    lost = own["start"] - own["value"]
    shares = lost / own["start"]
    text = costs.reindex(pd.MultiIndex.from_frame(own[[*RUN, "set", "k"]])).dropna()
    return {
        "n_runs": len(own), **{name: float(own[name].mean()) for name in ("k", "groups", "moved", "moved_group")},
        "taken": float(lost.sum() / own["start"].sum()), "least": float(shares.min()), "most": float(shares.max()),
        "text_cost": float(text.mean()) if len(text) else np.nan, "n_text": len(text),
    }


def _text_costs(text_loss: pd.DataFrame) -> pd.Series:
    """Nats a token above the run as it is, by run, set and number of heads."""
    start = text_loss[text_loss["set"] == "none"][[*RUN, "loss"]].rename(columns={"loss": "start"})
    rows = text_loss[text_loss["set"] != "none"].merge(start, on=RUN)
    return (rows["loss"] - rows["start"]).set_axis(pd.MultiIndex.from_frame(rows[[*RUN, "set", "k"]]))


NAMES = {"random": "random heads of the same layers", "random_group": "heads matched by key/value group",
         "bottom": "the weakest of the same layers"}


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
