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
# **Claim C2.** The retrieval heads learned on synthetic data are mostly subsets of those learned on real data.
# **Claim C3.** The recall of the real-data heads correlates strongly with performance {cite:p}`zhao2025synthetic`.
#
# **Method.** With R the {term}`retrieval heads <retrieval head>` of the {term}`run` on real data and S those of another
# run, the {term}`recall <recall of heads>` is the share of R that is also in S, and the
# {term}`precision <precision of heads>` the share of S that is also in R: a subset has a precision of 1. Neither says
# anything alone. Retrieval heads gather in a few layers, so even unrelated sets share some; the {term}`chance level`
# here is that of random sets with as many heads in each layer. And all runs start from one {term}`base model`, whose own
# heads are shown for comparison. The {term}`cosine of scores` compares all heads and needs no threshold.
#
# For C3, recall and performance are averaged over the seeds of each {term}`condition` and ranked (Spearman). The real
# condition is left out: its recall is 1 by definition and would make a correlation by itself. Ranks are taken within
# each task, so that an easier task is no evidence. The p-value is that of a permutation test.
#
# **What to look at.** Whether the lines lie above the dotted chance levels at any threshold, and whether they differ
# from the base model's; then whether the points rise to the right.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads.claims.subsets import subset_rows
from retrieval_heads.config import load_profile
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.correlation import plot_correlation
from retrieval_heads.figures.examples import table_html
from retrieval_heads.figures.interval_tables import correlation_table
from retrieval_heads.figures.overlap import plot_overlap
from retrieval_heads.figures.style import WIDTH, panels, use_style
from retrieval_heads.figures.subsets import plot_subsets
from retrieval_heads.stages import correlate
from retrieval_heads.stages.provide import provide
from retrieval_heads.stages.verdicts import correlation_finding, overlap_finding
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
provide(settings, "correlate")
overlap, correlation = load_table(profile, "overlap"), load_table(profile, "correlation")
paired = correlate.compared(settings, overlap)
SHOWN = ("base", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
conditions = correlate.conditions_table(settings, overlap, load_table(profile, "performance"))

# %% [markdown]
# ## Overlap with the real run's heads

# %% mystnb={"figure": {"name": "fig-overlap", "caption": "Recall and precision of the heads of each run against those of the real run, over thresholds of the score (copy score; insight score for summhay). Dotted, in the same colour: chance level of sets with as many heads in each layer, with a band that holds 95% of them. Upright line: the study's threshold."}, "image": {"alt": "Two panels for each task, recall and precision of retrieval heads against the threshold: one line for each training condition and the base model, with dotted chance levels below"}} tags=["hide-input"]
measures = [(task, measure) for task in settings.tasks for measure in ("recall", "precision")]
figure, axes = panels([f"{task}, {measure}" for task, measure in measures], columns=2, width=WIDTH)
for (task, measure), ax in zip(measures, axes, strict=True):
    own = paired[(paired.task == task) & paired.condition.isin(SHOWN)]
    plot_overlap(own, measure, settings.detect.threshold, ax=ax)
shared_legend(figure, axes, columns=4)

# %% [markdown]
# ## Every condition, beside chance and ceiling
#
# Runs of one seed start from the same random adapter, so here each run is compared with real runs of *other* seeds, on
# different halves of the probe examples: there are none where the profile has one seed. Heads that the base model has
# already were not learned from the data; those that it has not are shown apart.

# %% mystnb={"figure": {"name": "fig-subsets", "caption": "Precision of the heads of each condition's runs among those of real runs of other seeds and the same base model, at the study's threshold. Ticks: the 97.5% quantile of random sets with as many heads in each layer. Dashed: real runs beside real runs of other seeds, the ceiling. Empty where the profile has one seed, or no run has such heads."}, "image": {"alt": "One panel for each task: for each training condition a point for the precision of all its heads and one for the heads that the base model does not have, with a tick for chance and dashed lines for the ceiling"}} tags=["hide-input"]
scores = load_table(profile, "head_scores")
subsets = subset_rows(scores, [settings.detect.threshold], n_resamples=100)
figure, axes = panels(settings.tasks, columns=2, height=3.6, width=WIDTH)
for task, ax in zip(settings.tasks, axes, strict=True):
    plot_subsets(subsets[subsets.task == task], settings.detect.threshold, ax=ax)
shared_legend(figure, axes, columns=2)

# %% [markdown]
# ## Recall and performance

# %% mystnb={"figure": {"name": "fig-recall-performance", "caption": "Performance on held-out real examples of the longest length against the recall of the real run's heads, one point for each condition. Bars: 95% bootstrap intervals over examples. The horizontal axis covers the points only. In the corner: Spearman's rank correlation with its interval, permutation p-value and number of conditions, as far as they are defined."}, "image": {"alt": "One panel for each task: points of F1 against recall of heads, one for each training condition, with vertical intervals, and the rank correlation in the corner"}} tags=["hide-input"]
figure, axes = panels(settings.tasks, columns=2, width=WIDTH, sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    found = correlation[(correlation.task == task) & (correlation.predictor == "recall") & (correlation.outcome == "f1")]
    plot_correlation(conditions[conditions.task == task], found=found.iloc[0], ax=ax)
shared_legend(figure, axes, columns=4)

# %% tags=["hide-input"]
HTML(table_html(correlation_table(correlation)))

# %% [markdown]
# ## Finding
#
# The rules were fixed beforehand. C2 is supported when more than half of every synthetic run's heads are the real
# run's, beyond chance; C3 when the correlation is positive with p below 0.05, and strong from 0.7 on.

# %% tags=["hide-input"]
at_threshold = paired[paired.threshold == settings.detect.threshold]
Markdown(f"{overlap_finding(at_threshold)}\n\n{correlation_finding(correlation)}")

# %% tags=["nbval-check-output"]
print("compared with the real run:", sorted(set(overlap.condition)))
print("correlated:", sorted(set(conditions.condition)))
assert overlap[overlap.measure != "cosine"].value.dropna().between(0, 1).all()
assert correlation.value.dropna().between(-1, 1).all()

# %% [markdown]
# **Limits.** A rank correlation over a few conditions is a small sample, whatever its value: with four conditions no
# order of the points could reach p = 0.05. Conditions with more needles of natural language may raise recall and
# performance alike without the one explaining the other; that is what {doc}`04_knockout` and {doc}`05_patching` are for.
# Recall has an uncertainty of its own, which is not drawn: heads near the threshold come and go with the examples that
# they are scored on. With the `smoke` profile the figures show that the pipeline runs, and no more. More in
# {doc}`../limitations`.
