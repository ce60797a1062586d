"""LoRA fine-tuning: the loss, what is trained, determinism, resuming, and folders that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from conftest import FAMILIES
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.errors import ConfigError, DataError, ModelError, ResultError
from retrieval_heads.models.answer_trainer import IGNORED, answer_loss, collate, plan_batches
from retrieval_heads.models.finetune import finetune
from retrieval_heads.models.load import build_model, load_model
from retrieval_heads.models.lora_settings import LoraSettings

SETTINGS = LoraSettings(rope_theta=80_000, max_length=2048, epochs=2, batch_size=2, lr=1e-2, save_steps=2)
FILES = {"adapter_model.safetensors", "adapter_config.json", "extension.json", "training.json", "timing.json"}


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


def changed(**values) -> LoraSettings:
    return LoraSettings(**{"rope_theta": 80_000, "max_length": 2048, "epochs": 1, "save_steps": None, **values})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        if path.name != "timing.json"
    }


@pytest.fixture(scope="module")
def save_base(tmp_path_factory, tiny_model, tiny_tokenizer):
    def save(family: str, **overrides) -> Path:
        folder = tmp_path_factory.mktemp(family) / "base"
        tiny_model(family, **overrides).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def base(save_base) -> Path:
    return save_base("llama")


@pytest.fixture(scope="module")
def encoded(tiny_examples, tiny_tokenizer) -> list[Encoded]:
    return encode_all(tiny_examples, tiny_tokenizer)


@pytest.fixture(scope="module")
def finished(base, encoded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "adapter"
    finetune(base, encoded, folder, SETTINGS)
    return folder


# loss and batches


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
    large = finetune(base, encoded[:4], tmp_path / "large", changed(batch_size=4, schedule="constant", warmup=0))
    small = finetune(
        base, encoded[:4], tmp_path / "small", changed(batch_size=1, accumulation=4, schedule="constant", warmup=0),
    )
    assert small["steps"] == large["steps"] == 1
    assert small["loss"][0]["loss"] == pytest.approx(large["loss"][0]["loss"], rel=1e-5)
    assert small["loss"][0]["grad_norm"] == pytest.approx(large["loss"][0]["grad_norm"], rel=1e-4)


# what is trained and written


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapters_of_the_attention_change(family, save_base, encoded, tmp_path):
    base = save_base(family)
    before = digests(base)
    finetune(base, encoded, tmp_path / "adapter", changed())
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
    assert {path.name for path in finished.iterdir()} == FILES
    assert [path.name for path in finished.parent.iterdir()] == ["adapter"]
    record = json.loads((finished / "training.json").read_text())
    assert [entry["step"] for entry in record["loss"]] == list(range(1, 7))
    assert record["loss"][-1]["loss"] < record["loss"][0]["loss"]
    assert record["tokens_seen"] == 2 * sum(len(example.ids) for example in encoded)
    assert record["environment"]["device"] == "cpu"
    text = "".join(path.read_text() for path in finished.glob("*.json"))
    assert str(base.parent) not in text
    extension = json.loads((finished / "extension.json").read_text())
    assert (extension["rope_theta"], extension["max_length"], extension["rank"]) == (80_000, 2048, 8)


def test_loss_is_computed_at_the_raised_theta(base, encoded, tmp_path):
    record = finetune(base, encoded[:1], tmp_path / "adapter", changed())
    raised = build_model(base, torch.float32, 80_000, 2048)
    plain = build_model(base, torch.float32)
    first = record["loss"][0]["loss"]  # before the first step the adapter adds nothing
    assert first == pytest.approx(answer_loss(raised, collate(encoded[:1])).item(), rel=1e-5)
    assert first != pytest.approx(answer_loss(plain, collate(encoded[:1])).item(), rel=1e-3)


def test_nothing_is_printed(base, encoded, tmp_path, capfd):
    finetune(base, encoded[:2], tmp_path / "adapter", changed(save_steps=1))
    load_model(base, tmp_path / "adapter")
    assert capfd.readouterr() == ("", "")


def test_bf16_and_checkpointing_train(base, encoded, tmp_path):
    plain = finetune(base, encoded, tmp_path / "plain", changed())
    saving = finetune(base, encoded, tmp_path / "saving", changed(gradient_checkpointing=True))
    short = finetune(base, encoded, tmp_path / "short", changed(bf16=True))
    again = finetune(base, encoded, tmp_path / "again", changed(seed=0, weight_decay=0.0))
    assert digests(tmp_path / "saving")["adapter_model.safetensors"] == digests(tmp_path / "plain")[
        "adapter_model.safetensors"]
    assert saving["loss"] == plain["loss"] == again["loss"]  # fp32 after bf16 is fp32 again
    assert short["loss"] != plain["loss"]
    assert short["loss"][0]["loss"] == pytest.approx(plain["loss"][0]["loss"], rel=0.05)
    assert {value.dtype for value in load_file(tmp_path / "short" / "adapter_model.safetensors").values()} == {
        torch.float32}


# determinism, resuming, interruption


def test_two_processes_write_the_same_bytes(base, encoded, finished, tmp_path):
    (tmp_path / "examples.json").write_text(json.dumps([[e.ids, e.prompt_length, e.answer_length] for e in encoded]))
    program = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from retrieval_heads.data.encode import Encoded\n"
        "from retrieval_heads.models.finetune import finetune\n"
        "from retrieval_heads.models.lora_settings import LoraSettings\n"
        "rows = json.load(open('examples.json'))\n"
        "examples = [Encoded(tuple(ids), prompt, answer, ()) for ids, prompt, answer in rows]\n"
        f"finetune(sys.argv[1], examples, 'adapter', {SETTINGS!r})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(base)], cwd=tmp_path, check=True)
    assert digests(tmp_path / "adapter") == digests(finished)


@pytest.mark.parametrize(("step", "accumulation"), [(3, 1), (2, 2)])
def test_killed_run_resumes_to_the_same_bytes(step, accumulation, base, encoded, tmp_path, monkeypatch):
    settings = changed(epochs=3, batch_size=2, save_steps=2, accumulation=accumulation)
    finetune(base, encoded, tmp_path / "whole", settings)
    original = Trainer.training_step

    def killed(trainer, *args, **kwargs):
        if trainer.state.global_step == step:
            raise KilledError
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", killed)
    with pytest.raises(KilledError):
        finetune(base, encoded, tmp_path / "adapter", settings)
    assert not (tmp_path / "adapter").exists()
    monkeypatch.undo()
    torch.manual_seed(99)  # a new process has another random state
    record = finetune(base, encoded, tmp_path / "adapter", settings)
    assert record["timing"]["resumed_from_step"] == 2 * (step // 2)
    assert digests(tmp_path / "adapter") == digests(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "whole"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_while_saving_leaves_no_half_adapter(place, base, encoded, finished, tmp_path, monkeypatch):
    original = PeftModel.save_pretrained

    def killed(model, folder, **kwargs):
        if Path(folder).name == "adapter":
            if place == "after":
                original(model, folder, **kwargs)
            raise KilledError
        original(model, folder, **kwargs)

    monkeypatch.setattr(PeftModel, "save_pretrained", killed)
    with pytest.raises(KilledError):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert not (tmp_path / "adapter").exists()
    monkeypatch.undo()
    assert finetune(base, encoded, tmp_path / "adapter", SETTINGS)["timing"]["resumed_from_step"] == 6
    assert digests(tmp_path / "adapter") == digests(finished)


def test_half_written_checkpoint_is_not_resumed_from(base, encoded, finished, tmp_path, monkeypatch):
    original = Trainer._save_rng_state

    def killed(trainer, folder):
        if trainer.state.global_step == 4:
            raise KilledError
        original(trainer, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", killed)
    with pytest.raises(KilledError):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    monkeypatch.undo()
    assert finetune(base, encoded, tmp_path / "adapter", SETTINGS)["timing"]["resumed_from_step"] == 2
    assert digests(tmp_path / "adapter") == digests(finished)


def test_interrupted_run_of_other_settings_is_not_resumed(base, encoded, tmp_path, monkeypatch):
    original = PeftModel.save_pretrained

    def killed(model, folder, **kwargs):
        if Path(folder).name == "adapter":
            raise KilledError
        original(model, folder, **kwargs)

    monkeypatch.setattr(PeftModel, "save_pretrained", killed)
    with pytest.raises(KilledError):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    monkeypatch.undo()
    assert finetune(base, encoded, tmp_path / "adapter", changed(seed=1))["timing"]["resumed_from_step"] == 0


def test_finished_folder_is_not_trained_again(base, encoded, finished, monkeypatch):
    monkeypatch.setattr(Trainer, "train", None)
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    record = finetune(base, encoded, finished, SETTINGS)
    assert record["steps"] == 6
    assert record["timing"]["seconds"] > 0
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


# bad input


def test_finished_folder_of_other_settings_is_refused(base, encoded, finished):
    for examples, settings in ((encoded, changed()), (encoded[:3], SETTINGS)):
        with pytest.raises(ResultError, match="other settings"):
            finetune(base, examples, finished, settings)


def test_folder_of_something_else_is_refused(base, encoded, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResultError, match="not a finished adapter folder"):
        finetune(base, encoded, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_is_filled(base, encoded, tmp_path):
    (tmp_path / "adapter").mkdir()
    finetune(base, encoded[:1], tmp_path / "adapter", changed())
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == FILES


def test_diverging_run_stops_and_leaves_nothing(base, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "retrieval_heads.models.answer_trainer.answer_loss",
        lambda model, batch, n: answer_loss(model, batch, n) * float("nan"),
    )
    with pytest.raises(ModelError, match="training step 1: the loss is not finite"):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_bad_examples(base, encoded, tmp_path):
    for examples, settings, message in (
        ([], SETTINGS, "nothing to train on"),
        (encoded, changed(max_length=20), "training example 0: .* tokens are more than `max_length`, 20"),
        ([Encoded((1, 5, 400), 2, 1, ())], SETTINGS, "the base has 400 token ids"),
    ):
        with pytest.raises(DataError, match=message):
            finetune(base, examples, tmp_path / "adapter", settings)
    assert list(tmp_path.iterdir()) == []


def test_bad_devices(base, encoded, tmp_path):
    for device in ("cuda:1", "meta", "abacus"):
        with pytest.raises(ModelError, match="device"):
            finetune(base, encoded, tmp_path / "adapter", SETTINGS, device=device)


def test_model_without_rope_is_refused(encoded, tmp_path):
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=400)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="no rotary position embedding"):
        finetune(tmp_path / "base", encoded, tmp_path / "adapter", SETTINGS)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("values", [
    {"rank": 0}, {"rank": 2.5}, {"epochs": True}, {"lr": 0.0}, {"lr": "3e-3"}, {"alpha": float("inf")},
    {"rope_theta": 1}, {"max_length": 1}, {"target_modules": ()}, {"target_modules": ("gate_proj",)},
    {"warmup": 1.0}, {"schedule": "step"}, {"schedule": "constant"}, {"save_steps": 0}, {"bf16": "yes"},
    {"max_grad_norm": -1}, {"seed": -1}, {"seed": None},
])
def test_bad_settings(values):
    with pytest.raises(ConfigError, match=f"`({next(iter(values))}|warmup)`"):
        changed(**values)
