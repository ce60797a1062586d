# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The base model: what can it do before it is extended?
#
# **Question.** Before a model is taught to read longer texts, three things must be known of it: that it can do the
# tasks at the length it was made for, that it fails at the longer one, and that it has
# {term}`retrieval heads <retrieval head>` at all. Without the first two there is nothing to extend, without the third
# nothing to study.
#
# **Method.** The {term}`base model` that comes with the repository was trained from scratch on short texts of this
# study. Here it answers held-out real examples of each {term}`task`, and is scored by {term}`exact match`, and by
# {term}`token F1` or {term}`citation F1 <citation precision, recall and F1>`. It does so twice: as it is (`base`), and
# with its {term}`RoPE theta` raised and nothing else changed (`rope`). A raised theta makes far positions look nearer
# {cite:p}`xiong2024effective`, so a part of any gain from fine-tuning may be owed to it alone; `rope` is the control
# that shows how much. In code: {py:func}`~retrieval_heads.load_model` and {py:func}`~retrieval_heads.evaluate`.
#
# Then each {term}`attention head` gets a {term}`retrieval score` {cite:p}`wu2025retrieval`: over the tokens of the
# answer, the fraction for which the place that the head looks at most, when that token is predicted, lies inside a
# {term}`needle` and holds the same token. For `summhay`, whose answer is a document's number, it is the
# {term}`insight score`, which only asks for the place.
#
# **What to look at.** The drop from the short length to the long one, how much of it a raised theta alone mends, and
# whether the heads that stand out are several and in several layers.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages import base
from retrieval_heads.stages.findings import base_finding, fitting_scores, retrieval_counts
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "base")
table, head_scores = load_table(profile, "base"), load_table(profile, "head_scores")
heads = fitting_scores(settings, head_scores[head_scores.condition == "base"])

# %% [markdown]
# ## How it was trained
#
# The log of the training lies beside the weights in `models/base/`, with the settings and a model card. The skill of a
# task arrives suddenly, after a long time in which the loss hardly moves: attention heads that copy from the text have
# to form first, as {cite:t}`olsson2022induction` describe for induction heads. The rise of the loss on the way is where
# training went on from short texts to whole contexts, with longer chains of facts and a new course of the learning rate.

# %% mystnb={"figure": {"name": "fig-base-training", "caption": "Training of the base model. Left: loss on the tokens of the answers. Right: exact match on held-out real examples of the base length, measured on a few dozen examples at a time, so that single points are rough."}, "image": {"alt": "Two panels against the millions of tokens read: the loss on answer tokens, which falls in steps on a logarithmic scale, and the exact match of the three tasks, which rises from near zero"}} tags=["hide-input"]
steps, measured = base.training_log(settings)
figure, (left, right) = figures.style.panels(["answer loss", "exact match"], columns=2)
figures.training.plot_answer_loss(steps, ax=left)
_ = figures.training.plot_exact_match_log(measured, ["mdqa", "musique", "summhay"], ax=right)

# %% tags=["remove-input"]
figures.sources.data_line(profile, f"{settings.bases[0]}/train_log.json")

# %% [markdown]
# ## What it answers

# %% mystnb={"figure": {"name": "fig-base-performance", "caption": "Exact match on held-out real examples, of the base model as it is and with the raised RoPE theta alone, at the longest length; the table below has the others. Bars: 95% bootstrap intervals over examples."}, "image": {"alt": "One panel for each task: points with intervals for the exact match of the base model and of the model with raised RoPE theta, at the longest length"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, columns=2, height=2.3)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.performance.plot_performance(table[table.task == task], "exact_match", ax=ax)
figures.common.shared_legend(figure, axes, columns=4)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "base", rows="exact_match")

# %% tags=["hide-input"]
metrics = {"exact_match": "exact match", "forced_exact_match": "exact match, teacher forced", "f1": "token F1", "citation_f1": "citation F1"}
shown = table[table.metric.isin(metrics)]
shown = shown.assign(score=[figures.interval_tables.with_interval(*row) for row in shown[["value", "low", "high"]].itertuples(index=False)])
keys = ["task", "condition", "base", "eval_length", "n"]
wide = shown.pivot(index=keys, columns="metric", values="score").reset_index()
wide = wide[[*keys, *(name for name in metrics if name in wide)]]
HTML(figures.examples.table_html(wide.fillna("–"), names={"condition": "model", "eval_length": "tokens"} | metrics))

# %% [markdown]
# ## Its retrieval heads
#
# The same measure on spans of equal length that are no needles gives each head its {term}`chance level`. A score above
# 0.1 that is not above chance means nothing.

# %% mystnb={"figure": {"name": "fig-base-heads", "caption": "Score of every head of the base model on held-out real examples of the base length (copy score; insight score for summhay). Framed: retrieval heads, with a score above the threshold."}, "image": {"alt": "One map for each task, layers by heads, darker for a higher score: most heads are near zero, and a few framed ones in some layers stand out"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, columns=2, height=2.9)
for task, ax in zip(settings.tasks, axes, strict=True):
    rows = heads[(heads.task == task) & (heads["base"] == settings.base_names[0])]
    figures.heads.plot_head_map(rows, settings.detect.threshold, ax=ax)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "head_scores", rows="condition base")

# %% tags=["hide-input"]
counts = retrieval_counts(heads, settings.detect.threshold)
names = {"heads": "retrieval heads", "layers": "in layers", "beyond_chance": "of them above chance", "best": "best score",
         "chance": "highest chance level", "n_used": "examples"}
HTML(figures.examples.table_html(counts.drop(columns=["condition", "seed"]), names=names))

# %% [markdown]
# ## Finding

# %% tags=["hide-input"]
Markdown(base_finding(table, counts, settings.base_length, settings.eval_lengths[-1]))

# %% tags=["nbval-check-output"]
print("scored:", ", ".join(sorted(set(table.task))), "| models:", ", ".join(sorted(set(table.condition))))
print("layers and heads:", heads.layer.nunique(), "x", heads["head"].nunique())
assert len(pd.unique(table.condition)) == 2
assert table.value.between(0, 1).all()
assert heads.score.between(0, 1).all()
assert counts.heads.min() > 0, "without a retrieval head there is nothing to study"

# %% [markdown]
# **Limits.** The model is small and knows only the texts of this study; what holds for its heads need not hold for a
# model that has read the web. It was trained with whole heads left out at random, so that several learn to retrieve.
# With the `smoke` profile a handful of examples is scored, which shows that the pipeline runs, and no more. More in
# {doc}`../limitations`.
