"""The whole making of the base model: tokenizer, training, measurements, and the folder with its files."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.causal import attention_of
from pretrain.rows import scene_texts
from pretrain.tokenizer import train_tokenizer
from pretrain.train import PretrainSettings, pretrain
from pretrain.train_log import TrainLog
from retrieval_heads.data.example import TASKS, Example
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import DataError
from retrieval_heads.evaluation import forced_exact
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.stages.base import read_log

BASE_LENGTH = 512
"""Tokens that the base model is trained to read."""

TOKENIZER_SCENES = 4000
SHARD = "12MB"
"""Largest weight file, so that the parts travel through limits on single files."""


def base_config(tokenizer: Any) -> LlamaConfig:
    """Shape of the base model: a narrow, deep Llama with many small heads.

    Depth is for chains of facts (each hop costs two or three layers), many heads are for redundancy: a study of which
    heads are learned needs more than one that can do the work. Heads x head_dim (512) is twice the width (256).
    """
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=BASE_LENGTH, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, attention_bias=False, attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )


def base_tokenizer(out: Path) -> Any:
    """The tokenizer in `out`, trained and saved there if there is none."""
    if not (out / "tokenizer.json").is_file():
        train_tokenizer(_tokenizer_texts()).save_pretrained(out)
    return embedded_tokenizer(out)


def _tokenizer_texts() -> list[str]:
    texts = []
    for index in range(TOKENIZER_SCENES):
        try:
            texts.append(" ".join(scene_texts(random.Random(f"tokenizer|{index}"), 450, 4, _estimate)))
        except DataError:  # a chain too long for this budget
            continue
    return texts


def _estimate(texts: Sequence[str]) -> list[int]:
    """Token counts before there is a tokenizer."""
    return [int(len(text) / 3.4) for text in texts]


def measure(model: Any, tokenizer: Any, examples: dict[str, list[Example]], batch_size: int = 32) -> dict[str, float]:
    """Exact match a task (teacher-forced, which equals greedy) and how many heads copy or look at the needle."""
    model.eval()
    row: dict[str, float] = {}
    with attention_of(model, "sdpa"):
        for task, members in examples.items():
            row[f"{task}_exact_match"] = float(np.mean(forced_exact(model, tokenizer, members, batch_size=batch_size)))
            for kind, found in score_heads(model, tokenizer, members, batch_size=batch_size).items():
                above = (found.scores > 0.1) & (found.scores > found.chance)
                row[f"{task}_{kind}_heads"] = int(above.sum())
                row[f"{task}_{kind}_layers"] = int(above.any(axis=1).sum())
    return row


def train_base(out: Path, settings: PretrainSettings, device: str, n: int = 64, resume: bool = False) -> None:
    """Train the base model and save it in `out`, whose weights are written over at the end.

    With `resume` it starts from the weights in `out` (a new optimizer, and new rows if the seed is another), and the
    log goes on.
    """
    tokenizer = base_tokenizer(out)
    torch.manual_seed(settings.seed)
    if resume:
        model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(base_config(tokenizer))
    common = {"condition": "real", "length": BASE_LENGTH, "n": n, "seed": 0, "split": "probe", "tokenizer": tokenizer}
    probes = {task: make_examples(task=task, **common) for task in TASKS}
    before = TrainLog(*read_log(out)) if resume else TrainLog()
    pretrain(model, tokenizer, out, settings, device, lambda trained: measure(trained, tokenizer, probes), before)
    # bfloat16 halves the files; everything reported about the model is measured after this rounding
    model.to(torch.bfloat16).save_pretrained(out, max_shard_size=SHARD)
    print(json.dumps({"parameters": model.num_parameters()}), flush=True)
