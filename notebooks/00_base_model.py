# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The base model
#
# What can the model do before it is extended? It reads 512 tokens. Everything later is measured against it: at the
# extended length it should answer next to nothing.
#
# Exact match is the share of held-out real examples whose answer is right to the word, after the normalisation of SQuAD
# {cite:p}`rajpurkar2016squad`. The model as it is has the condition `base`; with its RoPE theta raised and no training, `rope`.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
import json

from retrieval_heads.cli import Options
from retrieval_heads.config import load_profile
from retrieval_heads.figures.style import panels, use_style
from retrieval_heads.models.base import BASE_PATH
from retrieval_heads.stages import base
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
made = base.run(settings, Options())
scores = load_table(profile, "base")

# %% mystnb={"figure": {"name": "base-scores", "caption": "Exact match of the base model on held-out real examples, by length; bars are 95% bootstrap intervals."}, "image": {"alt": "Exact match of the base model and of the model with raised RoPE theta for each test length"}} tags=["hide-input"]
figure, axes = panels(list(settings.tasks))
for task, ax in zip(settings.tasks, axes, strict=True):
    rows = scores[(scores.task == task) & (scores.metric == "exact_match")]
    for condition, part in rows.groupby("condition"):
        ax.errorbar(part.eval_length, part.value, yerr=[part.value - part.low, part.high - part.value], fmt="o-",
                    capsize=3, label=condition)
    ax.set(ylim=(-0.03, 1.03), ylabel="exact match (fraction)", xlabel="length (tokens)")
    ax.legend()

# %% mystnb={"figure": {"name": "base-log", "caption": "Loss on answer tokens while the base model was trained, against the tokens read."}, "image": {"alt": "The answer loss falls in steps as the model learns each task"}} tags=["hide-input"]
log = json.loads((BASE_PATH / "train_log.json").read_text())
rows = [row for row in log["log"] if "answer_loss" in row]
figure, (ax,) = panels([""])
ax.plot([row["tokens"] / 1e6 for row in rows], [row["answer_loss"] for row in rows])
_ = ax.set(yscale="log", xlabel="tokens read (millions)", ylabel="answer loss (nats a token)")

# %% tags=["hide-input"]
scores[scores.metric == "exact_match"].drop(columns="metric").round(3)

# %% tags=["nbval-check-output"]
print(sorted(scores.task.unique()), sorted(scores.condition.unique()), sorted(scores.eval_length.unique().tolist()))
assert scores.value.between(0, 1).all()

# %% [markdown]
# **Limits.** With the `smoke` profile the numbers show only that the pipeline runs: a few examples, hardly any training.
# `make study` shows the `quick` profile.
