"""What a set teaches, in one word and in words: by best-subspan, answer loss and gain from context, not by F1 alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from retrieval_heads.diagnose.by_place import only_place
from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.told import plain, signed
from retrieval_heads.figures.style import metric_label
from retrieval_heads.settings import REFERENCE, UNTUNED

MEASURE = {"subspan": "best-subspan", "context_gain": "the gain from context", "score": "the score",
           "answer_loss": "the loss of the gold answer"}


@dataclass(frozen=True)
class Verdict:
    """What was found of one set.

    Attributes:
        kind: `teaches`, `one place only`, `flawed set`, `style only`, `harms` or `not shown`.
        text: a sentence or two.
    """

    kind: str
    text: str

    @property
    def teaches(self) -> bool:
        return self.kind == "teaches"


def verdict(result: Result, condition: str) -> Verdict:
    """The first of these that holds.

    `one place only`: it gains where the needle stands at one place, and is not shown to gain elsewhere. `flawed set`:
    it gains, but all its examples can be solved by reading one place. `teaches`: best-subspan rises, or the loss of
    the gold answer falls while the gain from context rises, beyond their intervals. `style only`: F1 rises or the
    loss of the answer falls, and neither best-subspan nor the gain from context rises. `harms`: best-subspan or the
    score falls.
    """
    place = only_place(result.tables["place_gains"], condition)
    if place is not None:
        return Verdict("one place only", _at_one_place(place))
    found, gain, loss, score = (
        result.of(condition, f"{name}over_untuned") for name in ("subspan_", "context_gain_", "answer_loss_", "")
    )
    if found is None:  # numbers of documents, in which there is no style to be learned
        found = score
    knows = _above(gain) and loss["high"] < 0
    if _above(found) or knows:
        changes = _changes(result, condition)
        if (cuts := result.inputs.cuts.get(condition)) is not None and (flaw := cuts.places.one_place()):
            return Verdict("flawed set", f"It gains ({changes}), but {flaw}: what it teaches may be to read that place")
        return Verdict("teaches", f"It teaches the task: {changes}, against no fine-tuning")
    if _above(score) or loss["high"] < 0:
        return Verdict("style only", _style(result, condition))
    if found["high"] < 0 or score["high"] < 0:
        return Verdict("harms", f"It harms: {_changes(result, condition)}, against no fine-tuning")
    return Verdict("not shown", f"That it teaches anything is not shown: {_changes(result, condition)}, against no "
                   "fine-tuning")


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
    unit = " nats a token" if row["measure"] == "context_gain" else ""
    return (
        f"It gains at one place only: where the needle stands in the {row['place']}, {MEASURE[row['measure']]} changes "
        f"by {row['gain']:+.2f}{unit} ({row['low']:+.2f} to {row['high']:+.2f}, {row['n']} examples), elsewhere by "
        f"{row['elsewhere']:+.2f} ({row['elsewhere_low']:+.2f} to {row['elsewhere_high']:+.2f}, {row['n_elsewhere']}). "
        "It teaches to read that place, not to find what is asked for"
    ).replace("in the document", "in document")


def _style(result: Result, condition: str) -> str:
    words = [result.of(name, "words")["value"] for name in (UNTUNED, condition)]
    end = result.of(condition, "end_loss_over_untuned")
    text = (f"It changes how answers are written; that more is found is not shown: {_changes(result, condition)}, "
            f"against no fine-tuning. Answers have {words[1]:.1f} words, {words[0]:.1f} before")
    return text if end is None else f"{text}; the loss of the end after the answer changes by {signed(end)}"


def _changes(result: Result, condition: str) -> str:
    """Each measure's change, with its interval."""
    told = []
    for name, label in (("subspan_", MEASURE["subspan"]), ("answer_loss_", MEASURE["answer_loss"]),
                        ("context_gain_", MEASURE["context_gain"]), ("", metric_label(result.metric))):
        if (row := result.of(condition, f"{name}over_untuned")) is not None:
            told.append(f"{label} {signed(row)}")
    return ", ".join(told)


def _above(row: pd.Series | None) -> bool:
    return row is not None and bool(row["low"] > 0)
