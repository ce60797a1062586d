"""Everything that can be wrong with a model or adapter folder gives one `ModelError`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_folders import make_adapter, save_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from retrieval_heads.errors import ModelError
from retrieval_heads.models.load import load_model
from retrieval_heads.models.rope import rope_theta


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model, tiny_tokenizer) -> Path:
    return save_model(tmp_path_factory.mktemp("llama") / "base", tiny_model("llama"), tiny_tokenizer)


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapter(base, folder / "one", 1), make_adapter(base, folder / "two", 2)


@pytest.fixture
def copied(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


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


def test_folder_without_config(copied):
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(copied)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no_such_model"}'])
def test_broken_config(text, copied):
    (copied / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config cannot be loaded"):
        load_model(copied)


def test_broken_generation_config(copied):
    """transformers passes over it, and the ends of answers would be others."""
    (copied / "generation_config.json").write_text('{"eos_token_id": [2,')
    with pytest.raises(ModelError, match=r"generation_config\.json: the config cannot be loaded"):
        load_model(copied)


def test_folder_without_weights(copied, tiny_model):
    weights = copied / "model.safetensors"
    weights.unlink()
    with pytest.raises(ModelError, match="lacks weights"):
        load_model(copied)
    torch.save(tiny_model("llama").state_dict(), copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="other weight formats than safetensors are not read"):
        load_model(copied)


def test_missing_shard(copied):
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model-00002-of-00002"):
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


def test_folder_without_tokenizer(copied):
    for path in copied.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(copied)


def test_broken_tokenizer(copied):
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_model(copied)


def test_slow_tokenizer(copied):
    for path in copied.glob("tokenizer*"):
        path.unlink()
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    (copied / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match="not a fast one"):
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
