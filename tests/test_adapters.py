"""Adapters of every kind: an un-merged one gives what the merged model gives, or is refused with a remedy."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from model_folders import make_adapter, save_model

from retrieval_heads.errors import ModelError
from retrieval_heads.evaluation import answer_losses, greedy_answers
from retrieval_heads.heads.ablate import ablate_heads, mean_head_outputs
from retrieval_heads.heads.patch import patch_heads
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep
from retrieval_heads.models.extension import Extension, fingerprint
from retrieval_heads.models.layout import matrix_of
from retrieval_heads.models.load import load_model, sibling_model, swap_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj"]
HEADS = {"some": [(0, 1), (2, 3)]}


def lora(**settings) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "target_modules": ALL, "init_lora_weights": False, **settings})


WEIGHTS = {
    "lora": lora(), "dora": lora(use_dora=True), "rslora": lora(use_rslora=True),
    "patterns": lora(rank_pattern={"o_proj": 2}, alpha_pattern={"o_proj": 32}),
    "unembedding": lora(target_modules=["lm_head", "o_proj"]),
    "embedding": lora(target_modules=["embed_tokens", "o_proj"]), "tokens": lora(trainable_token_indices=[5, 6, 70]),
    "saved projection": lora(target_modules=["q_proj"], modules_to_save=["o_proj"]),
    "saved unembedding": lora(modules_to_save=["lm_head"]), "saved norm": lora(modules_to_save=["norm"]),
    "loha": peft.LoHaConfig(r=4, target_modules=ALL, init_weights=False),
    "lokr": peft.LoKrConfig(r=4, target_modules=ALL, init_weights=False),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, target_modules=ALL, init_weights=False),
    "boft": peft.BOFTConfig(boft_block_size=4, target_modules=ALL, init_weights=False),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"], init_weights=False),
    "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "o_proj"], feedforward_modules=["o_proj"]),
    "norms": peft.LNTuningConfig(target_modules=["norm", "input_layernorm"]),
}
NO_WEIGHTS = {
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p-tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "adaption": peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=2),
    "activated": lora(task_type="CAUSAL_LM", alora_invocation_tokens=[5, 6]),
}


def adapted(model, config) -> peft.PeftModel:
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, copy.deepcopy(config)).eval()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return wrapped


def everything(model, tokenizer, examples, source) -> dict[str, np.ndarray]:
    """What is read from a model and done to it, as arrays."""
    scores = score_heads(model, tokenizer, examples)["copy"]
    assert not scores.contribution_reason
    knocked = [
        row["nll"] for scope in ("answer", "all")
        for row in knockout_sweep(model, tokenizer, examples[:2], HEADS, ["zero", "uniform"], scope)
    ]
    return {
        "score": scores.scores, "mass": scores.mass, "contribution": scores.contribution,
        "loss": answer_losses(model, tokenizer, examples), "knocked": np.array(knocked),
        "means": mean_head_outputs(model, tokenizer, examples).numpy(),
        "patched": np.array([row["nll"] for row in patch_sweep(model, source, tokenizer, examples[:2], HEADS)]),
        "answers": np.array(greedy_answers(model, tokenizer, examples, batch_size=2)),
    }


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_unmerged_adapter_gives_what_the_merged_model_gives(tiny_model, tiny_tokenizer, tiny_examples, name):
    examples, source = tiny_examples[:3], tiny_model("llama", 1)
    model = adapted(tiny_model("llama"), WEIGHTS[name])
    plain = answer_losses(tiny_model("llama"), tiny_tokenizer, examples)
    found = everything(model, tiny_tokenizer, examples, source)
    merged = everything(copy.deepcopy(model).merge_and_unload(), tiny_tokenizer, examples, source)
    assert np.abs(found["loss"] - plain).max() > 1e-3  # the adapter does something
    for what, values in merged.items():
        if what == "answers":
            assert found[what].tolist() == values.tolist()
        else:
            np.testing.assert_allclose(found[what], values, rtol=1e-3, atol=1e-3, err_msg=what)


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_an_adapter_that_is_no_change_of_weights_is_refused(tiny_model, tiny_tokenizer, tiny_examples, name):
    model, source = adapted(tiny_model("llama"), NO_WEIGHTS[name]), tiny_model("llama", 1)
    for use in (
        lambda: score_heads(model, tiny_tokenizer, tiny_examples),
        lambda: answer_losses(model, tiny_tokenizer, tiny_examples),
        lambda: greedy_answers(model, tiny_tokenizer, tiny_examples),
        lambda: knockout_sweep(model, tiny_tokenizer, tiny_examples, HEADS),
        lambda: mean_head_outputs(model, tiny_tokenizer, tiny_examples),
        lambda: ablate_heads(model, [(0, 0)]).__enter__(),
        lambda: patch_heads(source, model, [(0, 0)]).__enter__(),
    ):
        with pytest.raises(ModelError, match="Use an adapter that changes weights"):
            use()


@pytest.mark.parametrize("name", ["embedding", "unembedding", "both embedding", "tokens", "lora"])
def test_an_adapter_on_a_tied_weight_is_refused(tiny_model, tiny_tokenizer, tiny_examples, name):
    both = {"both embedding": lora(target_modules=["lm_head", "o_proj"], ensure_weight_tying=True)}
    model = adapted(tiny_model("gemma"), (WEIGHTS | both)[name])
    if name.endswith("embedding"):
        with pytest.raises(ModelError, match="embedding and unembedding share"):
            answer_losses(model, tiny_tokenizer, tiny_examples)
    else:
        merged = answer_losses(copy.deepcopy(model).merge_and_unload(), tiny_tokenizer, tiny_examples)
        np.testing.assert_allclose(answer_losses(model, tiny_tokenizer, tiny_examples), merged, atol=1e-3)


def test_the_matrix_of_a_projection_is_its_weight_with_the_adapter(tiny_model):
    projection = adapted(tiny_model("llama"), WEIGHTS["lora"]).base_model.model.model.layers[0].self_attn.o_proj
    expected = projection.base_layer.weight + projection.get_delta_weight("default")
    torch.testing.assert_close(matrix_of(projection), expected.detach())
    projection.enable_adapters(False)
    torch.testing.assert_close(matrix_of(projection), projection.base_layer.weight.detach())


@pytest.fixture
def base(tmp_path, tiny_model, tiny_tokenizer) -> Path:
    return save_model(tmp_path / "base", tiny_model("llama"), tiny_tokenizer)


def folder_of(model, base: Path, folder: Path) -> Path:
    """The adapter's folder with the record that `finetune` would write beside it."""
    model.save_pretrained(folder, save_embedding_layers=False)
    Extension("base", fingerprint(base), 10_000.0, 1024, 4, 8.0, tuple(ALL)).write(folder)
    return folder


@pytest.mark.parametrize("name", ["dora", "rslora", "loha", "saved projection"])
def test_loaded_by_its_folder_it_is_the_same(base, tmp_path, tiny_model, name):
    model = adapted(tiny_model("llama"), WEIGHTS[name])
    loaded, _ = load_model(base, folder_of(model, base, tmp_path / "adapter"))
    ids = torch.arange(10, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_a_folder_with_virtual_tokens_is_refused(base, tmp_path, tiny_model):
    folder = folder_of(adapted(tiny_model("llama"), NO_WEIGHTS["prompt"]), base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="virtual tokens"):
        load_model(base, folder)


@pytest.mark.parametrize("name", ["rslora", "dora", "patterns"])
def test_swapping_into_an_adapter_of_other_settings_is_refused(base, tmp_path, tiny_model, name):
    one, other = (
        folder_of(adapted(tiny_model("llama"), WEIGHTS[kind]), base, tmp_path / kind) for kind in ("lora", name)
    )
    model, _ = load_model(base, one)
    with pytest.raises(ModelError, match="other settings"):
        swap_adapter(model, other)


def test_a_sibling_shares_no_module_that_its_adapter_saves(base, tmp_path, tiny_model):
    config, ids = WEIGHTS["saved projection"], torch.arange(10, 60)[None]
    one = folder_of(adapted(tiny_model("llama"), config), base, tmp_path / "one")
    changed = adapted(tiny_model("llama"), config)
    for parameter in changed.parameters():
        if parameter.requires_grad:
            parameter.data *= 2
    other = folder_of(changed, base, tmp_path / "other")
    model, _ = load_model(base, one)
    before = model(ids).logits
    twin = sibling_model(model, other)
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    torch.testing.assert_close(twin(ids).logits, changed(ids).logits.detach())


def test_an_adapter_in_the_folder_of_its_base_is_refused(base, tmp_path):
    adapter = make_adapter(base, tmp_path / "adapter", 1)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (base / name).write_bytes((adapter / name).read_bytes())
    with pytest.raises(ModelError, match="Move it"):
        load_model(base)
    (base / "adapter_config.json").write_text(json.dumps({}))  # whatever stands in it
    with pytest.raises(ModelError, match="adapter lies in the folder of the base"):
        load_model(base, adapter)


@pytest.mark.parametrize(("family", "config", "message"), [
    ("llama", lora(task_type="CAUSAL_LM", alora_invocation_tokens=[5, 6]), "depends on the rest of the input"),
    ("gemma", lora(target_modules=["embed_tokens", "o_proj"]), "embedding and unembedding share"),
])
def test_an_adapter_that_the_model_itself_has_added_is_looked_at_too(
    tiny_model, tiny_tokenizer, tiny_examples, family, config, message,
):
    model = tiny_model(family)
    plain = answer_losses(model, tiny_tokenizer, tiny_examples)
    model.add_adapter(copy.deepcopy(config))
    with pytest.raises(ModelError, match=message):
        answer_losses(model.eval(), tiny_tokenizer, tiny_examples)
    model.disable_adapters()
    assert model.active_adapters() == ["default"]
    model.delete_adapter("default")
    np.testing.assert_array_equal(answer_losses(model, tiny_tokenizer, tiny_examples), plain)
