"""What limits a diagnosis: what cannot be concluded from it, why, and what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator

from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.verdict import FEW_HEADS, NO_WIDTH, verdict
from retrieval_heads.figures.style import metric_label
from retrieval_heads.rank.calibration import read_calibration
from retrieval_heads.settings import REFERENCE, UNTUNED

FEW_EXAMPLES = 30
FEW_SEEDS = 5

CEILING = 0.9
"""Where the untuned model scores as much, there is next to nothing left for a set to teach."""

WORTH = 0.1
"""A gain that one would want to see, of the score or best-subspan."""

HARDLY = 0.1
"""A fall of the loss by less than this share of it is hardly one."""


def warnings(result: Result) -> list[str]:
    """What limits the diagnosis; one sentence each."""
    request = result.inputs.request
    return [*_of_teaching(result), *_of_tests(result), *_of_probe(result), *_of_sets(result), *_of_heads(result), (
        "Patching and knock-out count right answers, or the loss, token by token after the reference answer "
        f"(teacher forced), not {metric_label(result.metric)}; an interval is over examples"
        + (" and seeds." if len(request.seeds) > 1 else ".")
    )]


def _of_teaching(result: Result) -> Iterator[str]:
    """What keeps anything from being said at all."""
    inputs, names = result.inputs, result.inputs.request.names
    if inputs.request.has_real and not verdict(result, REFERENCE).teaches:
        yield ("The real set itself is not shown to teach: what a set falls short of it, which heads it misses and "
               "what patching them closes say nothing here. Train longer (--epochs), at another --lr, or on more "
               "examples, until it does.")
    still = {name: text for name in inputs.conditions if (text := _hardly_moved(result, name))}
    if still:
        told = "; ".join(f"{name} {text}" for name, text in still.items())
        yield (f"Training hardly moved: {told}. Nothing can be said about what these sets would teach; "
               "raise --epochs or --lr.")
    open_ones = [name for name in names if verdict(result, name).kind in ("not shown", "style only")]
    if open_ones and (needed := _needed(result, open_ones)) > len(inputs.test):
        yield (f"Too few test examples to tell for {', '.join(open_ones)}: with the spread seen here, a gain of "
               f"{WORTH:.1f} would be shown four times in five by about {needed} test examples; there are "
               f"{len(inputs.test)}.")
    if place := inputs.evaluation_cuts.places.one_place():
        yield (f"In the evaluation examples {place}: they cannot tell a model that reads this place from one that "
               "finds what is asked for.")


def _hardly_moved(result: Result, condition: str) -> str:
    """How little the losses fell, in training and on the test answers; empty where they fell by more than `HARDLY`."""
    table = result.tables["training"]
    own = table[table["condition"] == condition] if len(table) else table
    if own.empty:
        return ""
    first, last = own["first_loss"].mean(), own["final_loss"].mean()
    before, after = (result.of(name, "answer_loss")["value"] for name in (UNTUNED, condition))
    if last < (1 - HARDLY) * first or abs(before - after) > HARDLY * before:
        return ""
    return (f"{first:.2f} to {last:.2f} nats per token in training (first and last quarter of {own['steps'].iloc[0]} "
            f"steps), {before:.2f} to {after:.2f} on the test answers")


def _needed(result: Result, conditions: list[str]) -> int:
    """Test examples by which a gain of `WORTH` would be shown with a probability of 0.8, at the spread of these sets.

    From the normal approximation of a paired comparison: ((1.96 + 0.84) x standard deviation / gain) squared.
    """
    column = result.metric if result.of(UNTUNED, "subspan") is None else "best_subspan_em"
    mean = result.tables["answers"].groupby(["condition", "example"])[column].mean().unstack("condition")
    spread = 0.0 if len(mean) < 2 else mean[conditions].sub(mean[UNTUNED], axis=0).std(ddof=1).max()
    return math.ceil((2.8 * spread / WORTH) ** 2)


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
    if len({len(examples) for examples in inputs.encoded.values()}) > 1:
        sizes = ", ".join(f"{name} {len(examples)}" for name, examples in inputs.encoded.items())
        yield f"Sets of unequal size ({sizes}): a larger set has an advantage that is not its quality."
    if len(request.seeds) == 1:
        yield ("One seed: how much another fine-tuning on the same set would differ is unknown, and is not in "
               "any interval here. Give --seeds 1 2 3.")
    elif len(request.seeds) < FEW_SEEDS:
        yield (f"Few seeds ({len(request.seeds)}): intervals are drawn over them, too, but of so few a bootstrap makes "
               "them too narrow.")
    if request.adapters:
        yield (f"Given adapters ({', '.join(request.adapters)}): on what, and how long, they were trained is "
               "not known here.")
    for name, cuts in inputs.cuts.items():
        for text in cuts.warnings():
            yield f"Training set {name}: {text}."
    for name, count in inputs.leaked.items():
        if count:
            yield (f"{count} evaluation examples share the prompt, the question, or needle and answer with a training "
                   f"example of {name}: its score is too high.")


def _of_heads(result: Result) -> Iterator[str]:
    if not result.inputs.finds_heads:
        return
    yield ("Intervals of shares of heads are over probe examples and seeds. A resampled score is blurred twice, so "
           "they are rather wide and lie rather low: a share may stand near the upper end of its own.")
    calibration = read_calibration()
    if calibration is not None and calibration.heads_against_cheaper_ones():
        yield (f"In this study's report, {calibration.heads_against_cheaper_ones()} in predicting how well a set "
               "teaches. Missing heads say where models differ; which set is better is said by the scores.")
