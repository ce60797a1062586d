"""LoRA fine-tuning: the loss, the batches, what is trained and written; and what selective checkpointing saves."""

from __future__ import annotations

import json

import pytest
import torch
from model_folders import ADAPTER_FILES, digests, save_model, settings
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.models.load import build_model, load_model
from retrieval_heads.training.answer_trainer import IGNORED, answer_loss, collate, plan_batches
from retrieval_heads.training.checkpointing import (
    ATTENTION_OPERATORS,
    PRODUCT_OPERATORS,
    checkpoint_layers,
    layers_with_products,
    lean_step,
)
from retrieval_heads.training.finetune import finetune
from retrieval_heads.training.lora_settings import ATTENTION_PROJECTIONS


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
def test_loss_is_that_of_full_logits(family, tiny_model, encoded):
    overrides = {"final_logit_softcapping": 5.0} if family == "gemma2" else {}
    model, batch = tiny_model(family, **overrides), collate(encoded)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    loss = answer_loss(model, batch)
    # one example at a time, without padding, from the logits of every position
    total, count = 0.0, 0
    for example in encoded:
        logits = model(torch.tensor([example.ids])).logits[0].double().log_softmax(-1)
        for position in range(example.prompt_length, len(example.ids)):
            total, count = total - logits[position - 1, example.ids[position]], count + 1
    assert count == sum(len(example.ids) - example.prompt_length for example in encoded)
    torch.testing.assert_close(loss.double(), total / count, rtol=1e-5, atol=1e-5)
    assert seen[0] <= count < batch["input_ids"].shape[1]


def test_loss_covers_answer_and_end_only(encoded, tiny_tokenizer):
    labels = collate(encoded[:1])["labels"][0]
    kept = labels[labels != IGNORED].tolist()
    assert kept == list(encoded[0].ids[encoded[0].prompt_length :])
    assert kept[-1] == tiny_tokenizer.eos_token_id
    assert tiny_tokenizer.decode(kept[:-1]) == " Oslo Harbour"


def test_plan_uses_every_example_once_an_epoch():
    lengths = [10 * (index % 7) + index for index in range(23)]
    plan = plan_batches(lengths, batch_size=4, epochs=3, seed=5)
    assert [len(batch) for batch in plan].count(4) == 15
    for epoch in range(3):
        assert sorted(index for batch in plan[6 * epoch : 6 * epoch + 6] for index in batch) == list(range(23))
    assert plan == plan_batches(lengths, 4, 3, seed=5)
    assert plan != plan_batches(lengths, 4, 3, seed=6)
    assert plan[:6] != plan[6:12]


def test_plan_puts_like_lengths_together():
    lengths = torch.randint(100, 2000, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_batches(lengths, 4, 1, seed=0))
    assert padded < 1.1 * sum(lengths)


def test_accumulated_batches_equal_a_large_one(base, encoded, tmp_path):
    large = finetune(base, encoded[:4], tmp_path / "large", settings(batch_size=4, schedule="constant", warmup=0))
    small = finetune(
        base, encoded[:4], tmp_path / "small", settings(batch_size=1, accumulation=4, schedule="constant", warmup=0),
    )
    assert small["steps"] == large["steps"] == 1
    assert small["loss"][0]["loss"] == pytest.approx(large["loss"][0]["loss"], rel=1e-5)
    assert small["loss"][0]["grad_norm"] == pytest.approx(large["loss"][0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapters_of_the_attention_change(family, encoded, tmp_path, tiny_model, tiny_tokenizer):
    base = save_model(tmp_path / "base", tiny_model(family), tiny_tokenizer)
    before = digests(base)
    finetune(base, encoded, tmp_path / "adapter", settings())
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.split("self_attn.")[1].split(".")[0] for name in weights} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert all(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)
    assert digests(base) == before
    model, _ = load_model(base, tmp_path / "adapter")
    plain = build_model(base, torch.float32)
    for name, value in plain.state_dict().items():
        found = dict(model.get_base_model().named_parameters())
        name = name if name in found else name.replace(".weight", ".base_layer.weight").replace(
            ".bias", ".base_layer.bias")
        if name in found:  # a tied head is listed once
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_folder_and_record(base, encoded, finished):
    assert {path.name for path in finished.iterdir()} == ADAPTER_FILES
    assert [path.name for path in finished.parent.iterdir()] == ["adapter"]
    record = json.loads((finished / "training.json").read_text())
    assert [entry["step"] for entry in record["loss"]] == list(range(1, 7))
    assert record["loss"][-1]["loss"] < record["loss"][0]["loss"]
    assert record["tokens_seen"] == 2 * sum(len(example.ids) for example in encoded)
    assert record["environment"]["device"] == "cpu"
    text = "".join(path.read_text() for path in finished.glob("*.json"))
    assert str(base.parent) not in text
    targets = json.loads((finished / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)  # a set in PEFT, whose order changes from process to process
    extension = json.loads((finished / "extension.json").read_text())
    assert (extension["rope_theta"], extension["max_length"], extension["rank"]) == (80_000, 2048, 8)


def test_loss_is_computed_at_the_raised_theta(base, encoded, tmp_path):
    record = finetune(base, encoded[:1], tmp_path / "adapter", settings())
    raised = build_model(base, torch.float32, 80_000, 2048)
    plain = build_model(base, torch.float32)
    first = record["loss"][0]["loss"]  # before the first step the adapter adds nothing
    assert first == pytest.approx(answer_loss(raised, collate(encoded[:1])).item(), rel=1e-5)
    assert first != pytest.approx(answer_loss(plain, collate(encoded[:1])).item(), rel=1e-3)


def test_nothing_is_printed(base, encoded, tmp_path, capfd):
    finetune(base, encoded[:2], tmp_path / "adapter", settings(save_steps=1))
    load_model(base, tmp_path / "adapter")
    assert capfd.readouterr() == ("", "")


def test_bf16_and_checkpointing_train(base, encoded, tmp_path):
    plain = finetune(base, encoded, tmp_path / "plain", settings())
    saving = finetune(base, encoded, tmp_path / "saving", settings(gradient_checkpointing=True))
    short = finetune(base, encoded, tmp_path / "short", settings(bf16=True))
    again = finetune(base, encoded, tmp_path / "again", settings(seed=0, weight_decay=0.0))
    assert digests(tmp_path / "saving")["adapter_model.safetensors"] == digests(tmp_path / "plain")[
        "adapter_model.safetensors"]
    assert saving["loss"] == plain["loss"] == again["loss"]  # fp32 after bf16 is fp32 again
    assert short["loss"] != plain["loss"]
    assert short["loss"][0]["loss"] == pytest.approx(plain["loss"][0]["loss"], rel=0.05)
    assert {value.dtype for value in load_file(tmp_path / "short" / "adapter_model.safetensors").values()} == {
        torch.bfloat16}


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
