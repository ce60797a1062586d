"""RoPE's theta: set before building it changes the frequencies, and a model with others is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from conftest import FAMILIES
from retrieval_heads.errors import ModelError
from retrieval_heads.models.rope import check_rope, extended_theta, rope_theta, with_rope_theta


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
