"""RoPE's theta: set before building it changes the frequencies, and a model with others is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from conftest import FAMILIES
from retrieval_heads.errors import ModelError
from retrieval_heads.models.rope import check_rope, context_length, extended_theta, rope_theta, with_rope_theta


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
    with pytest.raises(ModelError, match="one a layer type"):
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
