"""What a diagnosis says of heads, on parts whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_study import write_sets

from retrieval_heads.diagnose import Request
from retrieval_heads.diagnose.compare import result
from retrieval_heads.diagnose.inputs import read_inputs
from retrieval_heads.diagnose.limits import warnings
from retrieval_heads.diagnose.verdict import heads, knockout, patching, performance, verdict
from retrieval_heads.settings import UNTUNED

N_TEST = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture
def made(files: Path, tmp_path: Path):
    """Makes a result in which a set has 2 of the real run's 4 heads, and they close half of the gap in each seed.

    `score(condition, seed, head)` gives the head's score on each of the probe examples.
    """
    def make(score, seeds: tuple[int, ...] = (1,), n_probe: int = 3, able: float = 1.0):
        request = Request(str(files / "base"), {"low_low": files / "low_low.jsonl"}, files / "eval.jsonl", tmp_path,
                          real_train=files / "real.jsonl", bootstrap=400, seeds=seeds)
        inputs = read_inputs(request)
        inputs = replace(inputs, test=[inputs.test[0]] * N_TEST, probe=[inputs.probe[0]] * n_probe)

        def part(key, right: int):
            answers = [{"id": "", "prediction": "", "exact_match": 0.0, "citation_precision": 0.0,
                        "citation_recall": 0.0, "citation_f1": float(place < right),
                        "forced_exact_match": float(place < right), "answer_loss": 2.0 - (place < right),
                        "end_loss": 1.0, "answer_loss_without": 2.0} for place in range(N_TEST)]
            each = np.array([score(key.condition, key.seed, head) for head in range(8)], dtype=float)
            places = [{**key.columns, "layer": head // 4, "head": head % 4, "score": each[head].mean()}
                      for head in range(8)]
            return {"training": None, "answers": answers, "heads": places,
                    "each": each.T.reshape(n_probe, 2, 4).tolist()}

        right = {UNTUNED: 0, "real": 40, "low_low": 20}
        measured = {key: part(key, right[name]) for name in inputs.conditions for key in inputs.runs(name)}
        patched = {key: {"right": {
            "none": [[0.0] * N_TEST], "source": [[1.0] * N_TEST], "complement": [[1.0, 0.0] * (N_TEST // 2)],
            "random_complement": [[0.0] * N_TEST] * 2,
        }, "nll": {
            "none": [[3.0] * N_TEST], "source": [[1.0] * N_TEST], "complement": [[2.0] * N_TEST],
            "random_complement": [[3.0] * N_TEST] * 2,
        }, "patching": [
            {"condition": "low_low", "set": "complement", "metric": "nll", "n_heads": 2},
            {"condition": "low_low", "set": "source", "metric": "forced_exact_match", "value": able},
        ]}
            for key in inputs.runs("low_low")}
        knocked_out = {key: {"knockout": [
            {"condition": "low_low", "set": "none", "metric": "forced_exact_match", "value": able},
            {"condition": "low_low", "set": "none", "metric": "nll", "value": 1.5},
        ], "knockout_effects": [], "right": {
            "none": [[1.0] * N_TEST], "retrieval": [[float(key.seed == 1)] * N_TEST], "random": [[1.0] * N_TEST] * 2,
        }, "nll": {
            "none": [[1.5] * N_TEST], "retrieval": [[2.5] * N_TEST], "random": [[1.5] * N_TEST] * 2,
        }} for key in inputs.runs("low_low")}
        return result(inputs, measured, knocked_out, patched)

    return make


@pytest.fixture
def known(made):
    strong = {UNTUNED: 0, "real": 4, "low_low": 2}
    return made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3)


def test_known_parts_give_known_sentences(known):
    assert performance(known, "low_low").startswith("The model trained on it scores 0.50 (0.3")
    assert verdict(known, "low_low").kind == "teaches"
    assert "It teaches the task: the loss of the gold answer -0.50 (-0.6" in performance(known, "low_low")
    assert "falls short of real examples by 0.50" in performance(known, "low_low")
    assert heads(known, "low_low") == (
        "There are 4 retrieval heads among the real run's, of which it has 50% (in all samples): a share of fewer than "
        "5 says nothing. It misses, with their scores, layer 0 head 2 (0.50 there, 0.00 here); layer 0 head 3 (0.50 "
        "there, 0.00 here). Layers and heads count from 0.")
    said = patching(known, "low_low")
    assert "Patching the 2 missing heads back changes the right answers by +0.50 (+0.3" in said
    assert "by +0.00 (the same on all examples): the missing ones give more (+0.50 (" in said
    assert "closes 50% (" in said
    said = warnings(known)
    assert any("Few retrieval heads above 0.1 (real 4, low_low 2)" in line for line in said)
    assert not any("real set itself" in line or "Training hardly" in line for line in said)
    assert not any("Few test examples" in line for line in said)
    assert any("One seed" in line for line in said)
    assert not any("without fine-tuning" in line for line in said)
    assert any("score alike for untuned, real:" in line for line in said)
    assert any("recall of the real heads was" in line and "worse than probe loss" in line for line in said)


def test_shares_of_enough_heads_are_told_beside_chance(made):
    strong = {UNTUNED: 0, "real": 8, "low_low": 4}
    found = made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3)
    # 4 of the 8 heads, of which all are real ones: chance is 4 of 8, always
    assert heads(found, "low_low").startswith(
        "It has 50% (in all samples) of the real run's 8 retrieval heads, no more than random heads of the same "
        "layers, 50% (95% of draws: 50% to 50%); the model without fine-tuning has 0% (in all samples). 100% (in all "
        "samples) of its own 4 are among them. It misses, with their scores, layer 1 head 0 (0.50 there, 0.00 here)")


def test_losses_are_told_where_hardly_an_answer_is_right(made):
    strong = {UNTUNED: 0, "real": 6, "low_low": 2}
    few = made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3, able=0.1)
    assert knockout(few, "low_low") == (
        "Hardly an answer is right, so losses are told: without its own retrieval heads the loss of the gold answer "
        "rises by +1.00 (the same on all examples) from 1.50 nats per token, without as many random ones by +0.00 (the "
        "same on all examples): it depends on them.")
    said = patching(few, "low_low")
    assert said.startswith("Hardly an answer is right, so losses are told: patching the 2 missing heads back lowers "
                           "the loss of the gold answer by +1.00 (the same on all examples) nats per token")
    assert "Patching them closes 50% (in all samples) of the gap to the real run (+2.00" in said
    assert "closes 50% (" in patching(made(lambda condition, seed, head: [0.5] * 3), "low_low")


def test_recall_has_an_interval_over_probe_examples(made):
    # the real run's heads are sure; of the set's, one is sure and one is seen on half of the examples, at the threshold
    def score(condition, seed, head):
        if condition == "real":
            return [0.5 * (head < 2)] * 10
        return [0.5] * 10 if head == 0 else [0.2 * (head == 1), 0.0] * 5

    found = made(score, n_probe=10)
    row = found.of("low_low", "recall_of_real")
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.5, 0.5, 1.0, 2)
    table = found.tables["missed_heads"]
    assert table[["layer", "head", "real_score", "score", "missed", "n_seeds"]].to_numpy().tolist() == [
        [0, 1, 0.5, 0.1, 1, 1]]
    precision = found.of("low_low", "precision_of_real")
    assert (precision["value"], precision["low"], precision["high"]) == (1, 1, 1)


def test_several_seeds_are_resampled_with_the_examples(made):
    # in seed 1 the set has all heads and needs none of them, in seed 2 it has half of them and needs all
    found = made(lambda condition, seed, head: [0.5 * (head < (2 if (condition, seed) == ("low_low", 2) else 4))] * 3,
                 seeds=(1, 2))
    recall, lost = found.of("low_low", "recall_of_real"), found.of("low_low", "loss_without_retrieval")
    assert (recall["value"], recall["low"], recall["high"], recall["n_seeds"]) == (0.75, 0.5, 1, 2)
    assert tuple(lost[["value", "low", "high", "n_seeds"]]) == pytest.approx((0.5, 0, 1, 2))
    over = found.of("low_low", "loss_without_retrieval_over_random")
    assert tuple(over[["value", "low", "high"]]) == pytest.approx((0.5, 0, 1))
    assert "missed in 1 of 2 seeds" in heads(found, "low_low")
    assert any("Few seeds (2)" in line for line in warnings(found))


def test_a_task_that_needs_no_training_is_said_so(known):
    summary = known.tables["summary"].copy()
    summary.loc[(summary["condition"] == UNTUNED) & (summary["measure"] == "score"), ["value", "high"]] = 0.95, 1.0
    easy = replace(known, tables={**known.tables, "summary": summary})
    assert any("scores 0.95 without fine-tuning" in line and "leave next to nothing" in line for line in warnings(easy))
