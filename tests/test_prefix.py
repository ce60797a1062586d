"""Sweeps: a suffix on a cached prefix gives what a whole pass under the same intervention gives."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.errors import ConfigError, DataError, HeadError, ModelError
from retrieval_heads.heads import cached, packing
from retrieval_heads.heads.ablate import MODES, ablate_heads, mean_head_outputs
from retrieval_heads.heads.cached import CachedPrompts, batches
from retrieval_heads.heads.forced import forced_metrics
from retrieval_heads.heads.patch import record_head_outputs, write_head_outputs
from retrieval_heads.heads.prefix import knockout_sweep, patch_sweep, source_answers

ALL = [(layer, head) for layer in range(3) for head in range(4)]
SETS = {"none": [], "two": [(2, 3), (0, 1)], "one": [(1, 0)], "all": ALL, "same": [(0, 1), (2, 3)]}
SLIDING = {  # windows that cut into the prompt; Qwen mixes full and sliding layers
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def means_of():
    return torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(3))


def build(tiny_model, family, seed=0, **settings):
    return tiny_model(family, seed, **(SLIDING.get(family, {}) | settings | {"head_dim": 12}))


def whole_logits(model, encoded):
    ids = torch.tensor([encoded.ids[:-1]])
    with torch.no_grad():
        return model(ids).logits[0, encoded.prompt_length - 1 :]


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
    model, means = build(tiny_model, family), means_of()
    found = by_key(knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, "answer", means))
    assert len(found) == 2 * len(SETS)
    for index, encoded in enumerate(encode_all(tiny_examples[:2], tiny_tokenizer)):
        for name, heads in SETS.items():
            with ablate_heads(model, heads, mode, rows_of(encoded), means):
                assert_same(found[name, index], whole_logits(model, encoded), encoded)
        assert abs(found["all", index]["nll"] - found["none", index]["nll"]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_copies_side_by_side_equal_single_passes(tiny_model, tiny_tokenizer, tiny_examples, family, implementation):
    model = build(tiny_model, family, attn_implementation=implementation)
    encoded = encode_all(tiny_examples, tiny_tokenizer)[-1]
    prompt = CachedPrompts(model, [encoded])
    expected = whole_logits(model, encoded)
    for copies in (1, 3):
        torch.testing.assert_close(prompt.logits(copies)[0], expected.expand(copies, -1, -1), **TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
def test_knockout_everywhere_is_a_whole_pass(tiny_model, tiny_tokenizer, tiny_examples, mode):
    model, means = build(tiny_model, "qwen3"), means_of()
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


def test_the_prefix_stays_as_it_was_also_after_an_exception(tiny_model, tiny_tokenizer, tiny_examples):
    for family in ("mistral", "llama"):
        model = build(tiny_model, family)
        prompt = CachedPrompts(model, encode_all(tiny_examples, tiny_tokenizer)[:1])
        first = prompt.logits()
        handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # by then the cache of two of three layers has grown
            prompt.logits()
        handle.remove()
        with ablate_heads(model, ALL):
            assert not torch.equal(prompt.logits(2)[0, :1], first[0])
        assert torch.equal(prompt.logits(), first)
        assert {layer.get_seq_length() for layer in prompt.cache.layers} == {prompt.length}


def test_a_prompt_of_one_token_has_no_prefix(tiny_model):
    model, encoded = build(tiny_model, "llama"), Encoded((1, 50, 51, 2), 1, 2, ())
    prompt = CachedPrompts(model, [encoded])
    for copies in (1, 2, 1):
        expected = whole_logits(model, encoded).expand(copies, -1, -1)
        torch.testing.assert_close(prompt.logits(copies)[0], expected, **TOLERANCE)


def test_exact_match_is_that_of_greedy_decoding_under_the_same_knockout(tiny_model, tiny_tokenizer, tiny_examples):
    model = build(tiny_model, "llama")
    tokens = torch.tensor([encode_all(tiny_examples, tiny_tokenizer)[0].ids[:40]])
    answers = set()
    for heads in ([], [(0, 1), (2, 3)], ALL[:8]):
        with ablate_heads(model, heads, positions=-1):
            generated = model.generate(tokens, max_new_tokens=5, do_sample=False, eos_token_id=-1)[0].tolist()
        answers.add(tuple(generated[40:]))
        other = [*generated[:-1], 60 + (generated[-1] == 60)]
        for ids, exact, accuracy in ((generated, 1.0, 1.0), (other, 0.0, 0.8)):
            prompt = CachedPrompts(model, [Encoded(tuple(ids), 40, 4, ())])
            with ablate_heads(model, heads):
                metrics = forced_metrics(prompt.logits()[0, 0], ids[40:])
            assert (metrics["exact_match"], metrics["token_accuracy"]) == (exact, accuracy)
    assert len(answers) == 3


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
            with write_head_outputs(target, heads, values, rows_of(encoded)):
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
    model, means = build(tiny_model, "mistral"), means_of()
    together = knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, MODES, scope, means)
    apart = [
        row for mode in MODES
        for row in knockout_sweep(model, tiny_tokenizer, tiny_examples[:2], SETS, mode, scope, means)
    ]
    assert sorted(together, key=str) == sorted(apart, key=str)
    assert len(together) == 3 * 2 * len(SETS)


def as_on_a_gpu(monkeypatch):
    """Examples and modes share passes; returns the list that gets the shape of the ids of each."""
    monkeypatch.setattr(cached, "shares_passes", lambda model: True)
    monkeypatch.setattr(packing, "shares_passes", lambda model: True)


def passes_of(model):
    shapes = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def assert_same_rows(found, expected):
    """Nothing but rounding is between two sweeps."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)
        assert one | {"nll": 0} == other | {"nll": 0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_examples_that_share_passes_get_what_each_gets_alone(
    tiny_model, tiny_tokenizer, tiny_examples, monkeypatch, family, implementation,
):
    model, source = (build(tiny_model, family, seed, attn_implementation=implementation) for seed in (0, 1))
    encoded, means = encode_all(tiny_examples, tiny_tokenizer), means_of()
    assert len({one.prompt_length for one in encoded}) > 1
    assert len({len(one.ids) - one.prompt_length for one in encoded}) > 1
    sweeps = [
        lambda: knockout_sweep(model, tiny_tokenizer, tiny_examples, SETS, MODES, "answer", means),
        lambda: patch_sweep(model, source, tiny_tokenizer, tiny_examples, SETS),
        lambda: knockout_sweep(model, tiny_tokenizer, tiny_examples, SETS, MODES, "answer", means, sets_per_pass=2),
    ]
    alone = [sweep() for sweep in sweeps]
    as_on_a_gpu(monkeypatch)
    shapes = passes_of(model)
    assert_same_rows(sweeps[0](), alone[0])
    assert [rows for rows, _ in shapes] == [len(encoded)] * 2  # the prompts, and 4 sets in 3 modes
    assert_same_rows(sweeps[1](), alone[1])
    assert len(shapes) == 4
    assert_same_rows(sweeps[2](), alone[2])
    assert len(shapes) == 7


def test_source_answers_and_means_of_examples_that_share_passes(tiny_model, tiny_tokenizer, tiny_examples, monkeypatch):
    model = build(tiny_model, "qwen3")

    def everything():
        means = [mean_head_outputs(model, tiny_tokenizer, tiny_examples, scope) for scope in ("answer", "all")]
        return source_answers(model, tiny_tokenizer, tiny_examples), means

    alone, means = everything()
    as_on_a_gpu(monkeypatch)
    shapes = passes_of(model)
    together, same_means = everything()
    assert len(shapes) == 4
    torch.testing.assert_close(same_means, means, **TOLERANCE)
    for one, other in zip(together, alone, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=1e-4)
        torch.testing.assert_close(one.outputs, other.outputs, **TOLERANCE)


def test_prompts_of_one_token_and_more_share_a_pass(tiny_model, monkeypatch):
    model = build(tiny_model, "mistral")
    batch = [Encoded((1, 50, 51, 2), 1, 2, ()), Encoded((1, *range(40, 60), 2), 15, 6, ())]
    prompts = CachedPrompts(model, batch)
    for copies in (1, 2, 1):
        for one, logits in zip(batch, prompts.logits(copies), strict=True):
            expected = whole_logits(model, one)
            torch.testing.assert_close(logits[:, : len(expected)], expected.expand(copies, -1, -1), **TOLERANCE)


def test_how_many_examples_share_a_pass(tiny_model, monkeypatch):
    model = build(tiny_model, "llama")
    examples = [Encoded(tuple(range(3, 60)), 50, 6, ())] * 10
    assert [len(batch) for batch in batches(model, examples)] == [1] * 10  # on a CPU
    as_on_a_gpu(monkeypatch)
    assert [len(batch) for batch in batches(model, examples)] == [10]
    assert batches(model, []) == []
    for limit, value in (("TOKENS", 200), ("ROWS", 4 * 7 * 3), ("CELLS", 4 * 21 * model.config.vocab_size)):
        with monkeypatch.context() as patched:
            patched.setattr(cached, limit, value)
            assert [len(batch) for batch in batches(model, examples, copies=3)] == [4, 4, 2], limit
            patched.setattr(cached, limit, 1)
            assert [len(batch) for batch in batches(model, examples, copies=3)] == [1] * 10


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


def test_recurrent_layers_are_refused_before_anything_is_run():
    config = AutoConfig.for_model(
        "qwen3_next", vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, linear_num_value_heads=2, linear_num_key_heads=1, linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=r"LinearAttentionLayer.*scope `all`"):
        CachedPrompts(model, [Encoded((1, 5, 6, 7), 2, 1, ())])


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
