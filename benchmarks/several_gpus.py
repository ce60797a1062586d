"""Several processes that train one run together give the losses and the adapter of one process: by DDP and by FSDP.

A model of the embedded one's shape with random weights is fine-tuned by the command line that a user gives (`run
finetune`), once by one process, then by several, on a GPU each with NCCL or on the CPU with gloo. In `float32` the
losses differ by rounding alone; in `bfloat16` the base model lies in bf16 and the adapters in float32, as at full size.

    python benchmarks/several_gpus.py --out several_gpus.csv                 # two GPUs, two minutes
    python benchmarks/several_gpus.py --out several_gpus.csv --device cpu --tokens 768 --examples 8

Prints a row for each way and precision, and ends with exit status 1 where one differs by more than `LIMITS`:
`loss_difference` is the largest difference of a step's loss over the largest loss, `adapter_difference` the norm of the
difference of the adapters over the norm of what one process has learned (of the second factors, which begin at 0).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from retrieval_heads.data.tokenizer import BASE_PATH, embedded_tokenizer
from retrieval_heads.paths import configs_folder
from retrieval_heads.training.processes import FSDP_VARIABLE

WAYS = ("one", "ddp", "fsdp")
LIMITS = {"float32": 1e-3, "bfloat16": 2e-2}
"""Of `loss_difference`."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="table, a row a way and precision")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that train together (default 2)")
    parser.add_argument("--tokens", type=int, default=1024, help="length of the training examples")
    parser.add_argument("--examples", type=int, default=32, help="in two passes over them, 4 a step")
    parser.add_argument("--precision", nargs="+", choices=tuple(LIMITS), default=list(LIMITS))
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.device == "cuda" and torch.cuda.device_count() < given.processes:
        sys.exit(f"error: --processes: {torch.cuda.device_count()} GPUs are there (got {given.processes}). "
                 "Give fewer processes, or --device cpu.")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for precision in given.precision:
            profile = write_profile(Path(scratch) / precision, precision, given)
            found = {way: trained(way, profile, given) for way in WAYS}
            rows += [compared(way, precision, found, given) for way in WAYS]
            pd.DataFrame(rows).to_csv(given.out, index=False, float_format="%.4g")
    print(pd.DataFrame(rows).to_string(index=False))
    if wrong := [row for row in rows if not row["loss_difference"] <= LIMITS[row["precision"]]]:
        sys.exit(f"error: {len(wrong)} of {len(rows)} rows differ from one process by more than {LIMITS}.")


def write_profile(folder: Path, precision: str, given: argparse.Namespace) -> Path:
    """A study of one run, and its base model in the wanted precision; the profile's path."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(BASE_PATH)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision)).save_pretrained(folder / "base")
    embedded_tokenizer().save_pretrained(folder / "base")
    profile = yaml.safe_load((configs_folder() / "smoke.yaml").read_text(encoding="utf-8"))
    profile |= {"bases": [str(folder / "base")], "conditions": ["real"], "train_length": given.tokens,
                "eval_lengths": [given.tokens], "n_train": given.examples, "device": given.device}
    profile["lora"] |= {"epochs": 2, "batch_size": 2, "accumulation": 2, "bf16": precision == "bfloat16",
                        "gradient_checkpointing": True}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


def trained(way: str, profile: Path, given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, torch.Tensor], float]:
    """The losses, the adapter and the seconds of one training, each in processes of its own."""
    home = profile.parent / way
    job = ["-m", "retrieval_heads", "run", "finetune", "--profile", str(profile), "--home", str(home)]
    start = time.perf_counter()
    subprocess.run([sys.executable, *launcher(way, given), *job], check=True, timeout=300,
                   env={**os.environ, FSDP_VARIABLE: str(way == "fsdp").lower()})
    seconds = time.perf_counter() - start
    adapter = next(home.glob("runs/*/adapters/*/adapter_model.safetensors"))
    losses = pd.read_csv(next(home.glob("runs/*/tables/losses.csv"))).sort_values("step")
    return losses, load_file(adapter), seconds


def launcher(way: str, given: argparse.Namespace) -> list[str]:
    if way == "one":
        return []
    if given.device == "cpu":  # accelerate starts one process there
        return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(given.processes)]
    fsdp = ["--use_fsdp"] if way == "fsdp" else ["--multi_gpu"]
    return ["-m", "accelerate.commands.launch", "--num_processes", str(given.processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", *fsdp]


def compared(way: str, precision: str, found: dict, given: argparse.Namespace) -> dict[str, object]:
    (alone, one, _), (losses, adapter, seconds) = found["one"], found[way]
    if list(losses.step) != list(alone.step) or one.keys() != adapter.keys():
        sys.exit(f"error: {way} in {precision} made other steps or other weights than one process.")
    learned = [name for name in one if "lora_B" in name]
    device = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    return {
        "way": way, "precision": precision, "processes": 1 if way == "one" else given.processes, "device": device,
        "steps": len(losses), "first_loss": losses.loss.iloc[0], "last_loss": losses.loss.iloc[-1],
        "loss_difference": float(np.abs(losses.loss.to_numpy() - alone.loss.to_numpy()).max() / alone.loss.max()),
        "adapter_difference": norm(adapter[name] - one[name] for name in learned) / norm(one[n] for n in learned),
        "seconds": seconds,
    }


def norm(tensors) -> float:
    return float(sum(tensor.float().square().sum() for tensor in tensors) ** 0.5)


if __name__ == "__main__":
    main()
