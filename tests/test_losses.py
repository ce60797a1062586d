"""Losses on answers and on plain text, beside one row at a time without padding, hooks or chosen positions."""

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
from retrieval_heads.data.prompt_format import QUESTION
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ConfigError, DataError, HeadError
from retrieval_heads.evaluation import answer_losses
from retrieval_heads.heads.ablate import text_losses


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
