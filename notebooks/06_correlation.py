# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Correlation: do heads predict performance?
#
# **Claim C3.** The recall of the real-data heads correlates strongly with performance {cite:p}`zhao2025synthetic`.

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages import correlate
from retrieval_heads.stages.claims import claim_verdicts
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import correlation_takeaway

figures.style.use_style()
settings = load_profile(profile)
for stage in ("finetune", "data", "correlate"):
    provide(settings, stage)
overlap = load_table(profile, "overlap")
paired = correlate.compared(settings, overlap)
conditions = correlate.conditions_table(settings, overlap, load_table(profile, "performance"))
tables = ("run_predictors", "correlation_runs")
claims = {name: load_table(profile, name) for name in tables} if figures.correlation.has_claims(settings) else None

# %% tags=["remove-input"]
figures.page.takeaway(settings, correlation_takeaway(conditions, claims, settings.detect.threshold), ["C3"])

# %% mystnb={"figure": {"name": "fig-recall-performance", "caption": "Performance against recall of the real runs' heads, one point for each condition. Lines, of named conditions: lowest to highest run (one seed: 95% intervals over examples). Axes cover the points only."}, "image": {"alt": "One panel for each task: points of performance against recall of heads, one for each training condition, four of them named, with the rank correlation above"}} tags=["hide-input"]
figure = figures.correlation.performance_figure(settings, conditions, claims)

# %% tags=["remove-input"]
figures.page.data_line(profile, *(["run_predictors", "correlation_runs"] if claims else ["overlap", "performance"]))

# %% [markdown]
# ## Compute it yourself
#
# Everything below is numpy on tables that come with the repository. First the {term}`recall <recall of heads>` of one
# pair of runs: the share of the real run's heads that the other run has.

# %% tags=["live", "nbval-check-output"]
import numpy as np
import pandas as pd

task = "mdqa"  # change this: musique (in summhay no head copies)
scores = pd.read_csv("../results/report/head_scores.csv.gz").query("task == @task and kind == 'copy' and base == 'base'")

def heads(condition, seed, threshold=0.1):  # change this: the threshold
    """The retrieval heads of a run, as a set of (layer, head)."""
    own = scores[(scores.condition == condition) & (scores.seed == seed) & (scores.score > threshold)]
    return set(own[["layer", "head"]].itertuples(index=False, name=None))

real, other = heads("real", 2), heads("low_low", 1)  # another seed, because runs of one seed start alike
recall = f"recall {len(real & other) / len(real):.2f}" if real else "no recall without heads of the real run"
print(f"{len(real)} and {len(other)} heads; {recall}")

# %% [markdown]
# Then Spearman's correlation of recall with performance over conditions, and how often a random order of the conditions
# gives a correlation at least as strong.

# %% tags=["live", "nbval-check-output"]
runs = pd.read_csv("../results/report/run_predictors.csv").query("task == @task")
runs = runs[~runs.condition.isin(["real", "real_short", "real_shuffled"]) & ~runs.condition.str.contains("quarter|4x")]
mean = runs.groupby("condition")[["recall", "performance"]].mean()  # real has a recall of 1 by definition
x, y = mean.to_numpy().T.argsort().argsort()  # ranks, as there are no ties
spearman = np.corrcoef(x, y)[0, 1]

rng = np.random.default_rng(0)
random = np.array([np.corrcoef(rng.permutation(x), y)[0, 1] for _ in range(5000)])
p = (1 + (abs(random) >= abs(spearman)).sum()) / (1 + len(random))
print(f"Spearman {spearman:.2f} over {len(mean)} conditions, p", "< 0.001" if p < 0.001 else f"= {p:.3f}")

# %% [markdown]
# **Exercise 1.** Replace `recall` by `probe_loss`, the loss on a few dozen real examples. Does it track performance
# more closely?
#
# :::{dropdown} Solution
# ```python
# for predictor in ("recall", "probe_loss", "ngram_overlap"):
#     mean = runs.groupby("condition")[[predictor, "performance"]].mean()
#     x, y = mean.to_numpy().T.argsort().argsort()
#     print(predictor, f"{np.corrcoef(x, y)[0, 1]:.2f}")
# ```
# A loss goes down where performance goes up, so its sign is the other one.
# :::
#
# **Exercise 2.** How does recall of this pair depend on the threshold?
#
# :::{dropdown} Solution
# ```python
# for threshold in (0.02, 0.1, 0.4):
#     real, other = heads("real", 2, threshold), heads("low_low", 1, threshold)
#     print(threshold, len(real), f"{len(real & other) / len(real):.2f}" if real else "no heads")
# ```
# :::

# %% [markdown]
# ## It depends on the threshold, and on the base model

# %% mystnb={"figure": {"name": "fig-recall-thresholds", "caption": "Spearman's correlation of recall with performance over thresholds that make a head a retrieval head, the tasks with heads together (ranks within each), and of each base model alone. Bars: 95% bootstrap intervals over conditions."}, "image": {"alt": "A line of the rank correlation over thresholds that rises from near zero at low thresholds, with wide intervals, and points of each base model at the study's threshold"}} tags=["hide-input"]
figure, axes = figures.style.panels([""], columns=1, height=2.8, width=figures.style.WIDTH)
figures.correlation.plot_over_thresholds(claims["correlation_runs"] if claims else figures.correlation.NOTHING, settings.detect.threshold, ax=axes[0])
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "correlation_runs" if claims else "overlap", rows="predictor recall, method spearman, conditions all")

# %% tags=["hide-input"]
HTML(figures.page.folded_table("Every task", figures.correlation.thresholds_table(claims["correlation_runs"])) if claims else "<p>One seed: there is no other real run to compare with.</p>")

# %% [markdown]
# ## How it is measured
#
# Recall and performance are averaged over the seeds of each {term}`condition` and ranked (Spearman). The real condition
# is left out: it is what recall is measured by, and it would make a correlation by itself. Ranks are taken within each task, so
# that an easier task is no evidence. The p-value is that of a permutation test. Retrieval heads gather in a few layers,
# so even unrelated sets share some; the {term}`chance level` of an overlap is that of random sets with as many heads in
# each layer. And all runs start from one {term}`base model`. Heads are chosen as
# {py:func}`~retrieval_heads.select_heads` chooses them. With several seeds, recall is taken among the real runs of other
# seeds, and performance is the main metric.

# %% [markdown]
# ## Overlap with the real run of the same seed

# %% mystnb={"figure": {"name": "fig-overlap", "caption": "Recall and precision of each run's heads against the real run of the same seed. Dotted: chance level within layers, with a 95% band. Upright line: the study's threshold; n: heads there."}, "image": {"alt": "Two panels for each task, recall and precision of retrieval heads against the threshold: one line for each training condition and the base model, with dotted chance levels below"}} tags=["hide-input"]
figure = figures.correlation.overlap_figure(paired, settings.detect.threshold, settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, "overlap", rows="measures recall and precision, the same seed and base model")

# %% [markdown]
# ## How it was decided
#
# By the rule of the {doc}`../preregistration`, C3 asks for a correlation whose interval lies above 0.4, with p below 0.05.
# That it is about tasks whose real runs have at least one head on average was decided after the runs. (C2 is decided in
# {doc}`03_head_detection`.)

# %% tags=["hide-input"]
Markdown(figures.verdicts.verdict_text(claim_verdicts(settings, "C3")))

# %% tags=["nbval-check-output", "remove-cell"]
print("compared with the real run:", sorted(set(overlap.condition)))
print("correlated:", sorted(set(conditions.condition)))
assert overlap[overlap.measure != "cosine"].value.dropna().between(0, 1).all()
assert not claims or claims["correlation_runs"].estimate.dropna().between(-1, 1).all()

# %% [markdown]
# ## Limits
#
# A rank correlation over a few conditions is a small sample, whatever its value: with four conditions no order of the
# points could reach p = 0.05. Conditions with more needles of natural language may raise recall and performance alike
# without the one explaining the other; that is what {doc}`04_knockout` and {doc}`05_patching` are for. Recall has an
# uncertainty of its own, which is not drawn: heads near the threshold come and go with the examples that they are scored
# on. More in {doc}`../limitations`.
