# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Head detection
#
# Which heads retrieve? The {term}`retrieval score` of a head is the fraction of answer tokens for which its largest
# attention lies in a needle and on the same token, as in {cite:t}`wu2025retrieval`; the {term}`insight score` asks only for the needle.
# Each score stands beside its {term}`chance level`: the same measure on spans that are no needles.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
import seaborn as sns

from retrieval_heads.cli import Options
from retrieval_heads.config import load_profile
from retrieval_heads.figures.style import panels, use_style
from retrieval_heads.stages import detect
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
made = detect.run(settings, Options())
scores = load_table(profile, "head_scores")

# %% mystnb={"figure": {"name": "head-maps", "caption": "Score of every head (copy score; insight score for summhay), by condition, on the first task."}, "image": {"alt": "Maps of layers by heads in which a few heads of a few layers stand out"}} tags=["hide-input"]
task = settings.tasks[0]
rows = scores[(scores.task == task) & (scores.kind == ("insight" if task == "summhay" else "copy")) & (scores.seed == 0)]
figure, axes = panels(list(rows.condition.unique()), columns=2)
for (_, part), ax in zip(rows.groupby("condition", sort=False), axes, strict=True):
    grid = part.pivot_table(index="layer", columns="head", values="score")
    sns.heatmap(grid, vmin=0, vmax=1, cmap="cividis", ax=ax, cbar_kws={"label": "score"})
    ax.invert_yaxis()

# %% tags=["hide-input"]
above = scores[(scores.score > settings.detect.threshold) & (scores.score > scores.chance)]
above.groupby(["task", "condition", "kind"]).size().rename("heads above threshold and chance").reset_index()

# %% tags=["nbval-check-output"]
print(scores.groupby("condition")[["layer", "head"]].nunique().drop_duplicates().values.tolist(), "layers and heads")
assert scores.score.between(0, 1).all()
assert scores.mass.between(0, 1).all()

# %% [markdown]
# **Limits.** With the `smoke` profile the numbers show only that the pipeline runs: a few examples, hardly any training.
# `make study` shows the `quick` profile.
