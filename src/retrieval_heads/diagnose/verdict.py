"""A diagnosis in words: what a set teaches, which heads it lacks, and what those it has are worth.

What it teaches is judged by best-subspan, answer loss and gain from context, not by F1 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pandas as pd

from retrieval_heads.diagnose.compare import Result
from retrieval_heads.figures.style import metric_label
from retrieval_heads.settings import REFERENCE, UNTUNED

MEASURE = {"subspan": "best-subspan", "context_gain": "the gain from context", "score": "the score",
           "answer_loss": "the loss of the gold answer"}

LEVEL = 0.05
"""Probability of gains as uneven by chance, below which a set gains at one place only."""

FEW_HEADS = 5
"""A share of fewer moves in steps of more than a fifth."""

NAMED = 6
"""Missed heads that are named in the report."""

ABLE = 0.2
"""With fewer right answers there is too little to lose or win: then the loss of the gold answer is told."""

NO_WIDTH = 1e-9
"""An interval this narrow has none but that of rounding."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one set, in a sentence or two, and of what kind that is: see `verdict`."""

    kind: str
    text: str

    @property
    def teaches(self) -> bool:
        return self.kind == "teaches"


def with_ends(row: pd.Series, form: str, same: str = "the same on all examples") -> str:
    """`0.50 (0.40 to 0.60)`; the interval is left out where it is not known, and in words where it has no width."""
    value, width = f"{row['value']:{form}}", row["high"] - row["low"]
    if width != width:
        return value
    ends = same if width < NO_WIDTH else f"{row['low']:{form}} to {row['high']:{form}}"
    return f"{value} ({ends})"


plain, signed = partial(with_ends, form=".2f"), partial(with_ends, form="+.2f")
share = partial(with_ends, form=".0%", same="in all samples")


def verdict(result: Result, condition: str) -> Verdict:
    """The first of these that holds.

    `one place only`: it gains where the needle stands at one place, and is not shown to gain elsewhere. `flawed set`:
    it gains, but all its examples can be solved by reading one place. `teaches`: best-subspan rises, or the loss of
    the gold answer falls while the gain from context rises, beyond their intervals. `style only`: F1 rises or the
    loss of the answer falls, and neither best-subspan nor the gain from context rises. `harms`: best-subspan or the
    score falls.
    """
    if (place := only_place(result.tables["place_gains"], condition)) is not None:
        return Verdict("one place only", _at_one_place(place))
    found, gain, loss, score = (
        result.of(condition, f"{name}over_untuned") for name in ("subspan_", "context_gain_", "answer_loss_", "")
    )
    found = score if found is None else found  # numbers of documents, in which there is no style to be learned
    changes = _changes(result, condition)
    if found["low"] > 0 or (gain is not None and gain["low"] > 0 and loss["high"] < 0):
        if (cuts := result.inputs.cuts.get(condition)) is not None and (flaw := cuts.places.one_place()):
            return Verdict("flawed set", f"It gains ({changes}), but {flaw}: what it teaches may be to read that place")
        return Verdict("teaches", f"It teaches the task: {changes}, against no fine-tuning")
    if score["low"] > 0 or loss["high"] < 0:
        before, after = (result.of(name, "words")["value"] for name in (UNTUNED, condition))
        end = result.of(condition, "end_loss_over_untuned")
        return Verdict("style only", (
            f"It changes how answers are written; that more is found is not shown: {changes}, against no fine-tuning. "
            f"Answers have {after:.1f} words, {before:.1f} before"
            + ("" if end is None else f"; the loss of the end after the answer changes by {signed(end)}")))
    if found["high"] < 0 or score["high"] < 0:
        return Verdict("harms", f"It harms: {changes}, against no fine-tuning")
    return Verdict("not shown", f"That it teaches anything is not shown: {changes}, against no fine-tuning")


def only_place(table: pd.DataFrame, condition: str) -> pd.Series | None:
    """The row of `place_gains` by which a condition gains at one place and not shown elsewhere; None without one.

    Best-subspan counts, and the gain from context; the score where there is no best-subspan. Their probabilities are
    compared with the level divided by their number.
    """
    if table.empty:
        return None
    own = table[table["condition"] == condition]
    wanted = ["subspan" if (own["measure"] == "subspan").any() else "score", "context_gain"]
    own = own[own["measure"].isin(wanted) & (own["p"] < LEVEL / len(wanted)) & (own["low"] > 0)
              & ~(own["elsewhere_low"] > 0)]
    return own.sort_values("p", kind="stable").iloc[0] if len(own) else None


def performance(result: Result, condition: str) -> str:
    """The score beside that of real examples and that of no fine-tuning, and what that comes to."""
    told = [f"The model trained on it scores {plain(result.of(condition, 'score'))} ({metric_label(result.metric)})",
            f"without fine-tuning {plain(result.of(UNTUNED, 'score'))}"]
    if (real := result.of(REFERENCE, "score")) is not None:
        told.append(f"trained on real examples {plain(real)}")
    text = f"{', '.join(told)}. {verdict(result, condition).text}"
    below = result.of(condition, "below_real")
    if below is None:
        return f"{text}."
    if not verdict(result, REFERENCE).teaches:
        return f"{text}. That the real examples teach is not shown either, so they are no measure for it."
    if below["low"] > 0:
        return f"{text}. It falls short of real examples by {plain(below)}."
    if below["high"] < 0:
        return (f"{text}. It does better than these real examples by {-below['value']:.2f} ({-below['high']:.2f} to "
                f"{-below['low']:.2f}).")
    return f"{text}. A difference to real examples is not shown: {signed(below)} short of them."


def _at_one_place(row: pd.Series) -> str:
    unit = " nats per token" if row["measure"] == "context_gain" else ""
    return (
        f"It gains at one place only: where the needle stands in the {row['place']}, {MEASURE[row['measure']]} changes "
        f"by {row['gain']:+.2f}{unit} ({row['low']:+.2f} to {row['high']:+.2f}, {row['n']} examples), elsewhere by "
        f"{row['elsewhere']:+.2f} ({row['elsewhere_low']:+.2f} to {row['elsewhere_high']:+.2f}, {row['n_elsewhere']}). "
        "It teaches to read that place, not to find what is asked for"
    ).replace("in the document", "in document")


def _changes(result: Result, condition: str) -> str:
    """Each measure's change, with its interval."""
    labels = {**{f"{name}_": MEASURE[name] for name in ("subspan", "answer_loss", "context_gain")},
              "": metric_label(result.metric)}
    found = {label: result.of(condition, f"{name}over_untuned") for name, label in labels.items()}
    return ", ".join(f"{label} {signed(row)}" for label, row in found.items() if row is not None)


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


def able(table: pd.DataFrame) -> bool:
    """Whether a model with its own heads has enough right answers, by rows of a table `knockout` or `patching`."""
    own = table[table["set"].isin(["none", "source"]) & (table["metric"] == "forced_exact_match")]["value"]
    return own.max() >= ABLE


def patching(result: Result, condition: str) -> str:
    """What the heads that it misses would give: in right answers, or in loss where hardly an answer is right."""
    if not result.inputs.request.has_real or not result.n_heads(condition):
        return ""
    sizes = result.tables["patching"]
    own = sizes[sizes["condition"] == condition]
    right = able(own)
    begin = "" if right else "nll_"
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
    text = f"Patching {missing} back changes the right answers by {signed(gain)}" if right else (
        f"Hardly an answer is right, so losses are told: patching {missing} back lowers the loss of the gold answer by "
        f"{signed(gain)} nats per token")
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
        f"rises by {signed(lost)} from {start['nll'].mean():.2f} nats per token"
    )
    if over is None:
        return text + "; there are too few other heads for a random control."
    return text + f", without as many random ones {plain(random) if able else 'by ' + signed(random)}" + (
        ": it depends on them." if over["low"] > 0 else ": that it depends on them more is not shown.")
