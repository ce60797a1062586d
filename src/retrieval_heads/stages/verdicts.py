"""What the tables of knock-out, patching and correlation say of the claims, in sentences for any outcome.

The rules are fixed before the numbers are known. A comparison counts as decided when its 95% interval excludes 0 (or a
chance p is below 0.05); a claim is supported when most of the comparisons are decided in its favour and none against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.stages.correlate import LEVEL, POOLED

METRIC = "forced_exact_match"

ANSWERS = 0.2
"""A run with a lower score has too little to lose, or to gain by a missing head, for a test."""

FEW_EXAMPLES = 20

NOT_SYNTHETIC = ("base", *(name for name, condition in CONDITIONS.items()
                 if not (condition.synthetic and condition.dissected)))
"""Runs that say nothing of synthetic data: real ones, controls, mixtures with real examples, and other sizes."""


def comparison_sizes(knockout: pd.DataFrame, sizes: Iterable[int]) -> dict[str, int]:
    """By task, how many heads are out where all its runs are compared.

    It is the largest of `sizes` at which every run of the task loses retrieval heads only and has a random control;
    else the smallest. Each task has its own, as runs of one have many retrieval heads and of another hardly any.

    Args:
        knockout: the table `knockout`. It holds one more size for each run, the number of its own retrieval heads, at
            which runs cannot be compared.
        sizes: those of the profile.
    """
    chosen = {}
    for task, rows in knockout[knockout.k.isin(list(sizes))].groupby("task", sort=False):
        controlled = set(rows[rows.set == "random"].k)
        fitting = [k for k in controlled if k <= rows.n_retrieval.min()]
        chosen[task] = int(max(fitting, default=rows.k.min()))
    return chosen


def knockout_findings(
    knockout: pd.DataFrame, effects: pd.DataFrame, sizes: Mapping[str, int], mode: str, scope: str,
) -> str:
    """Claim C4 as Markdown, an item a task, from the tables `knockout` and `knockout_effects`.

    Args:
        sizes: by task, as `comparison_sizes` gives them.
        mode: of the knock-out.
        scope: likewise.
    """
    return "\n".join(
        f"- **{task}.** "
        f"{knockout_finding(knockout[knockout.task == task], effects[effects.task == task], k, mode, scope)}"
        for task, k in sizes.items()
    )


def knockout_finding(
    knockout: pd.DataFrame, effects: pd.DataFrame, k: int, mode: str = "zero", scope: str = "answer",
) -> str:
    """Claim C4 with `k` heads out, from the rows of one task."""
    rows = effects[(effects.metric == METRIC) & (effects["mode"] == mode) & (effects.scope == scope) & (effects.k == k)]
    wide = rows.pivot(index=RUN, columns="contrast", values="value")
    difference = rows[rows.contrast == "retrieval_over_random"].set_index(RUN)
    start = knockout[(knockout.set == "none") & (knockout.metric == METRIC)].set_index(RUN).value
    able = start.index[start >= ANSWERS].intersection(difference.index)
    if able.empty:
        return (f"No run answers {ANSWERS:.0%} of the examples before anything is knocked out, so nothing can be lost: "
                f"**C4 is not tested here.**{_size(knockout)}")
    wide, difference, start = wide.loc[able], difference.loc[able], start.loc[able]
    more, less = int((difference.low > 0).sum()), int((difference.high < 0).sum())
    heads = f"{k} strongest heads" if k > 1 else "strongest head"
    text = (
        f"With the {heads} out (mode {mode}, scope {scope}), the share of right answers falls by "
        f"{_range(wide.retrieval)}; with as many random heads of the same layers by {_range(wide.random)}. "
        f"Retrieval heads cost more than random ones in {more} of {len(able)} runs and less in {less}; in the others "
        f"the interval of the difference includes 0."
    )
    destroyed = float((wide.retrieval / start).mean())
    if more > len(able) / 2 and not less:
        verdict = (
            f"**C4 is supported**: retrieval heads carry what random heads do not. They take "
            f"{destroyed:.0%} of the right answers with them" + (
                "." if destroyed >= 0.5 else ", so performance is lowered but not destroyed by so few."
            )
        )
    elif less > more:
        verdict = "**C4 is not supported**: random heads cost at least as much."
    else:
        verdict = "**C4 is not decided by this run.**"
    return f"{text} {verdict}{_size(knockout)}"


def patching_finding(patching: pd.DataFrame) -> str:
    """Claim C5, from the table `patching`."""
    rows = patching[(patching.metric == METRIC) & (patching.draw == 0)].set_index(RUN)
    gap = rows[rows.set == "source"]
    open_gap = gap.index[gap.change_low > 0]
    text = f"The real run is better than the patched one, beyond the interval, in {len(open_gap)} of {len(gap)} runs. "
    if open_gap.empty:
        return text + f"There is no gap that patching could close: **C5 is not tested here.**{_size(patching)}"
    sets = {name: one[one.index.isin(open_gap)] for name, one in rows.groupby("set")}
    shares = [
        f"{label} {_range(sets[name].closed)}" for name, label in (
            ("intersection", "the intersection"), ("complement", "the complement"), ("all", "all heads"),
            ("random", "random heads, as many as the intersection,"),
        ) if name in sets and (sets[name].n_heads > 0).any()
    ]
    text += f"In these, the share of the gap that is closed is: {'; '.join(shares)}. " if shares else ""
    own = sets.get("intersection", rows.iloc[:0])
    own = own[own.n_heads > 0]
    if own.empty:
        return text + f"No retrieval head is shared or patched alone: **C5 is not tested here.**{_size(patching)}"
    helps, hurts = int((own.change_low > 0).sum()), int((own.change_high < 0).sum())
    remains = int((own.closed_high < 1).sum())
    text += (f"The intersection helps in {helps} of {len(own)}, hurts in {hurts}, and leaves a part of the gap open in "
             f"{remains}, each beyond the interval. ")
    if helps > len(own) / 2 and not hurts:
        verdict = "**C5 is supported**: it helps and does not close the gap." if remains > len(own) / 2 else (
            "**C5 is half supported**: it helps; that it does not close the gap is not shown.")
    elif hurts > helps:
        verdict = "**C5 is not supported**: patching these heads does not help."
    else:
        verdict = "**C5 is not decided by this run.**"
    return f"{text}{verdict}{_size(patching)}"


def overlap_finding(overlap: pd.DataFrame) -> str:
    """Claim C2, from rows of the table `overlap` at one threshold: one kind of score a task, beside one real run."""
    own = overlap[~overlap.condition.isin(NOT_SYNTHETIC)]
    precision, recall = (own[(own.measure == name) & own.value.notna()] for name in ("precision", "recall"))
    if precision.empty:
        return "No synthetic run has a retrieval head: **C2 is not tested here.**"
    above = int((precision.layer_p < LEVEL).sum())
    text = (
        f"Of the retrieval heads of synthetic runs, {_range(precision.value)} are also retrieval heads of the real run "
        f"(precision; by chance within layers {_range(precision.layer_chance)}), more than chance in {above} of "
        f"{len(precision)} runs. They hold {_range(recall.value)} of the real run's (recall)."
    )
    base = overlap[(overlap.condition == "base") & (overlap.measure == "precision") & overlap.value.notna()]
    if len(base):
        text += (f" For the base model, before any fine-tuning, the precision is {_range(base.value)}: what "
                 f"the runs share with it they did not learn from their data.")
    mostly = int((precision.value > 0.5).sum())
    if mostly == above == len(precision):
        verdict = "**C2 is supported**: they are mostly subsets."
        if recall.value.min() >= 0.9:
            verdict += " As they are also nearly all of the real run's heads, that says little."
    elif mostly > len(precision) / 2:
        verdict = "**C2 is supported in part**: most are mostly subsets, not all of them beyond chance."
    else:
        verdict = "**C2 is not supported**: they are not mostly subsets."
    return f"{text} {verdict}"


def correlation_finding(correlation: pd.DataFrame, predictor: str = "recall", outcome: str = "f1") -> str:
    """Claim C3, from the table `correlation`: over all tasks where there are several."""
    rows = correlation[(correlation.predictor == predictor) & (correlation.outcome == outcome)].set_index("task")
    name = POOLED if POOLED in rows.index else rows.index[0]
    one, where = rows.loc[name], "within tasks, over all of them" if name == POOLED else f"in {name}"
    subject = f"The rank correlation of {predictor} with F1 {where}"
    if pd.isna(one.value):
        return f"{subject} is not defined with n = {one.n} conditions ({one.reason}): **C3 is not tested here.**"
    size = "strong" if abs(one.value) >= 0.7 else "moderate" if abs(one.value) >= 0.4 else "weak"
    interval = "" if pd.isna(one.low) else f", interval {one.low:.2f} to {one.high:.2f}"
    text = f"{subject} is {one.value:.2f} ({size}; p = {one.p:.2f}, n = {one.n} conditions{interval})."
    if one.p < LEVEL and one.value > 0:
        return f"{text} **C3 is {'supported' if size == 'strong' else 'supported in direction, not in strength'}.**"
    if one.p < LEVEL:
        return f"{text} **C3 is not supported**: where recall is higher, performance is lower."
    few = "so few conditions cannot decide it" if pd.notna(one.reason) else "it cannot be told from chance"
    return f"{text} **C3 is not decided by this run**: {few}."


def _range(values: Iterable[float]) -> str:
    """Mean and range of fractions: `0.42 (0.10 to 0.71)`."""
    known = pd.Series(list(values), dtype=float).dropna()
    if known.empty:
        return "undefined"
    if round(known.min(), 2) == round(known.max(), 2):
        return f"{known.mean():.2f}"
    return f"{known.mean():.2f} ({known.min():.2f} to {known.max():.2f})"


def repeats(seeds: int, bases: int) -> str:
    """How often each condition was run: `5 seeds`, or `5 seeds, 2 base models` where there are several."""
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}" + (f", {bases} base models" if bases > 1 else "")


def study_size(profile: Profile, training: pd.DataFrame) -> str:
    """How many runs the verdicts rest on, and what of the study has not been run.

    Args:
        profile: the study as it was planned.
        training: the table `training`, one row a run.
    """
    planned, of_seed = len(study_grid(profile)), training.groupby("seed").size()
    made = repeats(training.seed.nunique(), training.base.nunique())
    text = f"These verdicts rest on {len(training)} runs ({made})."
    if len(training) == planned:
        return text
    seeds = ", ".join(f"{of_seed.get(seed, 0)} of seed {seed}" for seed in profile.seeds)
    return (
        f"{text} **The study is not complete**: {planned} runs are planned, {planned // len(profile.seeds)} "
        f"a seed, and there are {seeds}. Conditions are compared under the seeds that they have in common, so the "
        f"intervals are wider than they will be, and *not decided* may become something else."
    )


def _size(table: pd.DataFrame) -> str:
    """How much the numbers of examples, seeds and base models allow to be said."""
    n = int(table.n.min())
    text = f" (n = {n} examples a run, {repeats(table.seed.nunique(), table.base.nunique())}"
    if n < FEW_EXAMPLES:
        text += "; so few show that the study runs, and nothing about the claim"
    return text + ".)"
