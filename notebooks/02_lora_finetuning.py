# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # LoRA fine-tuning
#
# Claim C1: models trained on synthetic data fall short of models trained on real data. One adapter is trained for each
# task, condition and seed by {term}`LoRA` {cite:p}`hu2022lora` on the attention projections, and scored on held-out real examples.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from retrieval_heads.cli import Options
from retrieval_heads.config import load_profile
from retrieval_heads.figures.style import panels, use_style
from retrieval_heads.stages import finetune
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
made = finetune.run(settings, Options())
scores = load_table(profile, "performance")

# %% mystnb={"figure": {"name": "performance", "caption": "Exact match on held-out real examples at the longest length, by training condition; 95% bootstrap intervals over examples."}, "image": {"alt": "Exact match for each training condition with intervals"}} tags=["hide-input"]
figure, axes = panels(list(settings.tasks))
for task, ax in zip(settings.tasks, axes, strict=True):
    rows = scores[(scores.task == task) & (scores.metric == "exact_match") & (scores.eval_length == scores.eval_length.max())]
    ax.errorbar(rows.condition, rows.value, yerr=[rows.value - rows.low, rows.high - rows.value], fmt="o", capsize=3)
    ax.set(ylim=(-0.03, 1.03), ylabel="exact match (fraction)", xlabel="trained on")
    ax.tick_params(axis="x", rotation=45)

# %% tags=["hide-input"]
load_table(profile, "shortfall").round(3)

# %% tags=["nbval-check-output"]
print(scores.groupby("task").condition.nunique().to_dict(), "conditions a task")
assert {"real"} <= set(scores.condition)
assert scores.value.between(0, 1).all()

# %% [markdown]
# The table gives how much less each condition scores than `real`, as a mean of paired differences with its interval: an
# interval that includes 0 shows no shortfall.
#
# **Limits.** With the `smoke` profile the numbers show only that the pipeline runs: a few examples, hardly any training.
# `make study` shows the `quick` profile.
