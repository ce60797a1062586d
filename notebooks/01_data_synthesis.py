# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data synthesis
#
# What do real and synthetic examples look like? All text is generated from a seed. The conditions differ in the
# {term}`concept expression` of the needle and in the {term}`context diversity` of the haystack.
#
# The share of unseen statements is that of the real test set's needle statements whose wording never occurs in the
# training examples of a condition.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
import html

import seaborn as sns
from IPython.display import HTML, Markdown, display

from retrieval_heads.cli import Options
from retrieval_heads.config import load_profile
from retrieval_heads.data import make_examples
from retrieval_heads.figures.style import panels, use_style
from retrieval_heads.models.base import load_tokenizer
from retrieval_heads.stages import data
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
made = data.run(settings, Options())
table = load_table(profile, "examples")

# %% tags=["hide-input"]
table.round(2)

# %% mystnb={"figure": {"name": "unseen", "caption": "Share of the real test set's statements whose wording a condition's training examples never show."}, "image": {"alt": "Bars of the unseen share for each training condition"}} tags=["hide-input"]
train = table[table.split == "train"]
figure, axes = panels(list(settings.tasks))
for task, ax in zip(settings.tasks, axes, strict=True):
    sns.barplot(train[train.task == task], x="condition", y="unseen", ax=ax, color="#4477aa")
    ax.set(ylim=(0, 1.03), ylabel="unseen statements (fraction)", xlabel="")
    ax.tick_params(axis="x", rotation=45)

# %% tags=["hide-input"]
common = {"length": 200, "n": 1, "seed": 0, "tokenizer": load_tokenizer()}
shown = {name: make_examples(task="mdqa", condition=name, **common)[0] for name in settings.conditions}
for name, example in shown.items():
    text = html.escape(example.prompt)
    for needle in map(html.escape, example.needle_texts()):
        text = text.replace(needle, f"<mark>{needle}</mark>")
    block = f'<pre style="white-space: pre-wrap">{text} {html.escape(example.answer)}</pre>'
    display(Markdown(f"**{name}**"), HTML(block))

# %% tags=["nbval-check-output"]
print(len(table), "sets of examples;", sorted(table.split.unique()))
assert table.unseen.dropna().between(0, 1).all()

# %% [markdown]
# **Limits.** With the `smoke` profile the numbers show only that the pipeline runs: a few examples, hardly any training.
# `make study` shows the `quick` profile.
