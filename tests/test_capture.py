"""Rows read during an SDPA pass are those of eager attention, and reading leaves no trace."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from conftest import FAMILIES
from retrieval_heads.attention.capture import (
    _ACTIVE,
    _LAST,
    IMPLEMENTATION,
    attention_rows,
    capture_attention,
    stop_at_last_attention,
)
from retrieval_heads.errors import ModelError
from retrieval_heads.models.layout import head_layout

WINDOWED = {
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}

# smaller weights than the fixture's: the hidden states of eager and SDPA passes differ by rounding, which large weights
# amplify from layer to layer beyond the tolerance of 1e-6
SMOOTH = {"initializer_range": 0.15}


def keep(probabilities, value, layer):
    return probabilities.clone()


def a_batch(seed=0, batch=3, length=20):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 300, (batch, length), generator=generator)
    return ids, torch.tensor([[2, 7, 19], [0, 11, 11], [13, 5, 18]])[:batch]


def eager_rows(model, rows, **inputs):
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(before)
    assert len(attentions) == model.config.num_hidden_layers
    picked = torch.arange(len(rows))[:, None]
    return [layer[picked, :, rows].transpose(1, 2) for layer in attentions]


def captured_rows(model, rows, **inputs):
    with torch.inference_mode(), capture_attention(model, rows, keep) as layers:
        logits = model(**inputs).logits
    return layers, logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_rows_equal_eager_rows_and_logits_equal_sdpa(tiny_model, family, padding):
    model, (ids, rows) = tiny_model(family, **SMOOTH), a_batch()
    mask = torch.ones_like(ids)
    if padding == "right":
        mask[1, 12:] = mask[2, 19:] = 0
    elif padding == "left":
        mask[2, :3] = 0
    inputs = {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": mask}
    layers, logits = captured_rows(model, rows, **inputs)
    for ours, eager in zip(layers, eager_rows(model, rows, **inputs), strict=True):
        assert ours.shape == (3, 4, 3, 20)
        assert_close(ours, eager, rtol=0, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(logits, model(**inputs).logits)


@pytest.mark.parametrize("family", sorted(WINDOWED))
def test_rows_honour_sliding_windows(tiny_model, family):
    model, (ids, rows) = tiny_model(family, **SMOOTH, **WINDOWED[family]), a_batch()
    layers, _ = captured_rows(model, rows, input_ids=ids)
    for ours, eager in zip(layers, eager_rows(model, rows, input_ids=ids), strict=True):
        assert_close(ours, eager, rtol=0, atol=1e-6)
    assert (layers[-1][0, :, 2, :15] == 0).all()  # row 19 of the last layer sees 15 to 19
    assert (layers[-1][0, :, 2, 15:] > 0).all()


def test_rows_of_a_decoding_step_are_the_last_rows_of_a_full_pass(tiny_model):
    model, (ids, _) = tiny_model("llama"), a_batch()
    full, _ = captured_rows(model, torch.full((3, 1), 19), input_ids=ids)
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    step, _ = captured_rows(model, torch.zeros(3, 1, dtype=torch.long), input_ids=ids[:, -1:], past_key_values=cache)
    for ours, expected in zip(step, full, strict=True):
        assert_close(ours, expected, rtol=0, atol=1e-6)


def test_bfloat16_rows_are_float32_and_near_eager(tiny_model):
    model, (ids, rows) = tiny_model("qwen3").bfloat16(), a_batch()
    layers, _ = captured_rows(model, rows, input_ids=ids)
    for ours, eager in zip(layers, eager_rows(model, rows, input_ids=ids), strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, eager.float(), rtol=0.1, atol=0.02)
        assert_close(ours.sum(-1), torch.ones(3, 4, 3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("peft", [False, True])
def test_a_pass_that_stops_early_has_read_all_rows_and_leaves_nothing_behind(tiny_model, family, peft):
    model, (ids, rows) = tiny_model(family, **SMOOTH), a_batch()
    whole, logits = captured_rows(model, rows, input_ids=ids)
    calls, last = [], model.model.layers[-1].mlp
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"])) if peft else model
    handle = last.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode(), capture_attention(wrapped, rows, keep) as layers, stop_at_last_attention(wrapped):
        wrapped(input_ids=ids)
        calls.append("not stopped")
    handle.remove()
    assert calls == []
    for ours, expected in zip(layers, whole, strict=True):
        assert torch.equal(ours, expected)
    assert not _LAST
    with torch.inference_mode():
        assert torch.equal(wrapped(input_ids=ids).logits, logits)


def test_a_pass_that_stops_early_keeps_no_states(tiny_model):
    model, (ids, rows) = tiny_model("llama"), a_batch()
    states, norm = [], model.model.layers[-1].input_layernorm
    handle = norm.register_forward_hook(lambda *call: states.append(weakref.ref(call[2])))
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode(), capture_attention(model, rows, keep), stop_at_last_attention(model):
            model(input_ids=ids)
        assert [state() for state in states] == [None]
    finally:
        gc.enable()
        handle.remove()


def test_an_error_inside_a_pass_that_stops_early_is_not_swallowed(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(ZeroDivisionError), stop_at_last_attention(model):
        raise ZeroDivisionError
    assert not _LAST


def test_attention_rows_take_an_additive_mask_for_each_head_and_the_default_scaling():
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key = torch.randn(2, 2, 6, 8, generator=generator)
    mask = torch.randn(1, 4, 6, 6, generator=generator)
    rows = torch.tensor([[5, 1], [3, 3]])
    ours = attention_rows(query, key, mask, rows, None)
    scores = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) / 8**0.5 + mask
    expected = scores.softmax(-1)[torch.arange(2)[:, None], :, rows].transpose(1, 2)
    assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_implementation_is_restored_after_an_exception(tiny_model, peft, before):
    model = tiny_model("llama")
    model.set_attn_implementation(before)
    if peft:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    ids, rows = a_batch()
    inside = []

    def fail():
        inside.append(model.config._attn_implementation)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), capture_attention(model, rows, keep):
        fail()
    assert inside == [IMPLEMENTATION]
    assert model.config._attn_implementation == before
    assert not _ACTIVE
    assert len(captured_rows(model, rows, input_ids=ids)[0]) == 3
    assert model.config._attn_implementation == before


def test_a_layer_that_reports_nothing_is_an_error(tiny_model):
    model, (_, rows) = tiny_model("llama"), a_batch()
    with pytest.raises(ModelError, match=r"no attention was seen in some layers \(got \[0, 1, 2\]\)"), \
            capture_attention(model, rows, keep):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_a_model_is_read_once_at_a_time_and_two_models_together(tiny_model):
    (ids, rows), one, other = a_batch(), tiny_model("llama"), tiny_model("qwen3")
    with torch.inference_mode(), capture_attention(one, rows, keep) as first:
        with capture_attention(other, rows, keep) as second:
            one(input_ids=ids)
            other(input_ids=ids)
        with pytest.raises(ModelError, match="captured already"), capture_attention(one, rows, keep):
            pass
    assert_close(first, captured_rows(one, rows, input_ids=ids)[0])
    assert_close(second, captured_rows(other, rows, input_ids=ids)[0])


def test_attention_that_sdpa_cannot_compute_is_refused(tiny_model):
    model, (ids, rows) = tiny_model("gemma2"), a_batch()
    with pytest.raises(ModelError, match="softcap"):
        captured_rows(model, rows, input_ids=ids)
    assert model.config._attn_implementation == "eager"


def test_heads_that_differ_from_layer_to_layer_are_refused(tiny_model):
    model = tiny_model("gemma4_text", head_dim=8, hidden_size=32, num_experts=2)
    with pytest.raises(ModelError, match="differ from layer to layer"):
        head_layout(model)
