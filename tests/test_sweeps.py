"""Sweeps: a suffix on a cached prefix gives what a whole pass under the same intervention gives."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_passes import SETS, build, random_means, whole_logits

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.errors import ConfigError, DataError, HeadError, ModelError
from retrieval_heads.heads.ablate import MODES, ablate_heads
from retrieval_heads.heads.hooks import head_masks, output_hooks, record_head_outputs
from retrieval_heads.heads.sweeps import forced_metrics, knockout_sweep, patch_sweep
from retrieval_heads.models.layout import head_layout


def rows_of(encoded):
    return slice(encoded.prompt_length - 1, None)


def by_key(rows):
    return {(row["set"], row["example"]): row for row in rows}


def assert_same(row, logits, encoded):
    expected = forced_metrics(logits, encoded.ids[encoded.prompt_length :])
    assert row["nll"] == pytest.approx(expected["nll"], abs=1e-4)
    assert (row["exact_match"], row["token_accuracy"]) == (expected["exact_match"], expected["token_accuracy"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_knockout_at_the_answer_equals_a_whole_pass(tiny_model, tiny_tokenizer, tiny_examples, family, mode):
    model, means = build(tiny_model, family), random_means()
    found = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, "answer", means))
    assert len(found) == 2 * len(SETS)
    for index, encoded in enumerate(encode_all(tiny_examples[:2], tiny_tokenizer)):
        for name, heads in SETS.items():
            with ablate_heads(model, heads, mode, rows_of(encoded), means):
                assert_same(found[name, index], whole_logits(model, encoded), encoded)
        assert abs(found["all", index]["nll"] - found["none", index]["nll"]) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_knockout_everywhere_is_a_whole_pass(tiny_model, tiny_tokenizer, tiny_examples, mode):
    model, means = build(tiny_model, "qwen3"), random_means()
    found = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, "all", means))
    answer = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, "answer", means))
    for index, encoded in enumerate(encode_all(tiny_examples[:2], tiny_tokenizer)):
        for name, heads in SETS.items():
            with ablate_heads(model, heads, mode, means=means):
                assert_same(found[name, index], whole_logits(model, encoded), encoded)
        # a head that is out only at the answer still fills the keys of the prompt (without any heads nothing moves)
        assert abs(found["two", index]["nll"] - answer["two", index]["nll"]) > 1e-3


def test_the_order_of_the_head_sets_changes_no_bit(tiny_model, tiny_tokenizer, tiny_examples):
    model, source = build(tiny_model, "gemma"), build(tiny_model, "gemma", seed=1)
    shuffled = {name: SETS[name][::-1] for name in ("all", "same", "one", "none", "two")}
    for per_pass in (1, 2, 16):
        sweeps = [
            (knockout_sweep(model, tiny_tokenizer, tiny_examples, sets, sets_per_pass=per_pass),
             patch_sweep(model, source, tiny_tokenizer, tiny_examples, sets, sets_per_pass=per_pass))
            for sets in (SETS, shuffled, SETS)
        ]
        for first, other in zip(sweeps[0] * 2, sweeps[1] + sweeps[2], strict=True):
            assert by_key(first) == by_key(other)
        assert [row["set"] for row in sweeps[1][0][:5]] == list(shuffled)


def test_how_many_sets_share_a_pass_does_not_matter(tiny_model, tiny_tokenizer, tiny_examples):
    model = build(tiny_model, "mistral")
    single = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples, SETS, "uniform", sets_per_pass=1))
    for per_pass in (2, 3, 16):
        rows = knockout_sweep(model, tiny_tokenizer, tiny_examples, SETS, "uniform", sets_per_pass=per_pass)
        for key, row in by_key(rows).items():
            assert row["nll"] == pytest.approx(single[key]["nll"], abs=1e-5)
            assert row["exact_match"] == single[key]["exact_match"]


@pytest.mark.parametrize("family", FAMILIES)
def test_patch_sweep_equals_writing_the_sources_rows_in_a_whole_pass(
    tiny_model, tiny_tokenizer, tiny_examples, family
):
    target, source = build(tiny_model, family), build(tiny_model, family, seed=1)
    found = by_key(patch_sweep(target, source, tiny_tokenizer, tiny_examples[:2], SETS))
    for index, encoded in enumerate(encode_all(tiny_examples[:2], tiny_tokenizer)):
        with record_head_outputs(source, rows_of(encoded)) as values:
            whole_logits(source, encoded)
        for name, heads in SETS.items():
            masks = head_masks(head_layout(target), heads)
            with output_hooks(head_layout(target), masks, values.__getitem__, rows_of(encoded)):
                assert_same(found[name, index], whole_logits(target, encoded), encoded)
        assert abs(found["all", index]["nll"] - found["none", index]["nll"]) > 1e-3


def test_patching_all_heads_into_other_attention_weights_gives_the_source(tiny_model, tiny_tokenizer, tiny_examples):
    source = build(tiny_model, "qwen2")
    target = copy.deepcopy(source)
    for name, weight in target.named_parameters():
        if "q_proj" in name:
            weight.data.mul_(-1)
    rows = by_key(patch_sweep(target, source, tiny_tokenizer, tiny_examples, SETS))
    alone = by_key(knockout_sweep(source, tiny_tokenizer, tiny_examples, {"none": []}))
    for index in range(len(tiny_examples)):
        assert rows["all", index]["nll"] == pytest.approx(alone["none", index]["nll"], abs=1e-4)
        assert abs(rows["none", index]["nll"] - alone["none", index]["nll"]) > 1e-3


def test_a_patch_from_the_model_itself_is_the_baseline(tiny_model, tiny_tokenizer, tiny_examples):
    model = build(tiny_model, "qwen3")
    sweeps = [patch_sweep(model, model, tiny_tokenizer, tiny_examples, SETS, sets_per_pass=1) for _ in range(2)]
    assert sweeps[0] == sweeps[1]
    found = by_key(sweeps[0])
    baseline = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples, {"none": []}, sets_per_pass=1))
    for (name, index), row in found.items():
        assert row["nll"] == baseline["none", index]["nll"], name


def test_unmerged_adapters_work_in_both_sweeps(tiny_model, tiny_tokenizer, tiny_examples):
    def adapted(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                                init_lora_weights=False)
            return get_peft_model(build(tiny_model, "mistral"), config).eval()

    target, source = adapted(1), adapted(2)
    merged = adapted(1).merge_and_unload(), adapted(2).merge_and_unload()
    for ours, theirs in (
        (knockout_sweep(target, tiny_tokenizer, tiny_examples[:2], SETS, "uniform"),
         knockout_sweep(merged[0], tiny_tokenizer, tiny_examples[:2], SETS, "uniform")),
        (patch_sweep(target, source, tiny_tokenizer, tiny_examples[:2], SETS),
         patch_sweep(*merged, tiny_tokenizer, tiny_examples[:2], SETS)),
    ):
        assert [row["nll"] for row in ours] == pytest.approx([row["nll"] for row in theirs], abs=1e-3)
        assert len({round(row["nll"], 4) for row in ours[:5]}) == 4  # "two" and "same" are one set


def test_rows_are_tidy(tiny_model, tiny_tokenizer, tiny_examples):
    rows = knockout_sweep(build(tiny_model, "llama"), tiny_tokenizer, tiny_examples, SETS)
    assert [(row["set"], row["k"], row["example"]) for row in rows] == [
        (name, len(heads), index) for index in range(5) for name, heads in SETS.items()
    ]
    keys = ["set", "k", "mode", "scope", "example", "exact_match", "token_accuracy", "nll"]
    assert all(list(row) == keys for row in rows)
    assert rows[0]["mode"] == "zero"
    assert rows[0]["scope"] == "answer"
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_several_modes_in_one_sweep_are_the_sweeps_one_by_one(tiny_model, tiny_tokenizer, tiny_examples, scope):
    model, means = build(tiny_model, "mistral"), random_means()
    together = knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, MODES, scope, means)
    apart = [
        row for mode in MODES
        for row in knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, scope, means)
    ]
    assert sorted(together, key=str) == sorted(apart, key=str)
    assert len(together) == 3 * 2 * len(SETS)


def test_any_end_is_right_for_an_end():
    logits = torch.eye(4)[[2, 3, 0]]  # says 2, 3, 0
    assert forced_metrics(logits, [2, 3, 1])["exact_match"] == 0
    assert forced_metrics(logits, [2, 3, 1], {0, 1})["exact_match"] == 1
    assert forced_metrics(logits, [2, 1, 1], {0, 1})["token_accuracy"] == pytest.approx(2 / 3)  # 3 is no end


def test_forced_metrics_by_hand():
    logits = torch.full((3, 4), 0.0)
    logits[0, 2] = logits[1, 1] = logits[2, 3] = math.log(3)  # probabilities 3/6 and three times 1/6
    assert forced_metrics(logits, [2, 1, 3]) == pytest.approx(
        {"exact_match": 1.0, "token_accuracy": 1.0, "nll": math.log(2)}
    )
    assert forced_metrics(logits, torch.tensor([2, 0, 3])) == pytest.approx(
        {"exact_match": 0.0, "token_accuracy": 2 / 3, "nll": (2 * math.log(2) + math.log(6)) / 3}
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [({"scope": "prompt"}, ConfigError, "answer, all"), ({"mode": "gone"}, ConfigError, "zero, mean, uniform"),
     ({"mode": "mean"}, ConfigError, "mean_head_outputs"), ({"sets_per_pass": 0}, ConfigError, "sets_per_pass"),
     ({"head_sets": {"bad": [(0, 9)]}}, HeadError, r"\(0, 9\)"), ({"max_length": 20}, DataError, "allowed 20")],
)
def test_bad_arguments_name_value_and_remedy(tiny_model, tiny_tokenizer, tiny_examples, settings, error, message):
    with pytest.raises(error, match=message):
        knockout_sweep(build(tiny_model, "llama"), tiny_tokenizer, tiny_examples, **{"head_sets": SETS} | settings)


def test_longer_examples_than_the_model_takes_are_refused(tiny_model, tiny_tokenizer, tiny_examples):
    short = build(tiny_model, "llama", max_position_embeddings=30)
    with pytest.raises(DataError, match="allowed 30"):
        knockout_sweep(short, tiny_tokenizer, tiny_examples, SETS)
    with pytest.raises(DataError, match="allowed 30"):
        patch_sweep(short, short, tiny_tokenizer, tiny_examples, SETS)


def test_models_of_other_layouts_are_refused(tiny_model, tiny_tokenizer, tiny_examples):
    target, source = build(tiny_model, "llama"), build(tiny_model, "llama", num_hidden_layers=2)
    with pytest.raises(ModelError, match="one architecture"):
        patch_sweep(target, source, tiny_tokenizer, tiny_examples, SETS)
