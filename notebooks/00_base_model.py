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
# **Question.** Can the model do the tasks at the length it was made for? Does it fail at a longer one? Does it have
# {term}`retrieval heads <retrieval head>` at all? Without the first two there is nothing to extend, without the third
# nothing to study.

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import HTML

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages import base
from retrieval_heads.stages.findings import fitting_scores, retrieval_counts
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.training import base_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "base")
table, head_scores = load_table(profile, "base"), load_table(profile, "head_scores")
heads = fitting_scores(settings, head_scores[head_scores.condition == "base"])
counts = retrieval_counts(heads, settings.detect.threshold)

# %% tags=["remove-input"]
figures.page.takeaway(settings, base_takeaway(table, counts, settings))

# %% mystnb={"figure": {"name": "fig-base-performance", "caption": "Exact match on held-out real examples at the longest length, of the base model as it is and with its RoPE theta raised. Bars: 95% bootstrap intervals over examples."}, "image": {"alt": "One panel for each task: points with intervals for the exact match of the base model and of the model with raised RoPE theta, at the longest length"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, height=2.2, sharey=True)
order = ["base", "rope"]
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.performance.plot_performance(table[table.task == task], "exact_match", ax=ax, order=order)
figures.common.shared_legend(figure, axes, columns=4)

# %% tags=["remove-input"]
figures.page.data_line(profile, "base", rows="exact_match")

# %% [markdown]
# ## Ask it yourself
#
# The model reads a text and a question, and writes the answer. It knows nothing of the world: what it says, it has
# found in the text.

# %% tags=["live", "nbval-check-output"]
from retrieval_heads import load_model

model, tokenizer = load_model("../models/base")
text = """Document 1:
Mira Tolben works as a baker in Zandor. Her brother is Oskar Tolben.

Document 2:
Oskar Tolben lives in Verrin and works as a painter.
"""
question = "Where does Oskar Tolben live?"  # change this, or the text

tokens = tokenizer(f"{text}\nQuestion: {question}\nAnswer:", return_tensors="pt")
written = model.generate(**tokens, max_new_tokens=12, do_sample=False)[0]
print(tokenizer.decode(written[tokens.input_ids.shape[1]:], skip_special_tokens=True))

# %% [markdown]
# **Exercise 1.** Move Oskar from Verrin to another town, in the text alone. Does the answer follow the text? Then take
# the sentence out altogether: what does the model say when nothing can be found?
#
# :::{dropdown} Solution
# ```python
# for other in (text.replace("Verrin", "Quellan"), text.replace("lives in Verrin and ", "")):
#     tokens = tokenizer(f"{other}\nQuestion: {question}\nAnswer:", return_tensors="pt")
#     written = model.generate(**tokens, max_new_tokens=12, do_sample=False)[0]
#     print(tokenizer.decode(written[tokens.input_ids.shape[1]:], skip_special_tokens=True))
# ```
# The first answer follows the text. The second is made up or copied from elsewhere: the model was never taught to say
# that it does not know.
# :::
#
# **Exercise 2.** Does the model still answer when the needle lies beyond the 512 tokens that it was trained on? Try
# with and without a raised theta.
#
# :::{dropdown} Solution
# ```python
# filler = "The grass is green. The sky is blue. " * 80
# for theta in (None, 60000):
#     longer, tokenizer = load_model("../models/base", rope_theta=theta, max_length=2048)
#     tokens = tokenizer(f"{text}\n{filler}\nQuestion: {question}\nAnswer:", return_tensors="pt")
#     written = longer.generate(**tokens, max_new_tokens=12, do_sample=False)[0]
#     print(theta, tokenizer.decode(written[tokens.input_ids.shape[1]:], skip_special_tokens=True))
# ```
# :::

# %% [markdown]
# ## How it is measured
#
# The {term}`base model` comes with the repository. It was trained from scratch on short texts of this study. Here it
# answers held-out real examples of each {term}`task`, and is scored by {term}`exact match`, and by {term}`token F1` or
# {term}`citation F1 <citation precision, recall and F1>`: once as it is (`base`), and once with its {term}`RoPE theta`
# raised and nothing else changed (`rope`). A raised theta makes far positions look nearer
# {cite:p}`xiong2024effective`, and helps by itself. It is the control for everything that fine-tuning adds. In code:
# {py:func}`~retrieval_heads.load_model` and {py:func}`~retrieval_heads.evaluate`.

# %% tags=["hide-input"]
metrics = {"exact_match": "exact match", "forced_exact_match": "exact match, teacher forced", "f1": "token F1", "citation_f1": "citation F1"}
shown = table[table.metric.isin(metrics)]
shown = shown.assign(score=[figures.interval_tables.with_interval(*row) for row in shown[["value", "low", "high"]].itertuples(index=False)])
keys = ["task", "condition", "base", "eval_length", "n"]
wide = shown.pivot(index=keys, columns="metric", values="score").reset_index()
wide = wide[[*keys, *(name for name in metrics if name in wide)]].rename(columns={"condition": "model", "eval_length": "tokens"} | metrics)
HTML(figures.page.folded_table("All scores, by length", wide.fillna("–")))

# %% [markdown]
# ## Its retrieval heads
#
# Each {term}`attention head` gets a {term}`retrieval score` {cite:p}`wu2025retrieval`. For each token of the answer, we
# record the position that the head attends to most when the token is predicted. The score is the fraction of tokens for
# which that position lies inside a {term}`needle` and holds the same token. For `summhay`, whose answer is a document's
# number, it is the {term}`insight score`, which only asks for the position. The same measure on spans that are not
# needles is the head's {term}`chance level`. {doc}`03_head_detection` computes all this from scratch.

# %% mystnb={"figure": {"name": "fig-base-heads", "caption": "Score of every head of the base model on held-out real examples of the base length (copy score; insight score for summhay). Framed: retrieval heads, with a score above the threshold."}, "image": {"alt": "One map for each task, layers by heads, darker for a higher score: most heads are near zero, and a few framed ones in some layers stand out"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, height=2.4)
for task, ax in zip(settings.tasks, axes, strict=True):
    rows = heads[(heads.task == task) & (heads["base"] == settings.base_names[0])]
    figures.heads.plot_head_map(rows, settings.detect.threshold, ax=ax, bar=False)
bar = figure.colorbar(axes[0].images[0], ax=axes, label="score (fraction)", shrink=0.7)

# %% tags=["remove-input"]
figures.page.data_line(profile, "head_scores", rows="condition base")

# %% tags=["hide-input"]
names = {"heads": "retrieval heads", "layers": "in layers", "beyond_chance": "of them above chance", "best": "best score",
         "chance": "highest chance level", "n_used": "examples"}
HTML(figures.page.table_html(counts.drop(columns=["condition", "seed"]), names=names))

# %% [markdown]
# ## How it was trained
#
# The skill of a task arrives suddenly, after a long time in which the loss hardly moves: heads that copy from the text
# have to form first, as {cite:t}`olsson2022induction` describe for induction heads. The rise of the loss on the way is
# where training went on from short texts to whole contexts, with longer chains of facts and a new learning-rate
# schedule. Log, settings and model card lie beside the weights in `models/base/`.

# %% mystnb={"figure": {"name": "fig-base-training", "caption": "Training of the base model. Left: loss on the tokens of the answers. Right: exact match on a few dozen held-out real examples at a time, so single points are rough."}, "image": {"alt": "Two panels against the millions of tokens read: the loss on answer tokens, which falls in steps on a logarithmic scale, and the exact match of the three tasks, which rises from near zero"}} tags=["hide-input"]
steps, measured = base.training_log(settings)
figure, (left, right) = figures.style.panels(["answer loss", "exact match"], columns=2)
figures.training.plot_answer_loss(steps, ax=left)
_ = figures.training.plot_exact_match_log(measured, ["mdqa", "musique", "summhay"], ax=right)

# %% tags=["remove-input"]
figures.page.data_line(profile, f"{settings.bases[0]}/train_log.json")

# %% tags=["nbval-check-output", "remove-cell"]
print("scored:", ", ".join(sorted(set(table.task))), "| models:", ", ".join(sorted(set(table.condition))))
print("layers and heads:", heads.layer.nunique(), "x", heads["head"].nunique())
assert len(pd.unique(table.condition)) == 2
assert table.value.between(0, 1).all()
assert heads.score.between(0, 1).all()
assert counts.heads.min() > 0, "without a retrieval head there is nothing to study"

# %% [markdown]
# ## Limits
#
# The model is small and knows only the texts of this study. What holds for its heads need not hold for a model that has
# read the web. It was trained with whole heads left out at random, so that several learn to retrieve. More in
# {doc}`../limitations`.
