"""Further question Q2: do concept expression and context diversity interact in what they cost?

The floor of a metric alone makes an interaction, since what is lost already cannot be lost again. So it counts only
when the difference of differences has the same sign on the scale of log-odds too (Loftus 1978, doi 10.3758/BF03197461).
"""

from __future__ import annotations

import pandas as pd

from retrieval_heads.claims.axes import COLUMNS
from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.verdict import ALL, NOT, SUPPORTED, UNDECIDED, Verdict

QUESTION, CHAPTER, TABLE = "Q2", "02_lora_finetuning", "axis_effects"
RULE = (
    "Supported in a task when the interval of the difference of differences of the extreme levels excludes 0, with one "
    "sign in each base model and the same sign on the scale of log-odds; over tasks when that holds, with one sign, in "
    "at least two."
)


def interaction_verdicts(effects: pd.DataFrame) -> list[Verdict]:
    """One verdict a task and one over all, from the table `axis_effects`.

    Raises:
        ResultError: a column that is not there.
    """
    need(effects, COLUMNS, TABLE)
    rows = effects[effects["effect"] == "interaction"]
    of_tasks = [_of_task(task, part.set_index("scale")) for task, part in rows.groupby("task", sort=False)]
    signs = [one.effect > 0 for one in of_tasks if one.verdict == SUPPORTED]
    detail = "; ".join(f"{one.task}: {one.verdict}" for one in of_tasks) or "No task has all nine conditions."
    if max(signs.count(True), signs.count(False)) >= 2:
        verdict = SUPPORTED
    else:
        verdict = NOT if len(of_tasks) >= 2 and not signs else UNDECIDED
    return [*of_tasks, _verdict(ALL, verdict, (None, None, None), len(of_tasks), "tasks", f"{detail}.")]


def _of_task(task: str, scales: pd.DataFrame) -> Verdict:
    plain, odds = scales.loc["difference"], scales.loc["log_odds"]
    numbers = tuple(None if pd.isna(plain[name]) else float(plain[name]) for name in ("value", "low", "high"))
    if None in numbers:
        return _verdict(task, UNDECIDED, numbers, int(plain["n"]), "examples", "There is no interval.")
    beyond = (plain["low"] > 0 or plain["high"] < 0) and bool(plain["same_sign"])
    alike = plain["value"] * odds["value"] > 0
    detail = (f"In log-odds {odds['value']:.2f} ({odds['low']:.2f} to {odds['high']:.2f}), "
              f"{'the same' if alike else 'another'} sign.")
    return _verdict(task, SUPPORTED if beyond and alike else NOT, numbers, int(plain["n"]), "examples", detail)


def _verdict(task: str, verdict: str, numbers: tuple, n: int, n_of: str, detail: str) -> Verdict:
    quantity = "what both axes at their lowest cost beyond the sum of each alone"
    return Verdict(QUESTION, task, verdict, quantity, *numbers, "fraction", n, n_of, RULE, detail, CHAPTER, TABLE)
