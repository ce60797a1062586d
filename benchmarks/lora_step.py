"""One LoRA step at full length: the Trainer's default against logits at the answer and selective checkpointing.

The variants take turns in one process, on one model with random weights, by default of the shape of Llama-3-8B:

    default         logits of all positions, full activation checkpointing, as the Trainer of transformers does
    answer_rows     the same with logits at the positions that predict answer tokens only
    keep_attention  besides, checkpointing keeps each layer's attention output
    ours            besides, it keeps projections in as many layers as `--memory` allows, and takes no detours in fp32

All go through accelerate's bf16 autocast, as in the Trainer, and end with clipping and AdamW. The learning rate is 0,
so that all variants differentiate the same loss; the columns `loss` and `grad_norm` show that they do. In its turn a
variant makes two steps: the first one allocates and is not counted. One that runs out of memory is reported as such.

    python benchmarks/lora_step.py --out lora_step.csv                       # on a GPU, about 80 GB
    python benchmarks/lora_step.py --device cpu --layers 2 --hidden 64 --intermediate 96 --heads 4 --kv-heads 2 \\
        --head-dim 16 --vocabulary 500 --tokens 256 --steps 2

The floor counts what a step cannot do without: products of the frozen projections in the forward pass and, for the
gradient of activations, once more in the backward pass (2 operations a weight and token each), causal attention (2
products forward, 5 backward, half of the square each), adapters. Neither anything computed again nor the logits count.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from retrieval_heads.data.tokenizer import quiet
from retrieval_heads.training.answer_trainer import IGNORED, Batch, answer_loss
from retrieval_heads.training.checkpointing import checkpoint_layers, layers_with_products, lean_step
from retrieval_heads.training.lora_settings import ATTENTION_PROJECTIONS, floor_tflop

VARIANTS = ("default", "answer_rows", "keep_attention", "ours")
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("tokens", 32_768, "length of the sequence"), ("answer", 16, "tokens of the answer, at the end"),
        ("steps", 5, "steps of each variant"), ("layers", 32, "layers"), ("hidden", 4096, "hidden size"),
        ("heads", 32, "query heads a layer"), ("kv-heads", 8, "key/value heads a layer"),
        ("head-dim", 128, "size of a head"), ("intermediate", 14_336, "width of the feed-forward part"),
        ("vocabulary", 128_256, "words"), ("rank", 8, "rank of the adapters"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="(default all)")
    parser.add_argument("--attention", choices=["auto", *BACKENDS], default="auto", help="kernel (default torch's own)")
    parser.add_argument("--memory", type=float, default=76, help="GB that `ours` may plan for (default 76)")
    parser.add_argument("--seconds", type=float, default=420, help="begin no step after so many (default 420)")
    parser.add_argument("--tflops", type=float, default=790, help="the device's dense bf16 TFLOP/s (default 790)")
    parser.add_argument("--device", default="cuda", help="cpu or cuda (default cuda)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write each step to this file as it ends")
    return parser.parse_args()


def build(options: argparse.Namespace) -> PeftModel:
    """The model with random adapters, made in bf16 on the device; both factors random, so that both get gradients."""
    config = LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=options.intermediate,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        head_dim=options.head_dim, max_position_embeddings=options.tokens, dtype="bfloat16",
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 4_000_000.0},
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return get_peft_model(model, LoraConfig(
        r=options.rank, lora_alpha=options.rank, target_modules=list(ATTENTION_PROJECTIONS), lora_dropout=0.0,
        task_type="CAUSAL_LM", init_lora_weights=False,
    )).train()


class SeenAttention(TorchDispatchMode):
    """Notes which attention operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.startswith("_scaled_dot_product") and "backward" not in function.__name__:
            self.names.append(function.__name__.split(".")[0].removeprefix("_scaled_dot_product_"))
        return function(*args, **(kwargs or {}))


def full_logits_loss(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch, use_cache=False).loss


def set_up(variant: str, model: PeftModel, options: argparse.Namespace) -> tuple[Callable, Any]:
    """Turn on the variant's checkpointing; its loss function and the context of its step."""
    base, loss, context = model.get_base_model(), answer_loss, nullcontext()
    if variant in ("default", "answer_rows"):
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        loss = full_logits_loss if variant == "default" else answer_loss
    elif variant == "keep_attention":
        checkpoint_layers(base)
    else:
        checkpoint_layers(base, layers_with_products(base, options.tokens, options.memory * 1e9))
        context = lean_step(model)
    return loss, context


def step(variant: str, model: Any, optimizer: torch.optim.Optimizer, batch: Batch, options: argparse.Namespace) -> dict:
    """Time one step; memory is the highest of tensors allocated at the same time."""
    cuda = options.device.startswith("cuda")
    loss_of, context = set_up(variant, model, options)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with context:
        loss = loss_of(model, batch)
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if cuda:
        torch.cuda.synchronize()
    return {
        "seconds": time.perf_counter() - start, "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0,
        "loss": loss.item(), "grad_norm": norm.item(),
    }


def turn_of(variant: str, *inputs: Any) -> dict:
    """What is measured of a variant in its turn: its second step; `inputs` are the other arguments of `step`."""
    _, optimizer, _, options = inputs
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()  # the blocks of another variant have other sizes
    try:
        with SeenAttention() as seen:
            step(variant, *inputs)
        attention = {"attention": "+".join(sorted(set(seen.names))), "attention_calls": len(seen.names)}
        return step(variant, *inputs) | attention
    except torch.OutOfMemoryError:
        optimizer.zero_grad()
        return {"loss": "out of memory"}


def measure(options: argparse.Namespace) -> list[dict]:
    began = time.monotonic()
    with quiet():
        model = build(options)
        base, rows, variants = model.get_base_model(), [], list(options.variants)
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.0)
        model = Accelerator(mixed_precision="bf16", cpu=options.device == "cpu").prepare_model(model)
    size, kept = base.num_parameters() / 1e9, layers_with_products(base, options.tokens, options.memory * 1e9)
    print(f"{size:.2f}B parameters, {options.tokens} tokens; `ours` keeps products in {kept} layers", flush=True)
    ids = torch.randint(0, options.vocabulary, (1, options.tokens), device=options.device)
    labels = torch.full_like(ids, IGNORED)
    labels[:, -options.answer:] = ids[:, -options.answer:]
    for turn in range(options.steps):
        shift = turn % max(1, len(variants))
        for variant in variants[shift:] + variants[:shift]:
            if time.monotonic() - began > options.seconds:
                print(f"time is over in round {turn}", flush=True)
                return rows
            row = {"variant": variant, "round": turn}
            row |= turn_of(variant, model, optimizer, {"input_ids": ids, "labels": labels}, options)
            if "seconds" not in row:
                variants.remove(variant)
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if options.out:
                write(options.out, row, options)
    return rows


def write(path: Path, row: dict, options: argparse.Namespace) -> None:
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "variants", "seconds", "attention")}
    measured = ("seconds", "memory_gb", "loss", "grad_norm", "attention", "attention_calls")
    names = ["variant", "round", *measured, *settings, "card", "torch"]
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        if new:
            writer.writeheader()
        writer.writerow({**row, **settings, "card": card, "torch": torch.__version__})


def report(rows: list[dict], options: argparse.Namespace) -> None:
    parts = floor_tflop(options)
    floor = sum(parts.values()) / options.tflops
    print(f"floor: {floor:.3g} s for " + ", ".join(f"{name} {value:.4g} TFLOP" for name, value in parts.items())
          + f" at {options.tflops:g} TFLOP/s")
    print(f"{'variant':16}{'steps':>6}{'seconds':>10}{'peak GB':>9}{'times faster':>14}{'share of floor':>16}")
    first = None
    for variant in options.variants:
        found = [row for row in rows if row["variant"] == variant and "seconds" in row]
        if not found:
            print(f"{variant:16}     not measured: out of memory or time")
            continue
        seconds = median(row["seconds"] for row in found)
        first = seconds if variant == "default" else first
        faster = f"{first / seconds:.2f}" if first else "-"
        print(f"{variant:16}{len(found):6}{seconds:10.3f}{max(row['memory_gb'] for row in found):9.1f}{faster:>14}"
              f"{floor / seconds:16.3g}")


if __name__ == "__main__":
    chosen = arguments()
    if chosen.out:
        chosen.out.unlink(missing_ok=True)
    attention = nullcontext() if chosen.attention == "auto" else sdpa_kernel(BACKENDS[chosen.attention])
    with attention:
        report(measure(chosen), chosen)
