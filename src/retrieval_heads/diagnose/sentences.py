"""A diagnosis in words: which heads a set lacks, and what those it has are worth. What it teaches is in `verdict`."""

from __future__ import annotations

from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.told import plain, share, signed
from retrieval_heads.settings import REFERENCE, UNTUNED

FEW_HEADS = 5
"""A share of fewer moves in steps of more than a fifth."""

NAMED = 6
"""Missed heads that are named in the report."""

ABLE = 0.2
"""With fewer right answers there is too little to lose or win: then the loss of the gold answer is told."""


def heads(result: Result, condition: str) -> str:
    """How many of the reference's retrieval heads it has, beside chance, and which it misses."""
    reference = REFERENCE if result.inputs.request.has_real else UNTUNED
    whose = "the real run's" if reference == REFERENCE else "the untuned model's own"
    if not result.n_heads(condition):
        return "Heads were not looked for: no probe example has needles."
    recall, precision = (result.of(condition, f"{name}_of_{reference}") for name in ("recall", "precision"))
    if recall is None:
        return f"There is no retrieval head among {whose}, so none can be missed."
    if recall["n"] < FEW_HEADS:
        return (f"There are {recall['n']} retrieval heads among {whose}, of which it has {share(recall)}: a share of "
                f"fewer than {FEW_HEADS} says nothing.{_missed(result, condition)}")
    low, high = result.chance_range(condition, reference)
    text = f"It has {share(recall)} of {whose} {recall['n']} retrieval heads, "
    text += "more than" if recall["value"] > high else "less than" if recall["value"] < low else "no more than"
    text += f" random heads of the same layers, {recall['chance']:.0%} (95% of draws: {low:.0%} to {high:.0%})"
    before = result.of(UNTUNED, "recall_of_real")
    text += "." if before is None else f"; the model without fine-tuning has {share(before)}."
    text += " It has no retrieval head at all." if precision is None else (
        f" {share(precision)} of its own {precision['n']} are among them.")
    return text + _missed(result, condition)


def _missed(result: Result, condition: str) -> str:
    table = result.tables["missed_heads"]
    own = table[table["condition"] == condition] if len(table) else table
    if own.empty:
        return ""
    told = []
    for one in own.head(NAMED).itertuples():
        seeds = f", missed in {one.missed} of {one.n_seeds} seeds" if one.n_seeds > 1 else ""
        told.append(f"layer {one.layer} head {one.head} ({one.real_score:.2f} there, {one.score:.2f} here{seeds})")
    more = f", and {len(own) - NAMED} more in the table missed_heads" if len(own) > NAMED else ""
    return f" It misses, with their scores, {'; '.join(told)}{more}. Layers and heads count from 0."


def patching(result: Result, condition: str) -> str:
    """What the heads that it misses would give: in right answers, or in loss where hardly an answer is right."""
    if not result.inputs.request.has_real or not result.n_heads(condition):
        return ""
    sizes = result.tables["patching"]
    own = sizes[sizes["condition"] == condition]
    able = own[own["set"].isin(["none", "source"]) & (own["metric"] == "forced_exact_match")]["value"].max() >= ABLE
    begin = "" if able else "nll_"
    gap, gain, random, over, closed = (result.of(condition, f"{begin}{name}") for name in (
        "gap", "gain_complement", "gain_random_complement", "gain_complement_over_random", "closed_complement"))
    if gain is None:
        return ""
    count = own[(own["set"] == "complement") & (own["metric"] == "nll")]["n_heads"].mean()
    if not count:
        return "It misses none of the real run's retrieval heads, so there is none to patch back."
    missing = "the missing head" if count == 1 else f"the {count:g} missing heads"
    if len(result.inputs.runs(condition)) > 1:
        missing = f"the missing heads ({count:g} a seed)"
    text = f"Patching {missing} back changes the right answers by {signed(gain)}" if able else (
        f"Hardly an answer is right, so losses are told: patching {missing} back lowers the loss of the gold answer by "
        f"{signed(gain)} nats a token")
    text += (". There are too few other heads for a random control. " if over is None else
             f", as many random heads by {signed(random)}: "
             + ("the missing ones give more" if over["low"] > 0 else "that the missing ones give more is not shown")
             + f" ({signed(over)}). ")
    if closed is None:
        return text + f"There is no clear gap to the real run here that could be closed ({signed(gap)})."
    return text + f"Patching them closes {share(closed)} of the gap to the real run ({signed(gap)})."


def knockout(result: Result, condition: str) -> str:
    """What its own retrieval heads carry: in right answers, or in loss where hardly an answer is right."""
    table = result.tables["knockout"]
    if table.empty:
        return ""
    start = table[(table["condition"] == condition) & (table["set"] == "none")].set_index("metric")["value"]
    able = start["forced_exact_match"].mean() >= ABLE
    lost, random, over = (result.of(condition, f"{'' if able else 'nll_'}loss_without_{name}")
                          for name in ("retrieval", "random", "retrieval_over_random"))
    if lost is None:
        return ""
    text = (
        f"Without its own retrieval heads it loses {plain(lost)} of {start['forced_exact_match'].mean():.2f} right "
        "answers" if able else
        "Hardly an answer is right, so losses are told: without its own retrieval heads the loss of the gold answer "
        f"rises by {signed(lost)} from {start['nll'].mean():.2f} nats a token"
    )
    if over is None:
        return text + "; there are too few other heads for a random control."
    return text + f", without as many random ones {plain(random) if able else 'by ' + signed(random)}" + (
        ": it depends on them." if over["low"] > 0 else ": that it depends on them more is not shown.")
