"""Losses of the gold answer: beside greedy answers, without the gold documents, and under interventions."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import FAMILIES
from retrieval_heads.data import make_examples
from retrieval_heads.data.prompt_format import without_gold
from retrieval_heads.evaluation import answer_losses, evaluate_each
from retrieval_heads.stages.gold_loss import CONTROLS, patching_sets
from retrieval_heads.stages.head_sets import RunHeads, controls


@pytest.mark.parametrize("family", [*FAMILIES, "windows"])
def test_the_loss_beside_an_answer_is_that_of_a_pass_of_its_own(tiny_model, tiny_tokenizer, tiny_examples, family):
    windows = {"sliding_window": 16} if family == "windows" else {}
    model = tiny_model("mistral" if windows else family, **windows)
    expected = answer_losses(model, tiny_tokenizer, tiny_examples)
    plain = evaluate_each(model, tiny_tokenizer, tiny_examples)
    for size in (1, 2, 5):
        found = evaluate_each(model, tiny_tokenizer, tiny_examples, batch_size=size, losses=True)
        np.testing.assert_allclose(found["nll"], expected, rtol=1e-4)
        assert list(found["prediction"]) == list(plain["prediction"])


def test_without_its_gold_documents_an_example_has_the_same_question_and_fewer_documents():
    for task in ("mdqa", "musique", "summhay"):
        [example] = make_examples(task=task, condition="real", length=512, n=1, seed=3)
        found = without_gold(example)
        assert found.needles == ()
        assert found.answer == example.answer
        assert found.prompt.count("Document ") == example.prompt.count("Document ") - len(example.meta["gold"])
        assert found.prompt.endswith(example.prompt[example.prompt.rfind("Question:") :])
        statements = [example.prompt[start:end] for start, end in example.needles]
        assert not any(statement in found.prompt for statement in statements)


def heads_with(strong: list[tuple[int, int]], shape: tuple[int, int] = (6, 9)) -> RunHeads:
    scores = np.zeros(shape)
    for place, (layer, head) in enumerate(strong):
        scores[layer, head] = 0.9 - 0.05 * place
    return RunHeads(scores, scores, threshold=0.1)


def test_patched_sets_are_the_strongest_heads_of_the_source_and_random_ones_outside_both_runs():
    source, target = heads_with([(2, 1), (3, 4), (3, 5)]), heads_with([(2, 2), (3, 4)])
    sets = {(one.name, len(one.heads), one.draw): one.heads for one in patching_sets(source, target, (1, 3), 2, "x")}
    assert sets["none", 0, 0] == ()
    assert len(sets["all", 54, 0]) == 54
    assert sets["retrieval", 1, 0] == ((2, 1),)
    assert set(sets["retrieval", 3, 0]) == {(2, 1), (3, 4), (3, 5)}
    for draw in (1, 2):
        drawn = sets["random_layer", 3, draw]
        assert sorted(layer for layer, _ in drawn) == [2, 3, 3]
        assert not set(drawn) & {(2, 1), (3, 4), (3, 5), (2, 2)}


def test_controls_of_a_knock_out_share_no_head_with_the_strongest_and_have_their_size():
    run = heads_with([(2, 1), (3, 4), (3, 5), (4, 0)])
    for kind in CONTROLS:
        drawn = controls(kind, run.top(3), run, run.retrieval, 4, "x", 3)
        assert [one.draw for one in drawn] == [1, 2, 3, 4]
        for one in drawn:
            assert len(one.heads) == 3
            assert not set(one.heads) & set(run.retrieval)
            assert all(run.scores[head] == 0 for head in one.heads)
