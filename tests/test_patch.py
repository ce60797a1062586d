"""Patching: the target puts out what the source puts out at the chosen heads and rows, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_passes import ALL, IDS, n_hooks, run
from transformers import DynamicCache

from conftest import FAMILIES
from retrieval_heads.errors import HeadError, ModelError
from retrieval_heads.evaluation import evaluate, greedy_answers
from retrieval_heads.heads.ablate import ablate_heads
from retrieval_heads.heads.hooks import record_head_outputs
from retrieval_heads.heads.patch import patch_heads

SOME = [(0, 1), (1, 0), (1, 2)]
ANSWER = slice(-5, None)


def recorded(model, positions=None, **kwargs):
    with record_head_outputs(model, positions) as outputs:
        run(model, **kwargs)
    return outputs


def other_attention(model):
    """A copy whose query, key and value weights are others; all the rest is the same."""
    twin = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for name, weight in twin.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
                weight.data.normal_(std=0.3)
    return twin


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_from_the_same_weights_changes_no_bit_twice_in_a_row(tiny_model, family):
    model = tiny_model(family)
    baseline = run(model)
    for source in (model, copy.deepcopy(model)):
        for heads in (SOME, ALL, []):
            with patch_heads(model, source, heads, ANSWER):
                assert torch.equal(run(model), baseline)
                assert torch.equal(run(model), baseline)
        assert torch.equal(run(model), baseline)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_patched_put_out_exactly_what_the_source_does_at_the_answer(tiny_model, family):
    target, source = tiny_model(family), tiny_model(family, seed=1)
    expected = recorded(source)
    for positions in (ANSWER, None):
        with patch_heads(target, source, ALL, positions):
            found = recorded(target)
        for layer in range(3):
            assert torch.equal(found[layer][:, ANSWER], expected[layer][:, ANSWER])
    own = recorded(target)
    with patch_heads(target, source, ALL, ANSWER):
        before_answer = recorded(target, slice(0, -5))
    assert all(torch.equal(before_answer[layer], own[layer][:, :-5]) for layer in range(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_with_other_attention_weights_becomes_the_source(tiny_model, family):
    source = tiny_model(family)
    target = other_attention(source)
    assert (run(target) - run(source)).abs().max() > 0.1
    with patch_heads(target, source, ALL):
        assert torch.equal(run(target), run(source))


def test_only_the_chosen_heads_are_patched(tiny_model):
    target, source = tiny_model("qwen3"), tiny_model("qwen3", seed=1)
    own, theirs = recorded(target), recorded(source)
    with patch_heads(target, source, [(0, 2)]):
        found = recorded(target)
        assert (run(target) - run(tiny_model("qwen3"))).abs().max() > 0.01
    assert torch.equal(found[0][:, :, 2], theirs[0][:, :, 2])
    assert torch.equal(found[0][:, :, [0, 1, 3]], own[0][:, :, [0, 1, 3]])


def test_a_cache_given_to_the_target_stays_its_own(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    cache, alone = DynamicCache(), DynamicCache()
    with patch_heads(target, source, [(2, 0)]):  # a last-layer patch leaves the target's own keys as they are
        patched = run(target, past_key_values=cache)
    run(target, past_key_values=alone)
    assert cache.get_seq_length() == IDS.shape[1]
    assert torch.equal(cache.layers[2].keys, alone.layers[2].keys)
    with patch_heads(target, source, [(2, 0)]):
        assert torch.equal(run(target), patched)


def test_a_prefix_in_the_cache_is_refused(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    cache = DynamicCache()
    run(target, input_ids=IDS[:, :10], past_key_values=cache)
    with patch_heads(target, source, SOME), pytest.raises(ModelError, match=r"got 10.*inside the same"):
        run(target, input_ids=IDS[:, 10:], past_key_values=cache)
    assert n_hooks(target) == n_hooks(source) == 0


def test_a_source_run_once_on_given_inputs_gives_the_same(tiny_model):
    target, source, calls = tiny_model("gemma"), tiny_model("gemma", seed=1), []
    source.register_forward_pre_hook(lambda *_: calls.append(1))
    with patch_heads(target, source, SOME):
        expected = [run(target), run(target)]
    assert len(calls) == 2
    with patch_heads(target, source, SOME, inputs={"input_ids": IDS}):
        assert torch.equal(run(target), expected[0])
        assert torch.equal(run(target), expected[1])
    assert len(calls) == 3


def test_padded_batches_and_masks_over_the_batch(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    ids, attention = IDS.repeat(2, 1), torch.ones(2, IDS.shape[1], dtype=torch.long)
    attention[1, :7] = 0
    rows = torch.zeros(2, IDS.shape[1], dtype=torch.bool)
    rows[0, 3:6], rows[1, 20:] = True, True
    given = {"input_ids": ids, "attention_mask": attention}
    own, theirs = recorded(target, **given), recorded(source, **given)
    with patch_heads(target, source, [(0, 3)], rows):
        found = recorded(target, **given)
    assert torch.equal(found[0][:, :, 3][rows], theirs[0][:, :, 3][rows])
    assert torch.equal(found[0][:, :, 3][~rows], own[0][:, :, 3][~rows])
    with patch_heads(target, source, [(0, 3)], rows):
        assert torch.equal(recorded(target, input_ids=ids, attention_mask=attention)[0], found[0])
        positional = target(ids, attention)  # arguments without names reach the source too
    with patch_heads(target, source, [(0, 3)], rows):
        assert torch.equal(run(target, **given), positional.logits)


def test_unmerged_adapters_give_what_the_merged_models_give(tiny_model):
    def adapted(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                                init_lora_weights=False)
            return get_peft_model(tiny_model("llama"), config).eval()

    target, source = adapted(1), adapted(2)
    merged = adapted(1).merge_and_unload(), adapted(2).merge_and_unload()
    baseline = run(target)
    with patch_heads(target, source, SOME, ANSWER), patch_heads(*merged, SOME, ANSWER):
        patched, expected = run(target), run(merged[0])
    torch.testing.assert_close(patched, expected, rtol=1e-4, atol=1e-4)
    assert (patched - baseline).abs().max() > 0.1
    assert torch.equal(run(target), baseline)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_caches_is_patched_as_without(tiny_model, family):
    short = {} if family not in ("mistral", "gemma2") else {"sliding_window": 8}  # shorter than the prompt
    target, source = tiny_model(family, **short), tiny_model(family, seed=1, **short)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    alone = target.generate(IDS, **settings)
    with patch_heads(target, source, SOME):
        expected = target.generate(IDS, **settings, use_cache=False)
        assert torch.equal(target.generate(IDS, **settings), expected)
        assert torch.equal(target.generate(IDS, **settings), expected)  # and again, from empty caches
    assert not torch.equal(expected, alone)
    assert torch.equal(target.generate(IDS, **settings), alone)
    assert n_hooks(target) == n_hooks(source) == 0


def test_a_cache_that_was_altered_is_refused(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    with patch_heads(target, source, SOME):
        whole = run(target)
        for alter in (lambda cache: cache.crop(-1), lambda cache: cache.reorder_cache(torch.tensor([0]))):
            cache = DynamicCache()
            run(target, input_ids=IDS[:, :10], past_key_values=cache)
            last = run(target, input_ids=IDS[:, 10:], past_key_values=cache)[:, -1]
            torch.testing.assert_close(last, whole[:, -1])
            alter(cache)
            with pytest.raises(ModelError, match="beam search"):
                run(target, input_ids=IDS[:, :1], past_key_values=cache)


def test_evaluation_runs_patched_in_batches(tiny_model, tiny_tokenizer, tiny_examples):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    alone = greedy_answers(target, tiny_tokenizer, tiny_examples, batch_size=3)
    with patch_heads(target, source, ALL):
        one_by_one = greedy_answers(target, tiny_tokenizer, tiny_examples, batch_size=1)
        assert greedy_answers(target, tiny_tokenizer, tiny_examples, batch_size=3) == one_by_one
        assert evaluate(target, tiny_tokenizer, tiny_examples)["n"] == 5
    assert one_by_one != alone


def test_what_is_recorded_shows_interventions_in_force(tiny_model):
    model = tiny_model("llama")
    with ablate_heads(model, [(1, 2)]):
        assert not recorded(model)[1][:, :, 2].any()
    assert recorded(model)[1][:, :, 2].any()


def test_hooks_of_both_models_are_gone_after_an_exception(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    baseline = run(target)
    inside = []

    def fail():
        with patch_heads(target, source, SOME):
            inside.append(n_hooks(target))
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert inside[0] > 0
    assert n_hooks(target) == n_hooks(source) == 0
    with pytest.raises(HeadError, match="positions"), patch_heads(target, source, SOME, 99):
        run(target)
    with pytest.raises(RuntimeError, match="in the block"), record_head_outputs(source):
        raise RuntimeError("in the block")
    assert n_hooks(target) == n_hooks(source) == 0
    assert torch.equal(run(target), baseline)


@pytest.mark.parametrize("other", [{"num_attention_heads": 8}, {"num_hidden_layers": 2}, {"head_dim": 16},
                                   {"vocab_size": 410}])
def test_models_of_other_layouts_are_refused(tiny_model, other):
    target, source = tiny_model("llama"), tiny_model("llama", **other)
    with pytest.raises(ModelError, match=r"source: the target has .*\(3, 4, 12, \d+\)"), \
            patch_heads(target, source, SOME):
        pass
    assert n_hooks(target) == n_hooks(source) == 0


def test_values_that_do_not_fit_are_refused(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    for inputs, positions in ((IDS[:, :20], None), (IDS[:, :1], ANSWER)):  # one row would broadcast over the five
        n_rows = 24 if positions is None else 5
        message = rf"\[1, {n_rows}, 4, 12\].*\[1, {inputs.shape[1]}, 4, 12\].*same positions"
        with pytest.raises(HeadError, match=message), \
                patch_heads(target, source, SOME, positions, inputs={"input_ids": inputs}):
            run(target)
    with pytest.raises(HeadError, match=r"\(3, 0\)"), patch_heads(target, source, [(3, 0)]):
        run(target)


def test_a_part_of_the_target_run_alone_is_no_silent_no_op(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    with patch_heads(target, source, SOME), pytest.raises(ModelError, match="Call the target model itself"):
        target.model(IDS)
    with patch_heads(target, source, SOME):
        run(target)
        with pytest.raises(ModelError, match="Call the target model itself"):  # nor are old values used again
            target.model(IDS)


def test_values_of_a_pass_that_failed_are_not_used_again(tiny_model):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    with patch_heads(target, source, SOME):
        handle = target.lm_head.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(target)
        handle.remove()
        with pytest.raises(ModelError, match="Call the target model itself"):
            target.model(IDS)
