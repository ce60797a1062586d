"""Selective checkpointing: the gradients of plain training, attention computed once, and what fits in memory."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.training.answer_trainer import answer_loss, collate
from retrieval_heads.training.checkpointing import (
    ATTENTION_OPERATORS,
    PRODUCT_OPERATORS,
    checkpoint_layers,
    layers_with_products,
    lean_step,
)
from retrieval_heads.training.lora_settings import ATTENTION_PROJECTIONS

PRODUCTS = 7
"""Products with a frozen weight in each layer."""


class Counter(TorchDispatchMode):
    """How often attention and products with frozen weights are really computed; also in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.attention += function in ATTENTION_OPERATORS
        # adapters have rank 2, other products only occur in the backward pass
        self.products += function in PRODUCT_OPERATORS and min(args[-1].shape) > 2
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def batch(tiny_examples, tiny_tokenizer):
    return collate(encode_all(tiny_examples, tiny_tokenizer)[:2])


def adapted(model, checkpointing=None, n_products=0):
    """A PEFT model in training, with random adapters and the given kind of checkpointing."""
    with quiet():
        if checkpointing == "whole layers":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        elif checkpointing:
            checkpoint_layers(model, n_products)
        torch.manual_seed(1)
        return get_peft_model(model, LoraConfig(
            r=2, lora_alpha=2, target_modules=list(ATTENTION_PROJECTIONS), init_lora_weights=False,
        )).train()


def gradients(model, batch, bf16=False):
    """Loss, gradients by name, and what was computed."""
    with Counter() as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = answer_loss(model, batch)
        loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    return loss.detach(), found, counter


def assert_equal(first, second, **tolerance):
    torch.testing.assert_close(first[0], second[0], **tolerance)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], **tolerance, msg=name)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_without_checkpointing(family, bf16, tiny_model, batch):
    plain = gradients(adapted(tiny_model(family)), batch, bf16)
    for n_products in (0, 2):
        kept = gradients(adapted(tiny_model(family), "selective", n_products), batch, bf16)
        assert_equal(kept, plain, rtol=1e-6, atol=1e-6)


def test_attention_is_computed_once_and_kept_products_too(tiny_model, batch):
    layers = tiny_model("llama").config.num_hidden_layers
    model = tiny_model("llama")
    model.enable_input_require_grads()  # as checkpointing does, for which the first layer then differentiates more
    plain = gradients(adapted(model), batch)[2]
    whole = gradients(adapted(tiny_model("llama"), "whole layers"), batch)[2]
    attention = gradients(adapted(tiny_model("llama"), "selective"), batch)[2]
    products = gradients(adapted(tiny_model("llama"), "selective", n_products=2), batch)[2]
    assert (plain.attention, whole.attention) == (layers, 2 * layers)
    assert attention.attention == products.attention == layers
    # the last product of a layer is never needed again
    again = PRODUCTS - 1
    assert whole.products - plain.products == attention.products - plain.products == again * layers
    assert products.products - plain.products == again * (layers - 2)


def test_lean_step_leaves_loss_and_gradients(tiny_model, batch):
    def lean(model):
        with lean_step(model):
            return gradients(model, batch, bf16=True)

    for checkpointing in (None, "selective"):
        usual = gradients(adapted(tiny_model("llama").bfloat16(), checkpointing), batch, bf16=True)
        # norms with weight 1 round alike, so that the casts that are left out show that they change nothing
        assert_equal(lean(adapted(tiny_model("llama").bfloat16(), checkpointing)), usual, rtol=0, atol=0)


def test_lean_step_computes_norms_with_weights(tiny_model):
    model = adapted(tiny_model("llama").bfloat16())
    norm = model.get_base_model().model.norm
    norm.weight.data.uniform_(0.5, 1.5)
    hidden = torch.randn(2, 5, 32).bfloat16()
    usual = norm(hidden)
    with lean_step(model):
        lean = norm(hidden)
    exact = torch.nn.functional.rms_norm(hidden.double(), (32,), norm.weight.double(), norm.variance_epsilon)
    assert lean.dtype == torch.bfloat16
    assert (lean.double() - exact).abs().max() <= (usual.double() - exact).abs().max()
    assert "forward" not in vars(norm)
    assert torch.equal(norm(hidden), usual)


def test_lean_step_leaves_other_models_alone(tiny_model, batch):
    for model in (adapted(tiny_model("llama")), adapted(tiny_model("gemma").bfloat16())):
        with lean_step(model):
            assert all("forward" not in vars(module) for module in model.modules() if "Norm" in type(module).__name__)


def test_products_that_fit_an_8b_model():
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, dtype="bfloat16",
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert layers_with_products(model, 32_768, 80e9) == 14
    assert layers_with_products(model, 32_768, 43e9) == 0
    assert layers_with_products(model, 32_768, 0.0) == 0
    assert layers_with_products(model, 32_768, 140e9) == layers_with_products(model, 1024, 80e9) == 32


def test_layers_with_other_projections_keep_attention_only():
    config = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        layer.mlp = torch.nn.Identity()
    assert layers_with_products(model, 10, 80e9) == 0
