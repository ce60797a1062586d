"""Cost of head detection: a plain forward pass against the same pass with the attention rows read out.

Both passes run in turn in one process, on a Llama with random weights (about 11M parameters unless told otherwise), and
keep the logits of the last position only. Reported are the medians, the median of the ratios of neighbouring passes,
and the ratio of the fastest passes, by the wall clock and, on a CPU, by the processor time of this process. On a busy
machine read the last two of the processor time.

    python benchmarks/detection_cost.py --threads 1
    python benchmarks/detection_cost.py --device cuda --dtype bfloat16 --tokens 32768 --layers 32 --width 4096 \\
        --heads 32 --head-dim 128 --kv-heads 8 --intermediate 14336 --vocab 128256 --rows 16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from retrieval_heads.attention.capture import capture_attention
from retrieval_heads.attention.reading import largest_and_mass


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("tokens", 2048, "length of each sequence"), ("batch", 1, "sequences a pass"),
        ("rows", 8, "attention rows read in each sequence (tokens of an answer)"), ("repeats", 15, "pairs of passes"),
        ("layers", 12, "layers"), ("width", 256, "hidden size"), ("heads", 16, "query heads a layer"),
        ("head-dim", 32, "size of a head"), ("kv-heads", 4, "key/value heads a layer"),
        ("intermediate", 512, "width of the feed-forward part"), ("vocab", 4096, "vocabulary"),
        ("threads", 0, "CPU threads; 0 leaves PyTorch's choice"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default float32)")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    return parser.parse_args()


def build(options: argparse.Namespace) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=options.vocab, hidden_size=options.width, intermediate_size=options.intermediate,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        head_dim=options.head_dim, max_position_embeddings=options.tokens, dtype=options.dtype,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        return AutoModelForCausalLM.from_config(config).eval()


def timed(run: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds of one run by the wall clock and by the processor time of this process."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(options: argparse.Namespace) -> pd.DataFrame:
    model = build(options)
    shape, device = (options.batch, options.tokens), options.device
    ids = torch.randint(0, options.vocab, shape, device=device)
    rows = torch.arange(options.tokens - options.rows - 1, options.tokens - 1, device=device).expand(options.batch, -1)
    inside = torch.zeros(shape, dtype=torch.bool, device=device)
    inside[:, options.tokens // 4 : options.tokens // 4 + 20] = True

    def plain() -> None:
        model(input_ids=ids, logits_to_keep=1, use_cache=False)

    def reading() -> None:
        with capture_attention(model, rows, largest_and_mass(inside)) as layers:
            model(input_ids=ids, logits_to_keep=1, use_cache=False)
        for part in zip(*layers, strict=True):
            torch.stack(part).cpu()

    with torch.inference_mode():
        timed(plain, device), timed(reading, device)  # the first passes allocate
        seconds = {plain: [], reading: []}
        for turn in range(options.repeats):
            for run in (plain, reading) if turn % 2 else (reading, plain):
                seconds[run].append(timed(run, device))
    table = []
    for clock, name in enumerate(("wall", "cpu") if device == "cpu" else ("wall",)):
        before, after = ([pair[clock] for pair in seconds[run]] for run in (plain, reading))
        table.append({
            "clock": name, "plain_s": median(before), "reading_s": median(after),
            "ratio_of_medians": median(after) / median(before),
            "median_ratio": median(b / a for a, b in zip(before, after, strict=True)),
            "ratio_of_fastest": min(after) / min(before),
        })
    parameters = sum(weight.numel() for weight in model.parameters())
    settings = {key: value for key, value in vars(options).items() if key != "csv"}
    return pd.DataFrame(table).assign(parameters=parameters, **settings)


if __name__ == "__main__":
    chosen = arguments()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    result = measure(chosen)
    print(f"{result.parameters[0] / 1e6:.1f}M parameters, {chosen.batch} x {chosen.tokens} tokens, {chosen.rows} rows, "
          f"{chosen.dtype} on {chosen.device}, {chosen.repeats} pairs of passes")
    print(result.iloc[:, :6].to_string(index=False, float_format="{:.4f}".format))
    if chosen.csv:
        result.to_csv(chosen.csv, index=False)
