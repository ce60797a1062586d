"""Layers with a sliding window, computed in blocks without a square mask, are those of eager attention."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import sdpa_mask, sliding_window_causal_mask_function

from retrieval_heads.attention import windows
from retrieval_heads.attention.capture import capture_attention, lean_attention
from retrieval_heads.attention.windows import Window, window_or_mask
from retrieval_heads.decoding import greedy_continuations

WINDOWED = {
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "gemma": {},  # has none: nothing changes
}
LENGTH = 23


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks as small as the window, and no mask so small that it is made whole."""
    monkeypatch.setattr(windows, "MASK_CELLS", 0)
    monkeypatch.setattr(windows, "BLOCK", 1)


class Largest(TorchDispatchMode):
    """Notes the largest tensor of which both last dimensions are the length of the input."""

    squares = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.ndim >= 2 and out.shape[-2:] == (LENGTH, LENGTH):
            self.squares += 1
        return out


def inputs_of(padding: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 300, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padding == "right":
        mask[1, 15:] = 0
    elif padding == "left":
        mask[1, :8] = 0
    return {"input_ids": ids} if padding == "none" else {"input_ids": ids, "attention_mask": mask}


def eager(model, **inputs):
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        found = model(**inputs, output_attentions=True)
    model.set_attn_implementation("sdpa")
    return found


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_logits_and_rows_are_those_of_eager_attention(tiny_model, family, padding):
    model, inputs = tiny_model(family, **WINDOWED[family], initializer_range=0.15), inputs_of(padding)
    expected = eager(model, **inputs)
    rows = torch.tensor([[8, 14], [9, 12]])
    with torch.inference_mode(), capture_attention(model, rows, lambda found, *_: found.clone()) as layers:
        logits = model(**inputs).logits
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    assert_close(logits[real], expected.logits[real], rtol=1e-4, atol=1e-5)
    for ours, weights in zip(layers, expected.attentions, strict=True):
        picked = weights[torch.arange(2)[:, None], :, rows].transpose(1, 2)
        assert_close(ours, picked, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_no_square_mask_is_made(tiny_model, family):
    model, inputs = tiny_model(family, **WINDOWED[family]), inputs_of("none")
    with torch.inference_mode(), Largest() as plain:
        model(**inputs)
    with torch.inference_mode(), lean_attention(model), Largest() as lean:
        model(**inputs)
    assert plain.squares > 0 == lean.squares


def test_with_a_cache_and_gradients(tiny_model):
    model, inputs = tiny_model("mistral", sliding_window=5), inputs_of("none")
    with torch.inference_mode():
        expected = model(**inputs).logits
        with lean_attention(model):
            first = model(input_ids=inputs["input_ids"][:, :17], use_cache=True)
            rest = model(input_ids=inputs["input_ids"][:, 17:], past_key_values=first.past_key_values)
    assert_close(torch.cat([first.logits, rest.logits], 1), expected, rtol=1e-4, atol=1e-4)
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    slopes = []
    for lean in (False, True):
        leaf = embeddings.clone().requires_grad_()
        if lean:
            with lean_attention(model):
                model(inputs_embeds=leaf).logits.square().mean().backward()
        else:
            model(inputs_embeds=leaf).logits.square().mean().backward()
        slopes.append(leaf.grad)
    assert slopes[0].abs().max() > 0
    assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-6)


def test_decoding_is_the_same(tiny_model, monkeypatch):
    model = tiny_model("mistral", sliding_window=5)
    prompts = [tuple(range(3, 3 + n)) for n in (9, 21, 14)]
    found = greedy_continuations(model, prompts, None, max_new_tokens=4, batch_size=3)
    monkeypatch.setattr(windows, "MASK_CELLS", 2**26)
    assert greedy_continuations(model, prompts, None, max_new_tokens=4, batch_size=3) == found


class Config:
    sliding_window = 4
    attention_chunk_size = None


def asked(**changes):
    return {"batch_size": 1, "q_length": 9, "kv_length": 9, "q_offset": 0, "kv_offset": 0, "local_size": 4,
            "allow_is_causal_skip": True, "config": Config, "attention_mask": None,
            "mask_function": sliding_window_causal_mask_function(4), **changes}


def test_only_a_large_plain_window_replaces_the_mask(monkeypatch):
    found = window_or_mask(**asked())
    assert found == Window(4)
    assert torch.equal(found.mask(torch.arange(9), 0, 9), sdpa_mask(**asked()))
    for other in ({"allow_is_causal_skip": False}, {"local_size": None}, {"local_size": 5}, {"q_length": 3}):
        assert not isinstance(window_or_mask(**asked(**other)), Window)
    monkeypatch.setattr(windows, "MASK_CELLS", 82)
    assert torch.equal(window_or_mask(**asked()), sdpa_mask(**asked()))
