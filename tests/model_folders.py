"""Model and adapter folders for the tests of loading and fine-tuning."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.models.extension import Extension, fingerprint
from retrieval_heads.models.load import build_model
from retrieval_heads.training.lora_settings import ATTENTION_PROJECTIONS, LoraSettings

ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json", "extension.json", "training.json", "timing.json"}


SETTINGS = LoraSettings(rope_theta=80_000, max_length=2048, epochs=2, batch_size=2, lr=1e-2, save_steps=2)
"""Of the fixture `finished`."""


def save_model(folder: Path, model, tokenizer) -> Path:
    """A model folder; returns it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A random adapter at theta 80,000 and 4096 tokens, written as `finetune` does; returns its folder."""
    with quiet():
        model = get_peft_model(
            build_model(base, torch.float32, 80_000.0, 4096),
            LoraConfig(r=8, lora_alpha=8, target_modules=list(ATTENTION_PROJECTIONS)),
        )
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.3)
    model.save_pretrained(folder, save_embedding_layers=False)
    Extension("base", fingerprint(base), 80_000.0, 4096, 8, 8.0, ATTENTION_PROJECTIONS).write(folder)
    return folder


def settings(**changes) -> LoraSettings:
    """One short epoch at theta 80,000 without checkpoints, but for `changes`."""
    return LoraSettings(**{"rope_theta": 80_000, "max_length": 2048, "epochs": 1, "save_steps": None, **changes})


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file but the one that may differ."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        if path.name != "timing.json"
    }
