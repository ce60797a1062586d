"""What a diagnosis says of a set that is flawed on purpose, of style without skill, and where nothing can be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from one_place import questions, write_case
from tiny_study import save_tiny_base

from retrieval_heads.check.shortcuts import places
from retrieval_heads.data.example import Example
from retrieval_heads.diagnose import Request
from retrieval_heads.diagnose.compare import Result, result, unevenness
from retrieval_heads.diagnose.inputs import Inputs, read_inputs
from retrieval_heads.diagnose.limits import warnings
from retrieval_heads.diagnose.report import report
from retrieval_heads.diagnose.verdict import performance, verdict
from retrieval_heads.diagnose.work import without_needles
from retrieval_heads.settings import UNTUNED

SHARE = {UNTUNED: (0.14, 0.29, 0.17), "real": (0.14, 0.29, 0.17), "A": (0.14, 0.14, 0.17), "B": (0.86, 0.0, 0.0)}
"""Best-subspan with the gold document at place 1, 2, 3, as was seen on 7, 7 and 6 examples of a real model."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    """The made case, with half of 40 evaluation examples for the test, as that newcomer had."""
    folder = write_case(tmp_path_factory.mktemp("case"), n=40)
    save_tiny_base(folder / "base")
    sets = {name: folder / f"{name}.jsonl" for name in ("A", "B")}
    found = read_inputs(Request(str(folder / "base"), sets, folder / "eval.jsonl", folder / "out",
                                real_train=folder / "real.jsonl", bootstrap=500))
    return replace(found, test=questions([number % 3 for number in range(20)], seed=3))


Rows = Callable[[str, int, int], Mapping[str, float]]


def made(inputs: Inputs, rows: Rows, training: Mapping[str, float] | None = None) -> Result:
    """A result with these answers: `rows(condition, gold, number)` of the `number`-th example with gold at `gold`."""
    def part(condition: str) -> dict:
        answers = [{
            "id": "", "prediction": "so", "exact_match": 0.0, "f1": 0.1, "best_subspan_em": 0.0, "answer_loss": 2.0,
            "end_loss": 1.0, "answer_loss_without": 3.0, "forced_exact_match": 0.0, **rows(condition, place % 3,
                                                                                         place // 3),
        } for place in range(len(inputs.test))]
        told = {"examples": 40, "steps": 12, "tokens": 9000, "first_loss": 3.0, "final_loss": 1.0, "mean_loss": 2.0}
        return {"training": None if condition == UNTUNED else told | dict(training or {}), "answers": answers,
                "heads": [], "each": []}

    inputs = replace(inputs, probe=[replace(one, needles=()) for one in inputs.probe])
    return result(inputs, {key: part(name) for name in inputs.conditions for key in inputs.runs(name)}, {}, {})


def as_seen(condition: str, gold: int, number: int) -> dict[str, float]:
    """F1 rises for both sets; best-subspan as it was, the loss in the same way."""
    right = float(number < round(SHARE[condition][gold] * (7 if gold < 2 else 6)))
    style = 0.0 if condition == UNTUNED else 0.15
    return {"best_subspan_em": right, "f1": 0.06 + style + 0.2 * right, "answer_loss": 2.0 - right - style,
            "answer_loss_without": 2.0 - style, "end_loss": 8.0 - 20 * style}


@pytest.fixture(scope="module")
def seen(inputs: Inputs) -> Result:
    return made(inputs, as_seen)


def test_the_flawed_set_is_never_praised(seen: Result):
    assert verdict(seen, "B").kind == "one place only"
    said = performance(seen, "B")
    assert "teaches the task" not in said
    assert "gains at one place only: where the needle stands in document 1, " in said
    assert "It teaches to read that place, not to find what is asked for" in said


def test_shorter_answers_are_style(seen: Result):
    assert verdict(seen, "A").kind == "style only"
    said = performance(seen, "A")
    assert "It changes how answers are written; that more is found is not shown: best-subspan -0.05" in said
    assert "the loss of the end after the answer changes by -3.00" in said
    assert "real examples teach is not shown either" in said


def test_the_report_says_what_cannot_be_said(seen: Result):
    said = " ".join(warnings(seen))
    assert "The real set itself is not shown to teach" in said
    assert "Training set B: 40 of 40 needles stand in the first document (evenly spread it would be 13)" in said
    assert "Training set A: " not in said
    assert "would be shown four times in five by about " in said
    page = report(seen, [])
    for part in ("document 1 (n 7)", "one place only", "style only", "loss, last quarter", "gain from context"):
        assert part in page
    assert "Training hardly moved" not in said


def test_a_skill_at_all_places_is_taught(inputs: Inputs):
    def skilled(condition: str, gold: int, number: int) -> dict[str, float]:
        learned = condition in ("A", "real")
        right = float(number % 4 != 3) if learned else float(number % 4 == 3)
        return {"best_subspan_em": right, "f1": right, "answer_loss": 2.0 - 1.5 * learned}

    found = made(inputs, skilled)
    assert verdict(found, "A").kind == "teaches"
    assert "It teaches the task: best-subspan +0.70" in performance(found, "A")
    assert "A difference to real examples is not shown" in performance(found, "A")
    assert not any("real set itself" in text for text in warnings(found))
    assert verdict(found, "B").kind == "not shown"
    assert "It falls short of real examples by 0.70" in performance(found, "B")


def test_a_set_of_one_place_that_gains_everywhere_is_still_not_praised(inputs: Inputs):
    found = made(inputs, lambda condition, gold, number: {"best_subspan_em": float(condition == "B")})
    assert verdict(found, "B").kind == "flawed set"
    assert "40 of 40 needles stand in the first document" in performance(found, "B")


def test_harm_is_told(inputs: Inputs):
    found = made(inputs, lambda condition, gold, number: {"best_subspan_em": float(condition == UNTUNED)})
    assert verdict(found, "A").kind == "harms"


def test_training_that_hardly_moved_is_told(inputs: Inputs):
    found = made(inputs, lambda condition, gold, number: {"answer_loss": 2.0 if condition == UNTUNED else 1.95},
                 {"first_loss": 3.2, "final_loss": 3.1})
    [said] = [text for text in warnings(found) if text.startswith("Training hardly moved")]
    assert "A 3.20 to 3.10 nats per token in training (first and last quarter of 12 steps), 2.00 to 1.95 on" in said


def test_an_evaluation_at_one_place_cannot_tell(inputs: Inputs, tmp_path: Path):
    folder = write_case(tmp_path, n=20)
    request = replace(inputs.request, evaluation=folder / "B.jsonl", train={"A": folder / "real.jsonl"},
                      real_train=None)
    found = made(replace(read_inputs(request), test=inputs.test), as_seen)
    assert any("In the evaluation examples 20 of 20 needles stand in the first document" in text
               for text in warnings(found))


def test_leaks_of_question_or_needle_are_counted(inputs: Inputs, tmp_path: Path):
    folder = write_case(tmp_path, n=20)
    request = replace(inputs.request, evaluation=folder / "A.jsonl", train={"B": folder / "B.jsonl"}, real_train=None)
    assert read_inputs(request).leaked == {"B": 20}  # the same questions, in other prompts
    assert read_inputs(replace(request, train={"A": folder / "real.jsonl"})).leaked == {"A": 0}
    lines = (folder / "A.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "twice.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n", encoding="utf-8")
    assert read_inputs(replace(request, evaluation=folder / "twice.jsonl")).leaked == {"B": 21}  # each that is known


def test_uneven_gains_have_a_small_probability_and_even_ones_a_uniform_one():
    at = np.array(["document 1", "document 2", "document 3"] * 8)
    found = unevenness(np.where(at == "document 2", 1.0, 0.0), at)
    assert found["document 2"] < 0.002
    assert found["document 1"] > 0.5
    rng = np.random.default_rng(1)
    least = [min(unevenness(rng.normal(size=24), at, n=200).values()) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(least) < 0.05) <= 0.10
    assert unevenness(np.ones(3), np.array(["document 1"] * 3)) == {}


def test_places_are_documents_where_there_are_few_and_thirds_otherwise():
    assert places(questions([0, 2])) == ["document 1", "document 3"]
    assert places(questions([0, 5, 11], n_documents=12)) == ["first third", "middle third", "last third"]
    plain = Example("own", "It is nine. " + "So. " * 30 + "Question: when?", "nine", needles=((0, 11),))
    assert places([plain, replace(plain, needles=())]) == ["first third", ""]


def test_needles_are_cut_out():
    example = questions([1])[0]
    bare = without_needles(example)
    assert example.needle_texts()[0] not in bare.prompt
    assert len(bare.prompt) == len(example.prompt) - len(example.needle_texts()[0])
    assert bare.needles == ()
    assert without_needles(bare) is None
    assert without_needles(Example("own", "nine", "nine", needles=((0, 4),))) is None
