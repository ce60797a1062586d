"""What all interventions share: the order of heads, long prompts, failures, and prompts in the cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_passes import ALL, IDS, SETS, build, n_hooks, random_means, run, whole_logits
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.errors import DataError, HeadError, ModelError
from retrieval_heads.evaluation import evaluate, forced_exact, greedy_answers
from retrieval_heads.heads import cached_prompts
from retrieval_heads.heads.ablate import MODES, ablate_heads, mean_head_outputs
from retrieval_heads.heads.cached_prompts import CachedPrompts, batches
from retrieval_heads.heads.hooks import record_head_outputs
from retrieval_heads.heads.patch import patch_heads
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import forced_metrics, knockout_sweep, patch_sweep, source_answers

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


def state(model) -> tuple:
    """What an intervention may leave behind: hooks, the attention implementation, evaluation mode."""
    return n_hooks(model), model.config._attn_implementation, model.training


def means_of(model):
    with record_head_outputs(model) as outputs:
        run(model)
    return torch.stack([outputs[layer][0].mean(0) for layer in range(3)])


def blocks(target, source) -> dict[str, Callable]:
    """Every way to open a block in which heads are changed, by name."""
    means = means_of(target)
    made = {mode: lambda heads, mode=mode: ablate_heads(target, heads, mode, means=means) for mode in MODES}
    made["patch"] = lambda heads: patch_heads(target, source, heads)
    made["patch once"] = lambda heads: patch_heads(target, source, heads, inputs={"input_ids": IDS})
    return made


BLOCKS = [*MODES, "patch", "patch once"]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_order_of_heads_and_repetitions_change_no_bit(tiny_model, name):
    target = tiny_model("llama")
    block, found = blocks(target, tiny_model("llama", seed=1))[name], []
    for heads in (HEADS, HEADS[::-1], [*HEADS, HEADS[0]], iter(HEADS), set(HEADS)):
        with block(heads):
            found.append(run(target))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert (found[0] - run(target)).abs().max() > 1e-3


@pytest.mark.parametrize("head", [(3, 0), (-1, 0), (0, 4), (0, -1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_head_outside_the_model_is_refused_before_anything_is_run(tiny_model, name, head):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    block, before = blocks(target, source)[name], (state(target), state(source))
    message = rf"heads: the model has layers 0 to 2 and heads 0 to 3 \(got \({head[0]}, {head[1]}\)\)\. Take heads"
    with pytest.raises(HeadError, match=message), block([*HEADS, head]):
        pass
    assert (state(target), state(source)) == before


def test_sweeps_refuse_a_head_outside_the_model(tiny_model, tiny_tokenizer, tiny_examples):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    for sweep in (lambda sets: knockout_sweep(target, tiny_tokenizer, tiny_examples, sets),
                  lambda sets: patch_sweep(target, source, tiny_tokenizer, tiny_examples, sets)):
        with pytest.raises(HeadError, match=r"layers 0 to 2 and heads 0 to 3 \(got \(3, 0\)\)"):
            sweep({"none": [], "bad": [(0, 0), (3, 0)]})


def calls(target, source, tokenizer, examples) -> dict[str, Callable]:
    """Every public computation on examples, by name."""
    sets = {"none": [], "some": HEADS}
    return {
        "score_heads": lambda: score_heads(target, tokenizer, examples),
        "score_heads generated": lambda: score_heads(target, tokenizer, examples, mode="generated", max_new_tokens=2),
        "evaluate": lambda: evaluate(target, tokenizer, examples, n_resamples=10),
        "greedy_answers": lambda: greedy_answers(target, tokenizer, examples, max_new_tokens=2),
        "forced_exact": lambda: forced_exact(target, tokenizer, examples),
        "mean_head_outputs": lambda: mean_head_outputs(target, tokenizer, examples),
        "knockout answer": lambda: knockout_sweep(target, tokenizer, examples, sets, ("zero", "uniform")),
        "knockout all": lambda: knockout_sweep(target, tokenizer, examples, sets, "uniform", "all"),
        "source_answers": lambda: source_answers(target, tokenizer, examples),
        "patch": lambda: patch_sweep(target, source, tokenizer, examples, sets),
        "patch from a short source": lambda: patch_sweep(source, target, tokenizer, examples, sets),
    }


CALLS = list(calls(None, None, None, None))


@pytest.mark.parametrize("name", CALLS)
def test_a_prompt_longer_than_the_model_is_one_error(tiny_model, tiny_tokenizer, tiny_examples, name):
    short, long = tiny_model("llama", max_position_embeddings=60), tiny_model("llama", seed=1)
    call = calls(short, long, tiny_tokenizer, tiny_examples)[name]
    with pytest.raises(DataError, match=r"example tiny-\d: \d+ tokens are more than the allowed 60 \(got .*\)\. Make"):
        call()


@pytest.mark.parametrize("failing", ["first pass", "later pass"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_left_behind_when_a_pass_fails(tiny_model, tiny_tokenizer, tiny_examples, name, failing):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    expected, before = (run(target), run(source)), (state(target), state(source))
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) > (failing == "later pass"):
            raise MemoryError("in the middle of a pass")

    handle = target.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(MemoryError, match="in the middle"):
        calls(target, source, tiny_tokenizer, tiny_examples * 2)[name]()  # two batches
    handle.remove()
    assert (state(target), state(source)) == before
    assert torch.equal(run(target), expected[0])
    assert torch.equal(run(source), expected[1])


TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_copies_side_by_side_equal_single_passes(tiny_model, tiny_tokenizer, tiny_examples, family, implementation):
    model = build(tiny_model, family, attn_implementation=implementation)
    encoded = encode_all(tiny_examples, tiny_tokenizer)[-1]
    prompt = CachedPrompts(model, [encoded])
    expected = whole_logits(model, encoded)
    for copies in (1, 3):
        torch.testing.assert_close(prompt.logits(copies)[0], expected.expand(copies, -1, -1), **TOLERANCE)


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
        assert {layer.get_seq_length() for layer in prompt.context.cache.layers} == {prompt.context.length}


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


def as_on_a_gpu(monkeypatch):
    """Examples and modes share passes; returns the list that gets the shape of the ids of each."""
    monkeypatch.setattr(cached_prompts, "shares_passes", lambda model: True)


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
    encoded, means = encode_all(tiny_examples, tiny_tokenizer), random_means()
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
            patched.setattr(cached_prompts, limit, value)
            assert [len(batch) for batch in batches(model, examples, copies=3)] == [4, 4, 2], limit
            patched.setattr(cached_prompts, limit, 1)
            assert [len(batch) for batch in batches(model, examples, copies=3)] == [1] * 10


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
