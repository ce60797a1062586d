"""LoRA fine-tuning that is interrupted, repeated or misused: the same bytes, or one clear error and no folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from model_folders import ADAPTER_FILES, SETTINGS, digests, settings
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from retrieval_heads.data.encode import Encoded
from retrieval_heads.errors import ConfigError, DataError, ModelError, ResultError
from retrieval_heads.training import answer_trainer
from retrieval_heads.training.answer_trainer import answer_loss
from retrieval_heads.training.finetune import finetune


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


@contextmanager
def killed_in(owner: type, name: str, when: Callable[..., bool], after: bool = False) -> Iterator[None]:
    """The block ends, as by the death of the process, in the call of a method for whose arguments `when` holds."""
    original = getattr(owner, name)

    def killed(*args, **kwargs):
        now = when(*args)
        done = original(*args, **kwargs) if after or not now else None
        if now:
            raise KilledError
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KilledError):
            yield


def in_step(number: int) -> Callable[..., bool]:
    return lambda trainer, *_: trainer.state.global_step == number


def of_adapter(model: PeftModel, folder: str | Path) -> bool:
    return Path(folder).name == "adapter"


def test_process_killed_outright_resumes_in_another_to_the_same_bytes(base, encoded, finished, tmp_path):
    (tmp_path / "examples.json").write_text(json.dumps([[e.ids, e.prompt_length, e.answer_length] for e in encoded]))
    program = (
        "import json, os, signal, sys, torch\n"
        "from transformers import Trainer\n"
        "from retrieval_heads.data.encode import Encoded\n"
        "from retrieval_heads.training.finetune import finetune\n"
        "from retrieval_heads.training.lora_settings import LoraSettings\n"
        "torch.set_num_threads(1)\n"
        "original = Trainer.training_step\n"
        "def step(trainer, *args, **kwargs):\n"
        "    if trainer.state.global_step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(trainer, *args, **kwargs)\n"
        "Trainer.training_step = step\n"
        "rows = json.load(open('examples.json'))\n"
        "examples = [Encoded(tuple(ids), prompt, answer, ()) for ids, prompt, answer in rows]\n"
        f"finetune(sys.argv[1], examples, 'adapter', {SETTINGS!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(base)], cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "adapter").exists()
    assert finetune(base, encoded, tmp_path / "adapter", SETTINGS)["timing"]["resumed_from_step"] == 4
    assert digests(tmp_path / "adapter") == digests(finished)


@pytest.mark.parametrize(("step", "accumulation"), [(3, 1), (2, 2)])
def test_killed_run_resumes_to_the_same_bytes(step, accumulation, base, encoded, tmp_path):
    wanted = settings(epochs=3, batch_size=2, save_steps=2, accumulation=accumulation)
    finetune(base, encoded, tmp_path / "whole", wanted)
    with killed_in(Trainer, "training_step", in_step(step)):
        finetune(base, encoded, tmp_path / "adapter", wanted)
    assert not (tmp_path / "adapter").exists()
    torch.manual_seed(99)  # a new process has another random state
    record = finetune(base, encoded, tmp_path / "adapter", wanted)
    assert record["timing"]["resumed_from_step"] == 2 * (step // 2)
    assert digests(tmp_path / "adapter") == digests(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "whole"]


def test_checkpoints_come_by_time_too(base, encoded, tmp_path, monkeypatch):
    wanted = settings(epochs=2, batch_size=2, save_steps=100)
    finetune(base, encoded, tmp_path / "whole", wanted)
    monkeypatch.setattr(answer_trainer, "SAVE_SECONDS", 0.0)  # a minute has passed after each step
    with killed_in(Trainer, "training_step", in_step(3)):
        finetune(base, encoded, tmp_path / "adapter", wanted)
    monkeypatch.undo()
    record = finetune(base, encoded, tmp_path / "adapter", wanted)
    assert record["timing"]["resumed_from_step"] == 3
    assert digests(tmp_path / "adapter") == digests(tmp_path / "whole")


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_saving_leaves_no_half_adapter(after, base, encoded, finished, tmp_path):
    with killed_in(PeftModel, "save_pretrained", of_adapter, after):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert not (tmp_path / "adapter").exists()
    assert finetune(base, encoded, tmp_path / "adapter", SETTINGS)["timing"]["resumed_from_step"] == 6
    assert digests(tmp_path / "adapter") == digests(finished)


def test_half_written_checkpoint_is_not_resumed_from(base, encoded, finished, tmp_path):
    with killed_in(Trainer, "_save_rng_state", in_step(4)):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert finetune(base, encoded, tmp_path / "adapter", SETTINGS)["timing"]["resumed_from_step"] == 2
    assert digests(tmp_path / "adapter") == digests(finished)


def test_interrupted_run_of_other_settings_is_not_resumed(base, encoded, tmp_path):
    with killed_in(PeftModel, "save_pretrained", of_adapter):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert finetune(base, encoded, tmp_path / "adapter", settings(seed=1))["timing"]["resumed_from_step"] == 0


def test_finished_folder_is_not_trained_again(base, encoded, finished, monkeypatch):
    monkeypatch.setattr(Trainer, "train", None)
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    record = finetune(base, encoded, finished, SETTINGS)
    assert record["steps"] == 6
    assert record["timing"]["seconds"] > 0
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_finished_folder_of_other_settings_is_refused(base, encoded, finished):
    for examples, wanted in ((encoded, settings()), (encoded[:3], SETTINGS)):
        with pytest.raises(ResultError, match="other settings"):
            finetune(base, examples, finished, wanted)


def test_folder_of_something_else_is_refused(base, encoded, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResultError, match="not a finished adapter folder"):
        finetune(base, encoded, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_is_filled(base, encoded, tmp_path):
    (tmp_path / "adapter").mkdir()
    finetune(base, encoded[:1], tmp_path / "adapter", settings())
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == ADAPTER_FILES


def test_diverging_run_stops_and_leaves_nothing(base, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "retrieval_heads.training.answer_trainer.answer_loss",
        lambda model, batch, n: answer_loss(model, batch, n) * float("nan"),
    )
    with pytest.raises(ModelError, match="training step 1: the loss is not finite"):
        finetune(base, encoded, tmp_path / "adapter", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_bad_examples(base, encoded, tmp_path):
    for examples, wanted, message in (
        ([], SETTINGS, "nothing to train on"),
        (encoded, settings(max_length=20), "training example 0: .* tokens are more than `max_length`, 20"),
        ([Encoded((1, 5, 400), 2, 1, ())], SETTINGS, "a token id is beyond the 400 of the model"),
    ):
        with pytest.raises(DataError, match=message):
            finetune(base, examples, tmp_path / "adapter", wanted)
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
        settings(**values)
