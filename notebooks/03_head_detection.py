# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Head detection: which heads retrieve?
#
# **Question.** Which {term}`attention heads <attention head>` of each {term}`run` fetch the answer from the text, how many are
# they, and do runs on synthetic data have fewer or weaker ones? (How far they are *the same* heads, claim C2, is
# measured in {doc}`06_correlation`.)
#
# **Method.** Each run reads held-out real examples of the {term}`probe set`, question and reference answer
# ({term}`teacher forcing`). At each {term}`answer position <answer positions>`, the place that a head looks at most is
# taken. The {term}`retrieval score` is the fraction of answer tokens for which that place lies inside a {term}`needle`
# and holds the very token that is to be predicted, after {cite:t}`wu2025retrieval`; the {term}`insight score` asks only
# for the place, and is used for `summhay`. A head with a score above the threshold is a {term}`retrieval head`. Because any
# threshold is a convention, results are shown over a range of them.
#
# A head can hit a needle by luck, or because like tokens attract each other. So each score stands beside its
# {term}`chance level`: the same measure on spans of the same lengths that are no needles. Attention is read during an
# ordinary forward pass, at the answer positions only, and the whole square of attention weights is never computed. In
# code: {py:func}`~retrieval_heads.retrieval_scores`, then {py:func}`~retrieval_heads.select_heads`.
#
# **What to look at.** Which layers the framed heads are in, and whether they are the same from map to map; whether
# synthetic runs have fewer heads than `real` ones; whether the heads that stand out do so above the chance level.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages import findings
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "detect")
table = load_table(profile, "head_scores")
scores = findings.fitting_scores(settings, table)
counts = figures.interval_tables.in_run_order(findings.retrieval_counts(scores, settings.detect.threshold))
some = scores[scores.condition.isin(figures.choice.few(scores.condition, figures.heads.SHOWN))]
first = findings.first_runs(some, settings, figures.heads.SHOWN)

# %% [markdown]
# ## Maps of heads

# %% mystnb={"figure": {"name": "fig-head-maps", "caption": "Score of every head (copy score; insight score for summhay) by task and training condition, of the first seed and the first base model, for some conditions: base is the model before extension, at its own length, then real data, the most and the least real synthetic data, and symbolic data, as far as they have been run. Framed: retrieval heads, with a score above the threshold."}, "image": {"alt": "A map of layers by heads for each task and some training conditions, darker for a higher score: a few framed heads in some layers stand out in each"}} tags=["hide-input"]
made = set(zip(first.task, first.condition, strict=True))
maps = [(task, condition) for condition in figures.heads.SHOWN for task in settings.tasks if (task, condition) in made]
columns = len(settings.tasks) if len(settings.tasks) > 1 else 3
figure, axes = figures.style.panels([f"{task}, {condition}" for task, condition in maps], columns=columns, height=1.35)
for (task, condition), ax in zip(maps, axes, strict=True):
    rows = first[(first.task == task) & (first.condition == condition)]
    figures.heads.plot_head_map(rows, settings.detect.threshold, ax=ax, bar=False)
    ax.label_outer()
bar = figure.colorbar(axes[0].collections[0], ax=axes, label="score (fraction)", shrink=0.6, aspect=30)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "head_scores", rows="the first seed and base model")

# %% [markdown]
# ## How many, and at which threshold?

# %% mystnb={"figure": {"name": "fig-head-numbers", "caption": "Number of retrieval heads (score above the study's threshold; insight score for summhay) by training condition, and of the base model before extension. Diamonds: mean over seeds and base models; bars: from the least to the greatest run; small marks, where there are several runs: single runs."}, "image": {"alt": "One panel for each task with a row for each training condition and the base model: a diamond for the mean number of retrieval heads and small marks for the single runs"}} tags=["hide-input"]
order = figures.style.in_order(counts.condition)
figure, axes = figures.style.panels(settings.tasks, height=1.6 + figures.performance.ROW * len(order), sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.heads.plot_numbers_of_heads(counts[counts.task == task], ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "head_scores", rows="heads above the threshold, counted in each run")

# %% mystnb={"figure": {"name": "fig-head-counts", "caption": "Number of heads with a score above the threshold, over thresholds, by training condition (mean over seeds and base models). Of more than eight conditions only the base model, real data, the most and the least real synthetic data, and symbolic data are drawn. Dotted, in the same colour: heads whose chance level is above it. Upright line: the study's threshold."}, "image": {"alt": "One panel for each task: falling lines of the number of heads above a threshold, one for each of some training conditions and the base model, with dotted lines for the chance level far below"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, height=3.2)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.heads.plot_threshold_counts(some[some.task == task], settings.detect.thresholds, settings.detect.threshold, ax=ax)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "head_scores", rows="heads above each threshold, counted in each run")

# %% [markdown]
# ## Scores beside chance

# %% mystnb={"figure": {"name": "fig-score-chance", "caption": "Score of every head against its own chance level, of the runs of the first seed and the first base model, for the conditions of the maps. On the sloping line a head looks at needles no more than at other spans of the same length. Level line: the study's threshold."}, "image": {"alt": "One panel for each task: a point for each head, its score against its chance level; most lie near the origin, and retrieval heads lie far above the line of equality"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, height=3.2)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.heads.plot_score_against_chance(first[first.task == task], settings.detect.threshold, ax=ax)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "head_scores", rows="the first seed and base model")

# %% [markdown]
# A row is a run; in a study of more than 40 runs a row is a condition, with the mean over its runs and, in brackets, the
# least and the greatest run.

# %% tags=["hide-input"]
HTML(figures.examples.table_html(figures.interval_tables.counts_table(counts)))

# %% [markdown]
# ## The strongest heads
#
# Of the runs of the maps. A head is named (layer, head). The mass is how much of its attention is on the needles on
# average.

# %% tags=["hide-input"]
best = figures.interval_tables.in_run_order(findings.strongest(first, 3)).drop(columns="seed")
HTML(figures.examples.table_html(best, names={"where": "head", "chance": "chance level", "mass": "attention mass"}))

# %% [markdown]
# ## Finding

# %% tags=["hide-input"]
Markdown(f"{findings.detection_finding(counts)} {findings.cost_finding()}")

# %% tags=["nbval-check-output"]
sizes = scores.groupby(RUN).size()
print("runs and base models scored:", len(counts), "| heads of each:", sizes.unique().tolist())
assert 0 < len(counts) <= len(study_grid(settings)) + len(settings.tasks) * len(settings.bases)
assert table.score.between(0, 1).all()
assert table.chance.dropna().between(0, 1).all()

# %% [markdown]
# **Limits.** A high score says where a head looks, not that the model uses what it finds there: {doc}`04_knockout` tests
# that. A head that carries meaning and copies no token is missed by the retrieval score {cite:p}`gema2026locos`. Scores
# are means over a few dozen examples; heads near the threshold come and go with them. With the `smoke` profile the
# figures show that the pipeline runs, and no more. More in {doc}`../limitations`.
# Set `profile = "live"` to compute this page's numbers
# anew on a CPU, on fewer examples, from the adapters that come with the repository.
