"""What the pretrained study costs: scoring, detection and training at its length, beside the least that they can take.

    python benchmarks/pretrained.py --model models/smollm2 --adapter models/pretrained/mdqa__real__s1__smollm2 \
        --data runs/pretrained-data --out results/benchmarks/pretrained.csv

The floor is the time of the passes' operations alone: products of matrices at 790 TFLOP/s, attention at the rate that
PyTorch's own kernel reaches at this length and head size, measured beside them. Scoring is also timed as the runs of
the study were scored, in batches of 32 and with keys and values copied to every head. Of a training step: forward
once and backward once (the base is frozen: two products in place of three), attention 3.5 times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch.nn.functional import scaled_dot_product_attention

from retrieval_heads import load_model
from retrieval_heads.attention import capture
from retrieval_heads.config import load_profile
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.evaluation import evaluate_each
from retrieval_heads.files import write_whole
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.models.layout import head_layout
from retrieval_heads.stages.common import batch_size
from retrieval_heads.training.finetune import finetune

MATRIX_RATE = 790e12
"""Operations a second of bf16 products of matrices on an H200, measured on random data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--n", type=int, default=600, help="test examples")
    parser.add_argument("--device", default="cuda")
    parsed = parser.parse_args()
    device, dtype = parsed.device, torch.bfloat16 if parsed.device == "cuda" else torch.float32
    model, tokenizer = load_model(parsed.model, adapter=parsed.adapter, device=device, dtype=dtype,
                                  max_length=parsed.length)
    held_out = parsed.data / "mdqa/held_out"
    test, probe = (examples_of(held_out / f"{split}_{parsed.length}", n)
                   for split, n in (("test", parsed.n), ("probe", max(1, parsed.n // 3))))
    size, (matrices, attention) = batch_size(model, parsed.length), floors(model, parsed.length, device)
    evaluate_each(model, tokenizer, test[:size], batch_size=size)  # kernels are loaded and chosen once
    with patch.object(capture, "copies_keys", lambda *_: False):
        before = timed("scoring, keys copied", len(test), matrices + attention, device,
                       lambda: evaluate_each(model, tokenizer, test, batch_size=min(32, size), losses=True))
    rows = [
        before,
        timed("scoring", len(test), matrices + attention, device,
              lambda: evaluate_each(model, tokenizer, test, batch_size=size, losses=True)),
        timed("detection", len(probe), matrices + attention, device,
              lambda: score_heads(model, tokenizer, probe, batch_size=size)),
    ]
    settings = load_profile("pretrained", train_length=parsed.length, lora={"epochs": 1, "save_steps": None,
                            "bf16": device == "cuda"}).lora_settings(0)
    train = encode_all(examples_of(parsed.data / "mdqa/real", max(2, parsed.n // 10)), tokenizer)
    with TemporaryDirectory() as folder:
        rows.append(timed("training", len(train), 2 * matrices + 3.5 * attention, device,
                          lambda: finetune(parsed.model, train, Path(folder) / "adapter", settings, device)))
    facts = {"length": parsed.length, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
             "torch": torch.__version__}
    table = pd.DataFrame(rows).assign(**facts)
    write_whole(parsed.out, table.to_csv(index=False).encode())
    print(table.to_string())


def examples_of(stem: Path, n: int) -> list[Any]:
    """The first examples of a file, packed or not."""
    plain = stem.with_name(stem.name + ".jsonl")
    return read_examples(plain if plain.is_file() else plain.with_name(plain.name + ".gz"), "mdqa", limit=n)


def floors(model: torch.nn.Module, length: int, device: str) -> tuple[float, float]:
    """Seconds of a forward pass of one sequence: of its products of matrices, and of its attention."""
    layout, words = head_layout(model), model.get_input_embeddings().weight.numel()
    matrices = 2 * (sum(weight.numel() for weight in model.parameters()) - words) * length / MATRIX_RATE
    draw = {"device": device, "dtype": model.get_input_embeddings().weight.dtype}
    query = torch.randn(1, layout.n_heads, length, layout.head_dim, **draw)
    key, value = (torch.randn(1, layout.n_kv_heads, length, layout.head_dim, **draw) for _ in range(2))

    def attend() -> None:
        scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    attend()
    return matrices, layout.n_layers * timed("attention", 20, 0, device, lambda: [attend() for _ in range(20)])["each"]


def timed(what: str, n: int, floor: float, device: str, call: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of a call on `n` sequences, and of each of them, beside the floor of one."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    each = seconds / n
    return {"what": what, "n": n, "seconds": round(seconds, 2), "each": float(f"{each:.4g}"),
            "floor_each": float(f"{floor:.4g}"), "share": float(f"{floor / each:.3g}")}


if __name__ == "__main__":
    main()
