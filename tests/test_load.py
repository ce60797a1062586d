"""Model and adapter folders: loading, swapping, a second model on the same base; whatever is wrong is one error."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_folders import make_adapter, save_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import FAMILIES
from retrieval_heads.errors import ModelError
from retrieval_heads.models.extension import fingerprint, read_extension
from retrieval_heads.models.layout import head_layout
from retrieval_heads.models.load import build_model, load_model, sibling_model, swap_adapter
from retrieval_heads.models.rope import check_rope, rope_theta

IDS = torch.arange(10, 60)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapter(base, folder / "one", 1), make_adapter(base, folder / "two", 2)


@pytest.fixture
def copied(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_every_family_with_and_without_adapter(family, tmp_path, tiny_model, tiny_tokenizer):
    base = save_model(tmp_path / "base", tiny_model(family), tiny_tokenizer)
    model, tokenizer = load_model(base)
    torch.testing.assert_close(logits(model), logits(tiny_model(family)), rtol=0, atol=0)
    assert tokenizer.is_fast
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    adapted, _ = load_model(base, make_adapter(base, tmp_path / "adapter", 1))
    assert isinstance(adapted, PeftModel)
    assert head_layout(adapted).n_layers == 3
    check_rope(adapted, 80_000)
    assert adapted.config.max_position_embeddings == 4096
    # the adapter's share and the theta's share are both there
    raised, _ = load_model(base, rope_theta=80_000)
    with adapted.disable_adapter():
        torch.testing.assert_close(logits(adapted), logits(raised), rtol=0, atol=0)
    assert (logits(adapted) - logits(raised)).abs().max() > 0.1
    assert (logits(model) - logits(raised)).abs().max() > 1e-3


def test_theta_and_length_without_adapter(base):
    model, _ = load_model(base, rope_theta=50_000, max_length=9000)
    assert (rope_theta(model), model.config.max_position_embeddings) == (50_000, 9000)
    plain, _ = load_model(base, max_length=9000)
    assert (rope_theta(plain), plain.config.max_position_embeddings) == (10_000, 9000)


def test_frequencies_stay_exact_in_bf16(base, adapters):
    model, _ = load_model(base, adapters[0], dtype=torch.bfloat16)
    check_rope(model, 80_000)
    assert next(model.get_base_model().parameters()).dtype == torch.bfloat16


def test_adapter_is_that_of_peft(base, adapters):
    by_hand = PeftModel.from_pretrained(build_model(base, torch.float32, 80_000, 4096), adapters[0])
    torch.testing.assert_close(logits(load_model(base, adapters[0])[0]), logits(by_hand.eval()), rtol=0, atol=0)


def test_swap_is_loading_afresh(base, adapters):
    model, _ = load_model(base, adapters[0])
    first, module = logits(model), head_layout(model).attentions[0]
    swap_adapter(model, adapters[1])
    torch.testing.assert_close(logits(model), logits(load_model(base, adapters[1])[0]), rtol=0, atol=0)
    assert head_layout(model).attentions[0] is module  # hooks stay where they are
    swap_adapter(model, adapters[0])
    torch.testing.assert_close(logits(model), first, rtol=0, atol=0)


def test_sibling_shares_the_base_and_nothing_else(base, adapters):
    model, _ = load_model(base, adapters[0])
    first = logits(model)
    sibling = sibling_model(model, adapters[1])
    torch.testing.assert_close(logits(sibling), logits(load_model(base, adapters[1])[0]), rtol=0, atol=0)
    torch.testing.assert_close(logits(model), first, rtol=0, atol=0)
    ours, theirs = dict(model.named_parameters()), dict(sibling.named_parameters())
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] is not theirs[name]} == {name for name in ours if "lora_" in name}
    calls = []
    head_layout(sibling).attentions[0].register_forward_hook(lambda *_: calls.append(1))
    logits(model)
    assert calls == []


def test_swap_refuses_what_does_not_fit(base, adapters, tmp_path):
    model, _ = load_model(base, adapters[0])
    before = logits(model)
    for change in ({"rope_theta": 20_000.0}, {"base_fingerprint": "0" * 64}, {"alpha": 16.0}):
        other = Path(shutil.copytree(adapters[1], tmp_path / next(iter(change))))
        replace(read_extension(other), **change).write(other)
        with pytest.raises(ModelError, match="another base, theta or LoRA setting"):
            swap_adapter(model, other)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    with pytest.raises(ModelError, match="no adapter to be swapped"):
        swap_adapter(load_model(base)[0], adapters[0])


def test_swap_refuses_incomplete_weights(base, adapters, tmp_path):
    model, _ = load_model(base, adapters[0])
    before = logits(model)
    other = Path(shutil.copytree(adapters[1], tmp_path / "adapter"))
    weights = load_file(other / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapted modules"):
        swap_adapter(model, other)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    with pytest.raises(ModelError, match="adapted modules"):
        load_model(base, other)
    (other / "adapter_model.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: cannot be read"):
        swap_adapter(model, other)
    with pytest.raises(ModelError, match="cannot be loaded as an adapter"):
        load_model(base, other)


def test_fingerprint_follows_weights_not_place(base, copied, tmp_path, tiny_model, tiny_tokenizer):
    assert fingerprint(copied) == fingerprint(base)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "transformers_version": "6.0.0"}))
    assert fingerprint(copied) == fingerprint(base)
    (copied / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert fingerprint(copied) != fingerprint(base)
    other = save_model(tmp_path / "other", tiny_model("llama", seed=1), tiny_tokenizer)
    assert fingerprint(other) != fingerprint(base)


def test_loading_prints_nothing(base, adapters, capfd):
    load_model(base, adapters[0])
    assert capfd.readouterr() == ("", "")


def test_adapter_of_another_base(adapters, tmp_path, tiny_model, tiny_tokenizer):
    other = save_model(tmp_path / "other", tiny_model("llama", seed=1), tiny_tokenizer)
    with pytest.raises(ModelError, match="made for another base"):
        load_model(other, adapters[0])


def test_adapter_of_another_theta(base, adapters):
    with pytest.raises(ModelError, match=r"trained at RoPE theta 80000 .*20000"):
        load_model(base, adapters[0], rope_theta=20_000)
    model, _ = load_model(base, adapters[0], rope_theta=80_000)
    assert rope_theta(model) == 80_000


@pytest.mark.parametrize("name", ["extension.json", "adapter_config.json", "adapter_model.safetensors"])
def test_incomplete_adapter(name, base, adapters, tmp_path):
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    (adapter / name).unlink()
    with pytest.raises(ModelError, match=f"has no {name}"):
        load_model(base, adapter)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"base_name": "base", "rope_theta": null}'])
def test_broken_sidecar(text, base, adapters, tmp_path):
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    (adapter / "extension.json").write_text(text)
    with pytest.raises(ModelError, match=r"extension\.json: not a readable record"):
        load_model(base, adapter)


def test_missing_folders(base, tmp_path):
    with pytest.raises(ModelError, match="no such folder, and no hub model of that id in the cache"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such adapter folder"):
        load_model(base, tmp_path / "nowhere")


def test_hub_id_is_not_fetched_unless_allowed(monkeypatch, base):
    seen = {}

    def snapshot(name, local_files_only, **_):
        seen[name] = local_files_only
        return str(base)

    monkeypatch.setattr("retrieval_heads.models.load.snapshot_download", snapshot)
    load_model("org/kept")
    load_model("org/new", allow_download=True)
    assert seen == {"org/kept": True, "org/new": False}


@pytest.mark.parametrize(("removed", "written", "message"), [
    ("config.json", {}, r"no config\.json"),
    ("", {"config.json": "{"}, "config cannot be loaded"), ("", {"config.json": "{}"}, "config cannot be loaded"),
    ("", {"config.json": '{"model_type": "no_such_model"}'}, "config cannot be loaded"),
    # transformers passes over it, and the ends of answers would be others
    ("", {"generation_config.json": '{"eos_token_id": [2,'}, r"generation_config\.json: the config cannot be loaded"),
    ("", {"model.safetensors.index.json": '{"metadata": {}, "weight_map": {"lm_head.weight": "2-of-2.safetensors"}}'},
     "2-of-2"),
    ("tokenizer*", {}, "no tokenizer"), ("", {"tokenizer.json": "{"}, "tokenizer cannot be loaded"),
    ("tokenizer*", {"tokenizer_config.json": '{"tokenizer_class": "CanineTokenizer"}', "vocab.txt": "a\nb\n"},
     "not a fast one"),
])
def test_missing_and_broken_files(removed, written, message, copied):
    for path in copied.glob(removed) if removed else ():
        path.unlink()
    for name, text in written.items():
        (copied / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(copied)


def test_folder_without_weights(copied, tiny_model):
    weights = copied / "model.safetensors"
    weights.unlink()
    with pytest.raises(ModelError, match="lacks weights"):
        load_model(copied)
    torch.save(tiny_model("llama").state_dict(), copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="other weight formats than safetensors are not read"):
        load_model(copied)


def test_broken_and_incomplete_weights(copied):
    path = copied / "model.safetensors"
    weights = load_file(path)
    lost = weights.pop("model.layers.1.self_attn.q_proj.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack parameters .*layers\.1\.self_attn\.q_proj"):
        load_model(copied)
    save_file({**weights, "model.layers.1.self_attn.q_proj.weight": lost[:-1].clone()}, path,
              metadata={"format": "pt"})
    with pytest.raises(ModelError, match="model cannot be loaded"):
        load_model(copied)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="model cannot be loaded"):
        load_model(copied)


def test_code_beside_a_model_is_not_run(copied, tmp_path):
    (copied / "mine.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    config = json.loads((copied / "config.json").read_text())
    config = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="config cannot be loaded"):
        load_model(copied)
    assert not (tmp_path / "run").exists()


def test_theta_for_a_model_without_rope(tmp_path, tiny_tokenizer):
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=400)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no rotary position embedding"):
        load_model(tmp_path, rope_theta=80_000)


def test_missing_device(base):
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ModelError, match="device: torch cannot use"):
            load_model(base, device=device)


def test_capped_attention_scores(tmp_path, tiny_model, tiny_tokenizer):
    folder = save_model(tmp_path / "capped", tiny_model("gemma2"), tiny_tokenizer)
    with pytest.raises(ModelError, match=r"caps its attention scores.*gemma2.*Use one that does not"):
        load_model(folder)
