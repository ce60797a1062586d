# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What it costs: the paper's own experiment, measured
#
# **Question.** What do the paper's runs cost, a model of 8 billion parameters on 32,768 tokens? Is this code fast?

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages.costs import estimate
from retrieval_heads.takeaways.training import costs_takeaway

figures.style.use_style()
summary, passes, steps, tried, whole = map(figures.costs.benchmark_table, ("full_size", "passes", "lora_step", "costs", "costs_full"))
one = summary.iloc[0]
about = f"{one.device}, {one.parameters / 1e9:.2f}B parameters, {one.tokens:,} tokens, {one['dtype']}"
# %% tags=["remove-input"]
figures.page.takeaway(load_profile(profile), costs_takeaway(summary, whole), small="")

# %% mystnb={"figure": {"name": "fig-costs-seconds", "caption": "Seconds of each pass at full size. Bars: medians; points: single rounds; orange strokes: the floor, from operations and bytes. The bar of many questions is for all of them together."}, "image": {"alt": "Five horizontal bars of seconds with an orange stroke for the floor across each; the procedure of Wu et al. is the longest; a plain pass and detection are the shortest and equally long"}} tags=["hide-input"]
figure, axes = figures.style.panels(["8B shape, 32,768 tokens"], columns=1, height=3.2, width=figures.style.WIDTH)
figures.costs.plot_seconds(summary, passes, ax=axes[0])
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line("benchmarks", "full_size", "passes")

# %% [markdown]
# ## Time it yourself
#
# The same on this computer, with the small model: an ordinary pass, and one that also reads the attention of every head
# at the answer positions.

# %% tags=["live", "nbval-check-output"]
import time

from retrieval_heads import load_model, retrieval_scores
from retrieval_heads.data import make_examples

model, tokenizer = load_model("../models/base", rope_theta=60000, max_length=2048)
examples = make_examples(task="mdqa", condition="real", length=1024, n=4, seed=0, split="probe")  # change this: length
start = time.perf_counter()
for example in examples:
    model(**tokenizer(example.text, return_tensors="pt"), logits_to_keep=1)
print(f"plain: {1000 * (time.perf_counter() - start) / len(examples):.0f} ms")
start = time.perf_counter()
scores = retrieval_scores(model, tokenizer, examples, batch_size=1)
print(f"reading {scores.scores.size} heads: {1000 * (time.perf_counter() - start) / len(examples):.0f} ms")

# %% [markdown]
# **Exercise.** Compare with a model that hands out all its attention, as {doc}`03_head_detection` does it from scratch.
# How do time and memory grow with the length?
#
# :::{dropdown} Solution
# ```python
# model.set_attn_implementation("eager")
# for length in (256, 512):
#     [example] = make_examples(task="mdqa", condition="real", length=length, n=1, seed=0, split="probe")
#     start = time.perf_counter()
#     attention = model(**tokenizer(example.text, return_tensors="pt"), output_attentions=True).attentions
#     print(length, f"{time.perf_counter() - start:.2f} s", sum(one.nbytes for one in attention) // 2**20, "MiB")
# model.set_attn_implementation("sdpa")
# ```
# The weights of all heads take four times the memory at twice the length; the answer's rows alone take twice.
# :::

# %% [markdown]
# ## How it is measured
#
# Random weights of the shape of Llama-3-8B in bf16 on one GPU, as speed and memory do not depend on what the
# weights are. Five things take turns in one process: a plain forward pass with SDPA, detection on one question, the same
# by the procedure of {cite:t}`wu2025retrieval` (prefill, then single steps with attention returned and loops over heads),
# detection on many questions about one haystack, and 100 head sets knocked out on one question. The *floor* is what the
# card cannot do without: for each pass the larger of its operations at 790 TFLOP/s and its bytes at 4.3 TB/s. Then the
# stages of the study are tried by {ref}`the command costs <verb-costs>` on a few real examples of MDQA, MuSiQue and
# SummHay, and the whole is worked out from that.
# This page shows committed tables (`results/benchmarks`), the same for every profile; nothing is measured while it runs.

# %% tags=["hide-input"]
Markdown(f"Measured on one {about}; torch {one.torch}, transformers {one.transformers}.")

# %% tags=["hide-input"]
HTML(figures.page.table_html(summary.assign(what=figures.costs.names_of(summary))[["what", "seconds", "peak_gb", "seconds_per_question", "to_plain", "floor_seconds", "share"]], names={
    "peak_gb": "peak GB", "seconds_per_question": "seconds per question", "to_plain": "times a plain pass",
    "floor_seconds": "floor, seconds", "share": "floor over measured"}))

# %% [markdown]
# ## The targets
#
# They were set before this measurement, from earlier trials. *Missed by* is the share of the limit.

# %% tags=["hide-input"]
targets = figures.costs.speed_table(figures.costs.benchmark_table("targets"), steps)
HTML(figures.page.table_html(figures.costs.shown_targets(targets)))

# %% tags=["hide-input"]
Markdown(figures.costs.targets_text(targets))

# %% [markdown]
# ## One step of LoRA
#
# All variants make the same step: rank 8 on the attention projections, one sequence of full length, the loss on its answer.
# Each does what the one above does, and one thing more. Medians; *share* is the floor (frozen products forward and for the
# gradient, attention, adapters, nothing twice) over the seconds.

# %% tags=["hide-input"]
lora = figures.costs.lora_table(steps)
HTML(figures.page.table_html(lora.assign(variant=lora.variant.map(figures.costs.VARIANTS)), names={
    "peak_gb": "peak GB", "times_faster": "times faster", "share": "floor over measured"}))

# %% [markdown]
# ## The whole study
#
# Each stage as the command `costs` tried it, and the study of the profile `paper` for one model: three tasks, seven
# conditions, three seeds. *Seconds* are per run, *hours* of all runs on one card.

# %% tags=["hide-input"]
HTML(figures.page.table_html(whole, digits=1, names={"examples": "examples per run", "peak_gb": "peak GB", "disk_gb": "disk, GB"}))

# %% tags=["nbval-check-output", "remove-cell"]
print("targets met:", (targets.met == "yes").sum(), "of", len(targets))
print("tried:", ", ".join(whole.stage[:-1]), "on", ", ".join(tried.task.unique()))
assert (summary.seconds > summary.floor_seconds).all()
assert (summary.repeats >= 5).all()
again = estimate(tried, load_profile("paper"))
assert (again.hours - whole.hours).abs().max() < 1e-6, "results/benchmarks/costs_full.csv is of another profile `paper`"
assert lora.set_index("variant").times_faster["default"] == 1

# %% [markdown]
# ## Measured again
#
# ```bash
# python benchmarks/full_size.py --out results/benchmarks                # GPU of 80 GB, two minutes
# python benchmarks/lora_step.py --out results/benchmarks/lora_step.csv
# python -m retrieval_heads costs --profile paper --random-weights llama-3-8b --data DATA --out results/benchmarks
# ```
#
# `DATA` is a folder of real examples at full length; {doc}`../full_size` says how it is made, and how the study itself is
# run. What the columns mean is in `results/benchmarks/README.md`.
#
# ## Limits
#
# One card, on one day, and random weights: a trained model answers with other lengths, so its own answers
# take another time. The procedure of Wu et al. loops over heads in Python, so the speed-up also depends on the
# CPU: another run of the same detection, on another machine with such a card, missed the
# target, as the loop was quicker there. Peaks of the third and later rounds hold what earlier passes had left to the
# garbage collector.
# The study's hours are summed up from two examples of each kind in two runs of each task, with the compilation and the
# warming up of the first pass counted as if they grew with the examples, so they are rather too high. Scores at further
# lengths, which the stage `lengths` makes, are not in them. The peak of the training is what the card offers: as many
# activations are kept as fit into 85% of its free memory, so on a smaller card it is lower and the step slower.
