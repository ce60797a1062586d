"""Detection and knock-out at full size, side by side with a plain forward pass and with the procedure of Wu et al.

Random weights, by default of the shape of Llama-3-8B, made in bf16 on the GPU; random tokens, so no tokenizer. The five
take turns in one process, and medians are reported. The first round warms up and is not counted.

    plain           forward pass over one sequence, SDPA, logits of the last position
    detection       scores of all heads on one question
    wu              what retrieval_head_detection.py of Wu et al. (arXiv 2404.15574) does with one question
    detection_many  scores on 16 questions about one haystack
    knockout        100 head sets knocked out where one answer is predicted

    python benchmarks/full_size.py --out FOLDER                     # on a GPU with 80 GB, about two minutes
    python benchmarks/full_size.py --out FOLDER --layers 2 --hidden 64 --heads 4 --kv-heads 2 --intermediate 96 \\
        --vocab 500 --tokens 1024                                   # a try on a CPU

Files, written anew after each pass: `passes.csv` (every pass), `full_size.csv` (a row each of the five) and
`targets.csv`. The floor is the time that the device cannot do without: for each pass over the model the larger of its
operations at `--tflops` and its bytes (weights, cached keys and values) at `--tbytes`; `share` is floor over measured.
Detection needs of the last layer the queries, keys and values only, and no logits: so it can be quicker than `plain`.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before torch is imported; passes of different sizes would leave holes in the memory
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np
import torch
import transformers
from full_size_table import QUESTION, summary, targets, write
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from retrieval_heads.data.encode import Encoded
from retrieval_heads.heads.ablate import knock_out
from retrieval_heads.heads.cached_prompts import CachedPrompts, Packing, unique_sets
from retrieval_heads.heads.readout import displaced_spans
from retrieval_heads.heads.scores import score_encoded
from retrieval_heads.models.layout import head_layout


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("layers", 32, "layers"), ("hidden", 4096, "hidden size"), ("heads", 32, "query heads a layer"),
        ("kv-heads", 8, "key/value heads a layer"), ("intermediate", 14_336, "width of the feed-forward part"),
        ("vocab", 128_256, "vocabulary"), ("tokens", 32_768, "length of the sequence"), ("repeats", 5, "rounds"),
        ("answer", 16, "tokens of an answer, and steps that are decoded for Wu et al."),
        ("questions", 16, "questions on the haystack"), ("sets", 100, "head sets"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--seconds", type=float, default=400, help="begin no round after so many (default 400)")
    parser.add_argument("--tflops", type=float, default=790, help="dense bf16 TFLOP/s of the device (default 790)")
    parser.add_argument("--tbytes", type=float, default=4.3, help="TB/s of its memory (default 4.3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="(default bfloat16)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    return parser.parse_args()


def build(options: argparse.Namespace) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=options.vocab, hidden_size=options.hidden, intermediate_size=options.intermediate,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.tokens, tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        dtype = getattr(torch, options.dtype)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def make_questions(options: argparse.Namespace) -> list[Encoded]:
    """Questions on one random haystack, whose needles lie at depths from its beginning to its end."""
    rng = np.random.default_rng(0)
    length = options.tokens - QUESTION - options.answer - 1
    haystack, found = rng.integers(3, options.vocab, length), []
    for start in np.linspace(0, length - options.answer, options.questions + 2).astype(int)[1:-1].tolist():
        question, needle = rng.integers(3, options.vocab, QUESTION), haystack[start : start + options.answer]
        ids = tuple(np.concatenate([haystack, question, needle, [2]]).tolist())
        found.append(Encoded(ids, length + QUESTION, options.answer, ((start, start + options.answer),), length))
    return found


def make_sets(options: argparse.Namespace) -> dict[str, tuple[tuple[int, int], ...]]:
    """Random head sets, all different, of up to ten heads."""
    rng, sets, n = np.random.default_rng(1), set(), options.layers * options.heads
    while len(sets) < options.sets:
        chosen = rng.choice(n, rng.integers(1, min(10, n) + 1), replace=False)
        sets.add(tuple(sorted((int(one) // options.heads, int(one) % options.heads) for one in chosen)))
    return {str(place): heads for place, heads in enumerate(sorted(sets))}


def wu_procedure(model: PreTrainedModel, one: Encoded, n_steps: int, device: str) -> list[list[float]]:
    """SDPA over the prompt, then single greedy steps with eager attention returned, and a loop over layers and heads.

    After `decode` and `retrieval_calculate` of retrieval_head_detection.py in github.com/nightdessert/Retrieval_Head:
    for every head of every step a topk, a comparison that waits for the device, and sums in Python. To its advantage
    here: the prompt's pass keeps the logits of one position, where the original has those of all.
    """
    prompt = torch.tensor([one.ids[: one.prompt_length]])
    n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
    [(start, end)] = one.needles
    scores = [[0.0] * n_heads for _ in range(n_layers)]
    given = prompt.to(device)
    cache = model(input_ids=given[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
    model.set_attn_implementation("eager")
    try:
        token = given[0, -1]
        for _ in range(n_steps):
            output = model(input_ids=token.view(1, 1), past_key_values=cache, use_cache=True, output_attentions=True)
            token = output.logits[0, -1].argmax()
            if len(output.attentions) != n_layers:
                raise SystemExit("the model returned no attention: the comparison would be with nothing")
            for layer in range(n_layers):
                for head in range(n_heads):
                    _, places = output.attentions[layer][0][head][-1].topk(1)
                    for place in places:
                        if start <= place < end and token.item() == prompt[0, place].item():
                            scores[layer][head] += 1 / (end - start)
    finally:
        model.set_attn_implementation("sdpa")
    return scores


def make_runs(model: PreTrainedModel, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    questions, sets, layout = make_questions(options), make_sets(options), head_layout(model)
    ids = torch.tensor([questions[0].ids], device=options.device)
    packing = Packing(model, layout, unique_sets(sets), 32)

    def detect(some: list[Encoded]) -> Any:
        displaced_spans.cache_clear()  # they are a part of the cost
        return score_encoded(model, dict(enumerate(some)))

    def knockout() -> Any:
        zero = {"zero": lambda masks, copies: knock_out(layout, masks, "zero")}
        return packing.scores(CachedPrompts(model, questions[:1]), zero)["zero"][..., 1].cpu()

    return {
        "plain": lambda: model(input_ids=ids, logits_to_keep=1, use_cache=False).logits.argmax().item(),
        "detection": lambda: detect(questions[:1]),
        "wu": lambda: wu_procedure(model, questions[0], options.answer, options.device),
        "detection_many": lambda: detect(questions),
        "knockout": knockout,
    }


def measured(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds, and the largest memory in GB (NaN on a CPU)."""
    if device == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin, math.nan
    gc.collect()  # what passes before have left is not this one's
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin, torch.cuda.max_memory_allocated() / 1e9


@torch.inference_mode()
def main() -> None:
    options, begin = arguments(), time.perf_counter()
    model = build(options)
    about = {
        "device": "cpu" if options.device == "cpu" else torch.cuda.get_device_name(), "dtype": options.dtype,
        "tokens": options.tokens, "parameters": sum(weight.numel() for weight in model.parameters()),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }
    counted: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: counted.append(args[0].numel()))
    runs, passes = make_runs(model, options), []
    for turn in range(options.repeats + 1):
        if turn > 1 and time.perf_counter() - begin > options.seconds:
            break
        for what, run in runs.items():
            counted.clear()
            seconds, peak = measured(run, options.device)
            print(f"round {turn} {what}: {seconds:.3f} s, {peak:.2f} GB, {sum(counted)} tokens", flush=True)
            if turn:
                one = {"round": turn, "what": what, "seconds": seconds, "peak_gb": peak, "tokens_run": sum(counted)}
                passes.append(one)
                rows = summary(passes, options)
                for name, table in (("passes", passes), ("full_size", rows), ("targets", targets(rows))):
                    write(options.out / f"{name}.csv", [row | about for row in table])
    for one in targets(summary(passes, options)):
        print(f"{one['target']}: {one['reached']:.3f} ({one['limit']})")


if __name__ == "__main__":
    main()
