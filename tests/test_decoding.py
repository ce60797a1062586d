"""Greedy decoding: batches by length, padding on the left, what ends an answer, and the tokens of a plain loop."""

from __future__ import annotations

from itertools import takewhile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES
from retrieval_heads.attention import capture
from retrieval_heads.decoding import (
    end_tokens,
    greedy_continuations,
    greedy_tokens,
    keeps_all_keys,
    length_batches,
    make_batch,
)
from retrieval_heads.errors import DataError

PROMPTS = [[1, 9, 30, 4], [1, 8, 100, 101, 102, 7, 20, 21, 22], [1, 77]]


def plain(model, prompt: list[int], stop, limit: int) -> list[int]:
    """One prompt alone, the whole sequence run again for every token."""
    said: list[int] = []
    while len(said) < limit and not (said and stop(said[-1])):
        with torch.no_grad():
            said.append(int(model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits[0, -1].argmax()))
    return said


def learned_positions():
    """A model that adds a learned vector for each position: it notices when the padding is counted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(
            "gpt2", vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5,
        )).eval()


@pytest.mark.parametrize("family", [*FAMILIES, "learned positions"])
def test_a_batch_says_what_its_prompts_say_alone(tiny_model, family):
    model = learned_positions() if family == "learned positions" else tiny_model(family)
    free = [plain(model, prompt, lambda token: False, 8) for prompt in PROMPTS]
    ends = {free[0][1], free[1][4]}
    for stop in (lambda token: False, lambda token: token in ends):
        expected = [plain(model, prompt, stop, 8) for prompt in PROMPTS]
        for batches in ([[0, 1, 2]], [[2, 0], [1]], [[1], [0], [2]]):
            assert greedy_tokens(model, PROMPTS, batches, stop, 8) == (expected, [])
    assert any(len(said) < 8 for said in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_rows_of_few_queries_give_the_same_tokens_and_losses(tiny_model, family, monkeypatch):
    """What short passes compute on a GPU, where SDPA would copy the keys to every head of a group."""
    model, short, shapes = tiny_model(family), capture.short_attention, []
    references = [[5, 6, 7], [8], [9, 10]] if keeps_all_keys(model) else None
    wanted = greedy_tokens(model, PROMPTS, [[0, 1, 2]], lambda token: False, 6, references)

    def seen(query, *rest):
        shapes.append(query.shape[2])
        return short(query, *rest)

    monkeypatch.setattr(capture, "short_attention", seen)
    def after_cache(query, key, mask):
        return mask is not None and query.shape[2] < key.shape[2]

    monkeypatch.setattr(capture, "copies_keys", after_cache)
    tokens, losses = greedy_tokens(model, PROMPTS, [[0, 1, 2]], lambda token: False, 6, references)
    assert tokens == wanted[0]
    assert losses == pytest.approx(wanted[1], abs=1e-5)
    layers = model.config.num_hidden_layers
    assert shapes == [2] * layers * (references is not None) + [1] * layers * 5


def test_attention_with_a_bias_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(capture, "copies_keys", lambda query, key, mask: True)
    monkeypatch.setattr(capture, "short_attention", lambda *_: "short")
    monkeypatch.setattr(capture, "sdpa_attention_forward", lambda *_, **given: given["position_bias"])
    states = (torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 1, 3).bool())
    assert capture._attention(torch.nn.Identity(), *states, position_bias=None) == ("short", None)
    assert capture._attention(torch.nn.Identity(), *states, position_bias="bias") == "bias"


def test_a_continuation_has_neither_the_end_token_nor_what_follows(tiny_model):
    model = tiny_model("llama")
    free = greedy_continuations(model, PROMPTS, None, 6)
    assert [len(said) for said in free] == [6, 6, 6]
    end = free[1][0]
    found = greedy_continuations(model, PROMPTS, end, 6, batch_size=2)
    assert found == [said[: said.index(end)] if end in said else said for said in free]
    assert found[1] == ()
    assert greedy_continuations(model, [], end, 6) == []


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("given", ["generation config", "config", "argument"])
def test_every_end_of_the_model_ends_an_answer(tiny_model, given: str, adapted: bool):
    model = tiny_model("llama")
    free = greedy_continuations(model, PROMPTS, None, 6)
    ends = {free[0][3], free[1][0]}
    if given == "config":
        model.config.eos_token_id = sorted(ends)
    elif given == "generation config":
        model.generation_config.eos_token_id = [2, *sorted(ends)]
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    asked = ends if given == "argument" else 2
    expected = [tuple(takewhile(lambda token: token not in ends, said)) for said in free]
    assert greedy_continuations(model, PROMPTS, asked, 6, batch_size=2) == expected
    assert ends <= end_tokens(model, asked)
    assert greedy_continuations(model, PROMPTS, None, 6) == free


def test_ids_that_the_model_does_not_have_are_refused(tiny_model):
    with pytest.raises(DataError, match=r"prompt 1: a token id is beyond the 400 of the model \(got 400\)\. Use"):
        greedy_continuations(tiny_model("llama"), [[1, 5], [1, 400]], 2, 3)


LENGTHS = st.lists(st.integers(1, 50), max_size=20)


@settings(deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 6))
def test_batches_hold_every_row_once_the_longest_first(lengths, batch_size):
    batches = length_batches(lengths, batch_size)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size


def test_rows_are_padded_on_the_right_and_without_a_mask_where_all_keys_are_kept(tiny_model):
    model = tiny_model("llama")
    assert keeps_all_keys(model)
    batch = make_batch(model, [[5, 6, 7], [8]])
    assert {name: values.tolist() for name, values in batch.inputs.items()} == {"input_ids": [[5, 6, 7], [8, 8, 8]]}
    assert (batch.mask.tolist(), batch.last.tolist()) == ([[1, 1, 1], [1, 0, 0]], [2, 0])
    assert batch.lengths.tolist() == [3, 1]


def test_rows_end_together_and_positions_count_from_their_first_token_where_a_window_forgets(tiny_model):
    model = tiny_model("mistral")
    assert not keeps_all_keys(model)
    batch = make_batch(model, [[5, 6, 7], [8]])
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 8, 8]]
    assert batch.inputs["attention_mask"].tolist() == batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert (batch.last.tolist(), batch.lengths.tolist()) == ([2, 2], [3, 1])
