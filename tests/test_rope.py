"""RoPE's theta changes the frequencies, and RoPE that depends on the length never depends on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_folders import make_adapter, save_model, settings
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ModelError
from retrieval_heads.evaluation import answer_losses, forced_exact, greedy_answers
from retrieval_heads.heads.ablate import mean_head_outputs, text_losses
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep
from retrieval_heads.models.load import load_model
from retrieval_heads.models.modes import one_length
from retrieval_heads.models.rope import check_rope, context_length, extended_theta, rope_theta, with_rope_theta
from retrieval_heads.training.finetune import finetune


def build(config):
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_raised_theta_is_in_the_frequencies(family, tiny_model):
    model = tiny_model(family)
    config = with_rope_theta(model.config, 80_000, max_length=4096)
    raised = build(config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    expected = 80_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    torch.testing.assert_close(raised.model.rotary_emb.inv_freq, expected)
    assert rope_theta(raised) == 80_000
    assert config.max_position_embeddings == 4096
    check_rope(raised, 80_000)


def test_original_config_is_not_changed(tiny_model):
    config = tiny_model("llama").config
    theta, length = rope_theta(config), config.max_position_embeddings
    with_rope_theta(config, 10 * theta, max_length=10 * length)
    assert (rope_theta(config), config.max_position_embeddings) == (theta, length)


def test_length_is_never_lowered(tiny_model):
    config = tiny_model("llama").config
    assert with_rope_theta(config, 5e4, max_length=16).max_position_embeddings == config.max_position_embeddings


def test_scaling_type_is_kept(tiny_model):
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    model = build(with_rope_theta(tiny_model("llama", rope_parameters=scaling).config, 50_000))
    assert model.config.rope_parameters == {**scaling, "rope_theta": 50_000}
    check_rope(model, 50_000)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq[0].item(), 0.25)


@pytest.mark.parametrize(("length", "parameters", "reach"), [
    (4096, {"rope_type": "default"}, 4096),
    (4096, {"rope_type": "linear", "factor": 4.0}, 16384),
    (4096, {"rope_type": "dynamic", "factor": 2.0}, 8192),
    (32768, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
    (131072, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
    (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0}, 131072),
    (8192, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0}, 65536),
])
def test_scaling_counts_as_length(length, parameters, reach):
    config = LlamaConfig(max_position_embeddings=length, rope_parameters={**parameters, "rope_theta": 5e5})
    assert context_length(config) == reach
    assert extended_theta(config, reach) == 5e5
    size = config.hidden_size // config.num_attention_heads
    assert extended_theta(config, 2 * reach) == pytest.approx(5e5 * 2 ** (size / (size - 2)))
    assert with_rope_theta(config, 5e5, reach).max_position_embeddings == length  # nothing to raise


def test_layers_of_two_kinds_and_models_without_a_length():
    two = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
           "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    assert context_length(AutoConfig.for_model("gemma3_text", max_position_embeddings=777, rope_parameters=two)) == 777
    assert context_length(AutoConfig.for_model("mamba")) is None


def test_a_raised_length_leaves_the_frequencies_and_their_scale(tiny_model):
    parameters = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
                  "original_max_position_embeddings": 64}
    config = tiny_model("llama", rope_parameters=parameters).config
    one, raised = (build(each).model.rotary_emb for each in (config, with_rope_theta(config, 1e4, 8192)))
    assert raised.config.max_position_embeddings == 8192
    assert raised.attention_scaling == one.attention_scaling > 1


def test_only_the_part_that_is_turned_counts():
    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    config = AutoConfig.for_model("stablelm", hidden_size=256, num_attention_heads=4, max_position_embeddings=1024,
                                  rope_parameters=parameters)
    assert extended_theta(config, 2048) == pytest.approx(1e4 * 2 ** (16 / 14))


def test_edit_after_building_is_found_out(tiny_model):
    model = tiny_model("llama")
    model.config.rope_parameters["rope_theta"] = 80_000.0
    with pytest.raises(ModelError, match="not those of theta 80000"):
        check_rope(model, 80_000)


def test_tampered_frequencies_are_found_out(tiny_model):
    model = tiny_model("qwen3")
    check_rope(model, rope_theta(model))
    model.model.rotary_emb.inv_freq[-1] *= 1.01
    with pytest.raises(ModelError, match="rotary frequencies"):
        check_rope(model, rope_theta(model))


def test_frequencies_in_half_precision_are_found_out(tiny_model):
    model = tiny_model("llama").to(torch.bfloat16)
    with pytest.raises(ModelError, match="rotary frequencies"):
        check_rope(model, rope_theta(model))


def test_other_theta_is_found_out(tiny_model):
    with pytest.raises(ModelError, match="theta is 10000, not 20000"):
        check_rope(tiny_model("llama"), 20_000)


@pytest.mark.parametrize("theta", [1, 0, -5, float("nan")])
def test_impossible_theta(theta, tiny_model):
    with pytest.raises(ModelError, match="above 1"):
        with_rope_theta(tiny_model("llama").config, theta)


def test_model_without_rope():
    with pytest.raises(ModelError, match="no rotary position embedding"):
        with_rope_theta(AutoConfig.for_model("gpt2"), 80_000)


def test_model_with_one_rope_a_layer_type():
    with pytest.raises(ModelError, match="one per layer type"):
        rope_theta(AutoConfig.for_model("gemma3_text"))


def test_theta_of_a_greater_length():
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=512)  # heads of size 32
    assert extended_theta(config, 512) == extended_theta(config, 100) == 10_000
    assert extended_theta(config, 2048) == pytest.approx(43_870, rel=1e-3)  # 10,000 x 4^(32/30)


def test_a_factor_without_a_scaling_is_no_length():
    config = LlamaConfig(max_position_embeddings=4096, rope_parameters={
        "rope_type": "default", "factor": 4.0, "rope_theta": 1e4})
    assert context_length(config) == 4096
    assert extended_theta(config, 16384) > 1e4


@pytest.mark.parametrize("factor", [4.0, 3.3])
def test_a_length_that_is_raised_is_the_one_asked_for(factor):
    config = LlamaConfig(max_position_embeddings=256, rope_parameters={
        "rope_type": "linear", "factor": factor, "rope_theta": 1e4})
    assert 4096 <= context_length(with_rope_theta(config, 8e4, max_length=4096)) < 4096 + factor


@pytest.mark.parametrize(("family", "message", "settings"), [
    ("llama", "single pair of dimensions", {"head_dim": 8, "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
    ("gemma4_text", "more than one RoPE", {}),
])
def test_no_theta_for_a_rope_that_has_none_to_raise(family, message, settings):
    with pytest.raises(ModelError, match=message):
        extended_theta(AutoConfig.for_model(family, **settings), 10**6)


def longrope(pairs: int) -> dict:
    return {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 100, "factor": 10.0,
            "short_factor": [1 + 0.1 * one for one in range(pairs)], "long_factor": [9.0 + one for one in range(pairs)]}


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 12.0}
KINDS = {
    "dynamic": ("llama", {"max_position_embeddings": 64, "rope_parameters": DYNAMIC}),
    "longrope": ("llama", {"rope_parameters": longrope(6)}),
    "phi3": ("phi3", {"rope_parameters": longrope(4), "head_dim": 8, "original_max_position_embeddings": 100}),
    "a kind a layer": ("gemma3_text", {"head_dim": 12, "max_position_embeddings": 64, "rope_parameters": {
        "full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 40}),
}
LENGTH = 700


@pytest.fixture(params=KINDS)
def model(tiny_model, request):
    family, overrides = KINDS[request.param]
    return tiny_model(family, **overrides)


@pytest.fixture(scope="module")
def examples(tiny_examples, tiny_tokenizer):
    lengths = [len(one.ids) for one in encode_all(tiny_examples, tiny_tokenizer)]
    assert min(lengths) < 100 < max(lengths)  # on both sides of what the models were made for
    return tiny_examples


def read(model, tokenizer, examples, batch_size) -> dict[str, np.ndarray]:
    """What is read of each example, `[n, ...]`, in batches of this size."""
    how = {"batch_size": batch_size, "max_length": LENGTH}
    scores = score_heads(model, tokenizer, examples, **how)["copy"]
    own = score_heads(model, tokenizer, examples, mode="generated", max_new_tokens=4, **how)["insight"]
    return {
        "scores": scores.per_example, "contribution": scores.contribution_per_example, "own": own.per_example,
        "losses": answer_losses(model, tokenizer, examples, **how),
        "exact": forced_exact(model, tokenizer, examples, **how),
        "answers": np.array(greedy_answers(model, tokenizer, examples, max_new_tokens=12, **how)),
    }


def same(one, other) -> None:
    for what, values in one.items():
        if values.dtype.kind in "Ub":
            assert values.tolist() == other[what].tolist()
        else:
            np.testing.assert_allclose(values, other[what], atol=1e-4, rtol=1e-3, err_msg=what)


def test_no_result_depends_on_the_batch_or_on_what_ran_before(model, tiny_tokenizer, examples):
    together = read(model, tiny_tokenizer, examples, 8)
    same(together, read(model, tiny_tokenizer, examples, 1))
    with torch.no_grad():
        model(input_ids=torch.ones(1, 900, dtype=torch.long))
    for index in (4, 0):
        alone = read(model, tiny_tokenizer, [examples[index]], 1)
        same(alone, {what: values[index : index + 1] for what, values in together.items()})


def test_a_cached_prompt_gives_what_the_whole_pass_gives(model, tiny_tokenizer, examples):
    losses = answer_losses(model, tiny_tokenizer, examples, max_length=LENGTH)

    def nll(some, scope) -> list[float]:
        rows = knockout_sweep(model, tiny_tokenizer, some, {"none": []}, "zero", scope, max_length=LENGTH)
        return [row["nll"] for row in rows]

    text = examples[4].prompt.replace("Question:", "\nQuestion:")
    haystack = [Example("mdqa", text.replace("what?", word), "Oslo") for word in ("what?", "who?")]
    np.testing.assert_allclose(nll(examples, "answer"), losses, atol=1e-4)
    for some in (examples, haystack):
        np.testing.assert_allclose(nll(some, "answer"), nll(some, "all"), atol=1e-4)
    patched = patch_sweep(model, model, tiny_tokenizer, examples, {"all": [(1, 2)]}, max_length=LENGTH)
    np.testing.assert_allclose([row["nll"] for row in patched], losses, atol=1e-4)


def test_means_and_losses_on_text_do_not_depend_on_what_ran_before(model, tiny_tokenizer, examples):
    def read() -> list[np.ndarray]:
        means = mean_head_outputs(model, tiny_tokenizer, examples[:1], max_length=LENGTH).numpy()
        return [means, text_losses(model, torch.arange(10, 60)[None], {"none": []})["none"]]

    before = read()
    with torch.no_grad():
        model(input_ids=torch.ones(1, 900, dtype=torch.long))
    for one, other in zip(before, read(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_frequencies_are_those_of_the_length_and_then_those_of_a_new_model(tiny_model):
    model = tiny_model("llama", **KINDS["dynamic"][1])
    rotary, positions, new = model.model.rotary_emb, torch.arange(10)[None], model.model.rotary_emb.inv_freq.clone()
    expected = rotary(torch.zeros(1), torch.arange(768)[None])[0][:, :10]  # 12 x 64
    short = rotary(torch.zeros(1), positions)[0]
    with one_length(model):
        torch.testing.assert_close(rotary(torch.zeros(1), positions)[0], expected)
    assert (short - expected).abs().max() > 0.1
    torch.testing.assert_close(rotary.inv_freq, new)
    assert not rotary._forward_hooks


def test_training_has_the_loss_that_is_read(tmp_path, tiny_model, tiny_tokenizer, examples):
    base = save_model(tmp_path / "base", tiny_model("llama", **KINDS["dynamic"][1]), tiny_tokenizer)
    encoded = encode_all([examples[0], examples[4]], tiny_tokenizer)
    how = {"rope_theta": 1e4, "max_length": LENGTH}
    record = finetune(base, encoded, tmp_path / "adapter", settings(batch_size=2, **how))
    model, _ = load_model(base, **how)
    losses = answer_losses(model, tiny_tokenizer, [examples[0], examples[4]])
    sizes = [len(one.ids) - one.prompt_length for one in encoded]
    assert record["loss"][0]["loss"] == pytest.approx(np.average(losses, weights=sizes), abs=1e-3)
    tuned, _ = load_model(base, tmp_path / "adapter")
    alone = [answer_losses(tuned, tiny_tokenizer, [one])[0] for one in examples]
    np.testing.assert_allclose(answer_losses(tuned, tiny_tokenizer, examples), alone, atol=1e-4)


def test_a_dynamic_length_is_not_raised(tmp_path, tiny_model, tiny_tokenizer):
    base = save_model(tmp_path / "base", tiny_model("llama", **KINDS["dynamic"][1]), tiny_tokenizer)
    load_model(base, max_length=768)
    for make in (lambda: load_model(base, max_length=769), lambda: make_adapter(base, tmp_path / "adapter", 1)):
        with pytest.raises(ModelError, match="dynamic RoPE reaches 768 tokens"):
            make()
