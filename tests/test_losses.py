"""Losses of answers and of plain text, beside plain passes and greedy answers, and without the gold documents."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import FAMILIES
from retrieval_heads.data import make_examples
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.examples import plain_text
from retrieval_heads.data.prompt_format import QUESTION, without_gold
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError, DataError, HeadError
from retrieval_heads.evaluation import answer_losses, evaluate_each
from retrieval_heads.heads.ablate import text_losses
from retrieval_heads.stages.gold_loss import CONTROLS, patching_sets
from retrieval_heads.stages.head_sets import RunHeads, controls


def loss_of(model, ids, first: int) -> float:
    """Nats a token of those from index `first` on, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double()
    each = [logits[at - 1].logsumexp(0) - logits[at - 1, ids[at]] for at in range(first, len(ids))]
    return float(sum(each) / len(each))


@pytest.mark.parametrize(
    ("family", "overrides"), [*((name, {}) for name in FAMILIES), ("mistral", {"sliding_window": 9})]
)
def test_answer_losses_are_those_of_each_example_by_itself(
    tiny_model, tiny_tokenizer, tiny_examples, family, overrides
):
    model = tiny_model(family, **overrides)
    encoded = encode_all(tiny_examples, tiny_tokenizer)
    # the end is one of the tokens: leaving it out gives something else
    assert all(one.ids[-1] == tiny_tokenizer.eos_token_id for one in encoded)
    by_hand = np.array([loss_of(model, one.ids, one.prompt_length) for one in encoded])
    without_end = np.array([loss_of(model, one.ids[:-1], one.prompt_length) for one in encoded])
    assert (np.abs(by_hand - without_end) > 1e-3).any()
    for batch_size in (1, 2, 5):
        found = answer_losses(model, tiny_tokenizer, tiny_examples, batch_size=batch_size)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_answer_losses_read_adapters_and_leave_the_mode_alone(tiny_model, tiny_tokenizer, tiny_examples):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(tiny_model("llama"), config).train()
    found = answer_losses(model, tiny_tokenizer, tiny_examples)
    assert model.training
    with model.disable_adapter():
        assert np.abs(answer_losses(model, tiny_tokenizer, tiny_examples) - found).max() > 1e-2
    np.testing.assert_array_equal(answer_losses(model, tiny_tokenizer, tiny_examples), found)


def test_answer_losses_refuse_what_cannot_be_scored(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    with pytest.raises(DataError, match="no examples"):
        answer_losses(model, tiny_tokenizer, [])
    with pytest.raises(DataError, match="more than the allowed 20"):
        answer_losses(model, tiny_tokenizer, tiny_examples, max_length=20)
    with pytest.raises(ConfigError, match="batch_size"):
        answer_losses(model, tiny_tokenizer, tiny_examples, batch_size=0)


def text_ids(n: int = 5, length: int = 24) -> torch.Tensor:
    return torch.randint(3, 350, (n, length), generator=torch.Generator().manual_seed(0))


def without_columns(model, heads):
    """A copy whose output projections do not read these heads."""
    without = copy.deepcopy(model)
    for layer, head in heads:
        attention = without.model.layers[layer].self_attn
        size = attention.head_dim
        attention.o_proj.weight.data[:, head * size : (head + 1) * size] = 0
    return without


@pytest.mark.parametrize("family", FAMILIES)
def test_text_losses_are_those_of_a_model_without_the_heads(tiny_model, family):
    model, ids = tiny_model(family), text_ids()
    sets = {"none": [], "two": [(0, 1), (2, 3)], "all": [(layer, head) for layer in range(3) for head in range(4)]}
    found = text_losses(model, ids, sets, batch_size=2)
    assert list(found) == list(sets)
    for label, heads in sets.items():
        by_hand = [loss_of(without_columns(model, heads), row, 1) for row in ids.tolist()]
        assert found[label].dtype == np.float64
        np.testing.assert_allclose(found[label], by_hand, rtol=1e-4)
    assert np.abs(found["two"] - found["none"]).min() > 1e-3
    np.testing.assert_array_equal(text_losses(model, ids, {"again": []}, batch_size=2)["again"], found["none"])


def test_text_losses_know_the_modes_of_knock_out(tiny_model):
    model, ids = tiny_model("llama"), text_ids(2)
    heads = {"heads": [(1, 0), (1, 1)]}
    zero, uniform = (text_losses(model, ids, heads, mode)["heads"] for mode in ("zero", "uniform"))
    nothing = text_losses(model, ids, heads, "mean", means=np.zeros((3, 4, 12), np.float32))["heads"]
    np.testing.assert_allclose(nothing, zero, rtol=1e-6)
    assert np.abs(uniform - zero).min() > 1e-4
    with pytest.raises(ConfigError, match="unknown knock-out mode"):
        text_losses(model, ids, heads, "half")
    with pytest.raises(HeadError):
        text_losses(model, ids, {"outside": [(3, 0)]})


def written(tokenizer, row: torch.Tensor) -> str:
    """The text of a row; the tokenizer puts a space after each newline."""
    return tokenizer.decode(row, skip_special_tokens=True).replace("\n ", "\n").strip()


def test_plain_text_is_documents_that_differ_without_a_question():
    tokenizer = embedded_tokenizer()
    rows = plain_text(tokenizer, n=4, length=600)
    assert (rows.shape, rows.dtype) == ((4, 600), torch.int64)
    for row in rows:
        text = written(tokenizer, row)
        assert QUESTION not in text
        assert "Answer:" not in text
        assert tokenizer.eos_token_id not in row.tolist()
        assert re.match(r"Document \d+: ", text)
        bodies = [block.split("\n", 1)[1] for block in text.split("\n\n")[:-1]]  # the last may be cut off
        assert len(bodies) > 3
        assert len(set(bodies)) == len(bodies)
        sentences = [sentence for body in bodies for sentence in re.split(r"(?<=[.]) ", body)]
        assert len(set(sentences)) == len(sentences)


def test_plain_text_depends_on_the_seed_and_the_split_alone():
    tokenizer = embedded_tokenizer()
    rows = plain_text(tokenizer, n=3, length=500)
    assert torch.equal(rows, plain_text(tokenizer, n=3, length=500))
    assert torch.equal(rows[:2], plain_text(tokenizer, n=2, length=500))
    assert not any(torch.equal(one, other) for index, one in enumerate(rows) for other in rows[:index])
    for other in ({"seed": 1}, {"split": "train"}):
        assert not torch.equal(rows, plain_text(tokenizer, n=3, length=500, **other))


def test_plain_text_is_of_the_world_of_the_examples():
    tokenizer = embedded_tokenizer()
    [row] = plain_text(tokenizer, n=1, length=500)
    [example] = make_examples(task="mdqa", condition="real", length=500 + 4 * 48, n=1, seed=0, split="test")
    assert example.prompt.startswith(written(tokenizer, row))


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
