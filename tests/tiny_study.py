"""A study that takes a second: a tiny random model with the base's tokenizer, a profile and training sets for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.paths import configs_folder


def save_tiny_base(folder: Path, seed: int = 0) -> Path:
    """A model folder with the base's tokenizer; random weights, so that nothing is known of its scores."""
    tokenizer = embedded_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
            "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=6,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, eos_token_id=tokenizer.eos_token_id,
        ))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cited(length: int = 200, **which) -> list[Example]:
    """Examples of mdqa called citations, so that heads are scored by where they look: a random model copies nothing."""
    return [replace(one, task="summhay", answer="[1]", answers=("[1]",))
            for one in make_examples(task="mdqa", length=length, seed=0, **which)]


def write_sets(folder: Path) -> list[Example]:
    """A tiny base, two training sets of unequal size, a real one, and `eval.jsonl` of 6 real examples, given back."""
    save_tiny_base(folder / "base")
    for name, n in (("high_high", 3), ("low_low", 2), ("real", 3)):
        write_examples(folder / f"{name}.jsonl", cited(condition=name, n=n))
    held_out = cited(condition="real", n=6, split="test")
    write_examples(folder / "eval.jsonl", held_out)
    return held_out


def write_profile(path: Path, *bases: Path, **changes) -> Path:
    """A profile of two runs a base model, with a checkpoint at every step of the fine-tuning; returns its path."""
    profile = yaml.safe_load((configs_folder() / "smoke.yaml").read_text(encoding="utf-8"))
    profile |= {
        "bases": [str(base) for base in bases], "tasks": ["mdqa"], "conditions": ["real", "symbolic"],
        "seeds": [0], "train_length": 256, "eval_lengths": [256], "n_train": 4, "n_probe": 2, "n_test": 2,
        "bootstrap": 50, "workers": 1, "device": "cpu", "threads": 1,
    }
    profile["lora"] |= {"batch_size": 1, "accumulation": 1, "epochs": 2, "save_steps": 1}
    profile["detect"] |= {"threshold": 0.02, "thresholds": [0.02, 0.1]}
    profile["knockout"] |= {"modes": ["zero"], "scopes": ["answer"], "k": [1], "draws": 1, "n": 2}
    profile["patch"] |= {"draws": 1, "n": 2}
    path.write_text(yaml.safe_dump(profile | changes, sort_keys=False), encoding="utf-8")
    return path
