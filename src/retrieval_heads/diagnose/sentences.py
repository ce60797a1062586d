"""A diagnosis in words: for each set what it teaches and which heads it lacks, and what warns against believing it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.request import UNTUNED
from retrieval_heads.figures.style import metric_label
from retrieval_heads.rank.calibration import read_calibration
from retrieval_heads.settings import REFERENCE

FEW_EXAMPLES = 30
FEW_HEADS = 5
FEW_SEEDS = 5
NAMED = 6
"""Missed heads that are named in the report."""

NO_WIDTH = 1e-9
"""An interval this narrow has none but that of rounding."""

CEILING = 0.9
"""Where the untuned model scores as much, there is next to nothing left for a set to teach."""

ABLE = 0.2
"""With fewer right answers there is too little to lose for a knock-out."""


def performance(result: Result, condition: str) -> str:
    """The score beside that of real examples and that of no fine-tuning."""
    score, over, below = (result.of(condition, name) for name in ("score", "over_untuned", "below_real"))
    untuned, real = result.of(UNTUNED, "score"), result.of(REFERENCE, "score")
    text = f"The model trained on it scores {_interval(score)} ({metric_label(result.metric)}); without fine-tuning "
    text += _interval(untuned)
    text += f", trained on real examples {_interval(real)}. " if real is not None else ". "
    if over["low"] > 0:
        text += f"It teaches the task: {_signed(over)} over no fine-tuning"
    elif over["high"] < 0:
        text += f"It harms: {_signed(over)} against no fine-tuning"
    else:
        text += f"That it teaches anything is not shown: {_signed(over)} over no fine-tuning"
    if below is not None:
        if below["low"] > 0:
            text += f", and it falls short of real examples by {_interval(below)}"
        elif below["high"] < 0:
            text += f", and it does better than these real examples by {-below['value']:.2f} "
            text += f"({-below['high']:.2f} to {-below['low']:.2f})"
        else:
            text += f"; a difference to real examples is not shown: {_signed(below)} short of them"
    return text + "."


def heads(result: Result, condition: str) -> str:
    """How many of the reference's retrieval heads it has, beside chance, and which it misses."""
    reference = REFERENCE if result.inputs.request.has_real else UNTUNED
    whose = "the real run's" if reference == REFERENCE else "the untuned model's own"
    if not result.n_heads(condition):
        return "Heads were not looked for: no probe example has needles."
    recall, precision = (result.of(condition, f"{name}_of_{reference}") for name in ("recall", "precision"))
    if recall is None:
        return f"There is no retrieval head among {whose}, so none can be missed."
    low, high = result.chance_range(condition, reference)
    text = f"It has {_share(recall)} of {whose} {recall['n']} retrieval heads, "
    text += "more than" if recall["value"] > high else "less than" if recall["value"] < low else "no more than"
    text += f" random heads of the same layers, {recall['chance']:.0%} (95% of draws: {low:.0%} to {high:.0%})"
    before = result.of(UNTUNED, "recall_of_real")
    text += "." if before is None else f"; the model without fine-tuning has {_share(before)}."
    text += " It has no retrieval head at all." if precision is None else (
        f" {_share(precision)} of its own {precision['n']} are among them.")
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
    """What the heads that it misses would give."""
    if not result.inputs.request.has_real or not result.n_heads(condition):
        return ""
    gap, gain, random, over = (result.of(condition, name) for name in (
        "gap", "gain_complement", "gain_random_complement", "gain_complement_over_random"))
    if gain is None:
        return ""
    sizes = result.tables["patching"]
    own = sizes[(sizes["condition"] == condition) & (sizes["set"] == "complement") & (sizes["metric"] == "nll")]
    count = own["n_heads"].mean()
    if not count:
        return "It misses none of the real run's retrieval heads, so there is none to patch back."
    missing = "the missing head" if count == 1 else f"the {count:g} missing heads"
    if len(result.inputs.runs(condition)) > 1:
        missing = f"the missing heads ({count:g} a seed)"
    text = f"Patching {missing} back changes the right answers by {_signed(gain)}"
    text += (". There are too few other heads for a random control. " if over is None else
             f", as many random heads by {_signed(random)}: "
             + ("the missing ones give more" if over["low"] > 0 else "that the missing ones give more is not shown")
             + f" ({_signed(over)}). ")
    closed = result.of(condition, "closed_complement")
    if closed is None:
        return text + f"There is no clear gap to the real run here that could be closed ({_signed(gap)})."
    return text + f"Patching them closes {_share(closed)} of the gap to the real run ({_signed(gap)})."


def knockout(result: Result, condition: str) -> str:
    """What its own retrieval heads carry."""
    lost, random, over = (result.of(condition, f"loss_without_{name}")
                          for name in ("retrieval", "random", "retrieval_over_random"))
    if lost is None:
        return ""
    table = result.tables["knockout"]
    start = table[(table["condition"] == condition) & (table["set"] == "none")
                  & (table["metric"] == "forced_exact_match")]["value"].mean()
    if start < ABLE:
        return f"It gives too few right answers ({start:.0%}) for a knock-out of its heads to show anything."
    text = f"Without its own retrieval heads it loses {_interval(lost)} of {start:.2f} right answers"
    if over is None:
        return text + "; there are too few other heads for a random control."
    return text + f", without as many random ones {_interval(random)}" + (
        ": it depends on them." if over["low"] > 0 else ": that it depends on them more is not shown.")


def warnings(result: Result) -> list[str]:
    """What limits the diagnosis; one sentence each."""
    request = result.inputs.request
    return [*_of_tests(result), *_of_probe(result), *_of_sets(result), *_of_heads(result), (
        "Patching and knock-out count right answers token by token after the reference answer "
        f"(teacher forced), not {metric_label(result.metric)}; an interval is over examples"
        + (" and seeds." if len(request.seeds) > 1 else ".")
    )]


def _of_tests(result: Result) -> Iterator[str]:
    inputs = result.inputs
    if len(inputs.test) < FEW_EXAMPLES:
        yield (f"Few test examples ({len(inputs.test)}): intervals are wide, and a bootstrap of so few makes "
               f"them a little too narrow. Give at least {FEW_EXAMPLES}.")
    untuned = result.of(UNTUNED, "score")
    if untuned["value"] >= CEILING:
        yield (f"The model scores {untuned['value']:.2f} without fine-tuning: these examples, at RoPE theta "
               f"{inputs.theta:,.0f}, leave next to nothing to teach, and cannot tell the sets apart. Take "
               "longer or harder ones, or try the --rope-theta that you mean to train at.")
    alike = [name for name in inputs.conditions if (one := result.of(name, "score"))["high"] - one["low"] < NO_WIDTH]
    if alike:
        yield (f"All test examples score alike for {', '.join(alike)}: an interval without width comes from the "
               "bootstrap, which has no variation to draw from, and is no certainty.")


def _of_probe(result: Result) -> Iterator[str]:
    inputs, request = result.inputs, result.inputs.request
    if len(inputs.probe) < FEW_EXAMPLES // 3:
        yield (f"Few probe examples ({len(inputs.probe)}): head scores are coarse, and heads near the threshold "
               "come and go.")
    counts = {name: result.n_heads(name) for name in (REFERENCE, *request.names)}
    few = ", ".join(f"{name} {min(one)}" for name, one in counts.items() if one and min(one) < FEW_HEADS)
    if few:
        yield (f"Few retrieval heads above {request.threshold:g} ({few}): a share of so few means little; see the "
               "table overlap for other thresholds.")
    bare = sum(not example.needles for example in inputs.probe)
    if bare:
        yield f"{bare} of {len(inputs.probe)} probe examples have no needles" + (
            " and were left out of the head scores." if inputs.finds_heads
            else ": heads were not looked for, knocked out or patched.")
    elsewhere = sum(bool(one.needles) and not any(one.answer in text for text in one.needle_texts())
                    for one in inputs.probe)
    if elsewhere and inputs.kind == "copy":
        yield (f"{elsewhere} of {len(inputs.probe)} probe examples have an answer that none of their needles "
               "holds: the copy score misses heads that find such answers.")


def _of_sets(result: Result) -> Iterator[str]:
    inputs, request = result.inputs, result.inputs.request
    if not request.has_real:
        yield ("No real training set: what these sets lack beside real data cannot be said, nothing is patched, "
               "and heads are compared with those of the untuned model only.")
    sizes = {name: len(examples) for name, examples in inputs.encoded.items()}
    if len(set(sizes.values())) > 1:
        yield ("Sets of unequal size (" + ", ".join(f"{name} {size}" for name, size in sizes.items())
               + "): a larger set has an advantage that is not its quality.")
    if len(request.seeds) == 1:
        yield ("One seed: how much another fine-tuning on the same set would differ is unknown, and is not in "
               "any interval here. Give --seeds 1 2 3.")
    elif len(request.seeds) < FEW_SEEDS:
        yield (f"Few seeds ({len(request.seeds)}): intervals are drawn over them, too, but of so few a bootstrap makes "
               "them too narrow.")
    if request.adapters:
        yield (f"Given adapters ({', '.join(request.adapters)}): on what, and how long, they were trained is "
               "not known here.")
    for name, count in inputs.leaked.items():
        if count:
            yield (f"{count} evaluation examples have the same prompt as a training example of {name}: its score is "
                   "too high.")


def _of_heads(result: Result) -> Iterator[str]:
    if not result.inputs.finds_heads:
        return
    yield ("Intervals of shares of heads are over probe examples and seeds. A resampled score is blurred twice, so "
           "they are rather wide and lie rather low: a share may stand near the upper end of its own.")
    calibration = read_calibration()
    if calibration is not None and calibration.heads_against_cheaper_ones():
        yield (f"In this study's report, {calibration.heads_against_cheaper_ones()} in predicting how well a set "
               "teaches. Missing heads say where models differ; which set is better is said by the scores.")


def _interval(row: pd.Series) -> str:
    return _with_ends(row, ".2f")


def _signed(row: pd.Series) -> str:
    return _with_ends(row, "+.2f")


def _share(row: pd.Series) -> str:
    return _with_ends(row, ".0%", "in all samples")


def _with_ends(row: pd.Series, form: str, same: str = "the same on all examples") -> str:
    value, width = f"{row['value']:{form}}", row["high"] - row["low"]
    if width != width:
        return value
    return f"{value} ({same})" if width < NO_WIDTH else \
        f"{value} ({row['low']:{form}} to {row['high']:{form}})"
