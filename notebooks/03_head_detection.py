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
# **Question.** Which {term}`attention heads <attention head>` of each {term}`run` fetch the answer from the text? How
# many are there, and do runs on synthetic data have fewer, or different ones?
#
# **Claim C2.** The retrieval heads learned on synthetic data are mostly subsets of those learned on real data
# {cite:p}`zhao2025synthetic`.

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages import findings
from retrieval_heads.stages.claims import claim_verdicts, judged_tables
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import detection_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "detect")
table = load_table(profile, "head_scores")
scores = findings.fitting_scores(settings, table)
counts = figures.interval_tables.in_run_order(findings.retrieval_counts(scores, settings.detect.threshold))
some = scores[scores.condition.isin(figures.style.few(scores.condition, figures.heads.SHOWN))]
first = findings.first_runs(some, settings, figures.heads.SHOWN)
of_subsets = judged_tables(settings, "C2")
subsets = of_subsets["subsets"]

# %% tags=["remove-input"]
n_heads = len(scores[["layer", "head"]].drop_duplicates())
figures.page.takeaway(settings, detection_takeaway(counts, subsets, settings.detect.threshold, n_heads), ["C2"])

# %% [markdown]
# ## See where a head looks
#
# One text, read by the adapters that come with the repository. The colour of a token is the attention that a head pays
# to it while the answer is written. Choose a dark square, a retrieval head, and then a pale one.

# %% tags=["remove-input"]
HTML(figures.explorers.shipped_adapters_html("mdqa"))

# %% [markdown]
# ## Find a retrieval head from scratch
#
# All it takes is a model that hands out its attention, and a text whose needle is known. For each token of the
# answer, we record the position that each head attends to most. The base model reads up to 512 tokens; for longer texts
# load an adapter, or pass `rope_theta=60000, max_length=2048`.

# %% tags=["live", "nbval-check-output"]
import torch

from retrieval_heads import load_model
from retrieval_heads.data import make_examples

model, tokenizer = load_model("../models/base")  # change this: adapter="../models/adapters/mdqa__symbolic__s1__base"
task, length = "mdqa", 256  # change this: "musique" or "summhay", with a length of 450
examples = make_examples(task=task, condition="real", length=length, n=4, seed=0, split="probe")
print(*[examples[0].prompt[slice(*span)] for span in examples[0].needles], "|", examples[0].answer)


# %% tags=["live", "nbval-check-output"]
def copy_score(example):
    """How often each head looks most at the very token that the answer needs next: `[layers, heads]`."""
    read = tokenizer(f"{example.prompt} {example.answer}", return_tensors="pt", return_offsets_mapping=True)
    ids, (start, end) = read["input_ids"][0], read.pop("offset_mapping")[0].T
    attention = model(**read, output_attentions=True).attentions  # one per layer: [1, heads, query, key]
    answer = int((end <= len(example.prompt)).sum())  # the place of its first token
    needle = torch.stack([(start < last) & (end > first) for first, last in example.needles]).any(0)
    # a token is predicted one place before it stands
    looked = torch.stack([layer[0, :, answer - 1 : -1].argmax(-1) for layer in attention])
    return (needle[looked] & (ids[looked] == ids[answer:])).float().mean(-1)

model.set_attn_implementation("eager")  # the usual implementation does not return its attention weights
mine = torch.stack([copy_score(example) for example in examples]).mean(0)
print(*[tuple(head) for head in (mine > 0.9).nonzero().tolist()] or ["no head"])  # change this: the threshold

# %% [markdown]
# The maps grow with the square of the length; beyond 1,000 tokens use the package. It records the same positions during
# an ordinary forward pass, for the tokens of the answer only, so that it works for long texts and large models. The
# scores are equal. (With `kind="insight"` they are not: `mine` also asks that the token is the right one.)

# %% tags=["live", "nbval-check-output"]
from retrieval_heads import retrieval_scores, select_heads

model.set_attn_implementation("sdpa")
theirs = retrieval_scores(model, tokenizer, examples)  # change this: kind="insight", also for summhay
print("largest difference:", f"{abs(mine.numpy() - theirs.scores).max():.6f}")
print(len(select_heads(theirs, threshold=0.1)), "retrieval heads, of which", (theirs.scores == 1).sum(), "score 1.00")
print("the best five:", select_heads(theirs, k=5))
print(f"highest chance level of a head: {theirs.chance.max():.2f}")

# %% [markdown]
# `kind="insight"` asks only for the position, not for the token. Scores are means over four examples, so that many
# heads can be equal at the top: five of the twelve with score 1.00 are printed, the first in order of layer and head.
#
# **Exercise 1.** Which retrieval heads of the adapter trained on real data does the one trained on symbolic data share?
# Compute precision and recall.
#
# :::{dropdown} Solution
# ```python
# def heads_of(condition):
#     model, tokenizer = load_model("../models/base", adapter=f"../models/adapters/mdqa__{condition}__s1__base")
#     return set(select_heads(retrieval_scores(model, tokenizer, examples)))
#
# real, symbolic = heads_of("real"), heads_of("symbolic")
# print(f"recall {len(real & symbolic) / len(real):.2f}, precision {len(real & symbolic) / len(symbolic):.2f}")
# ```
# With the examples above: recall 1.00, precision .81. At 256 tokens nearly all of these heads are heads of the base
# model, which both adapters start from. A few examples and one seed say nothing about claim C2.
# :::
#
# **Exercise 2.** Does a head that copies from the needle also look at it when the question asks for another fact?
#
# :::{dropdown} Solution
# ```python
# from dataclasses import replace
#
# other = [replace(one, prompt=one.prompt.rpartition("Question:")[0] + "Question: What is the weather like?\nAnswer:")
#          for one in examples]
# print(f"{retrieval_scores(model, tokenizer, other).scores.max():.2f}")
# ```
# The answer is still read along, token by token. So heads that continue what has begun (as
# {term}`induction heads <induction head>` do) find its second token without the question, but not the first. With the
# examples above the highest score is .69: three answers have three tokens and one has four, and a head that finds all
# but the first token of each has (3 × 2/3 + 3/4) / 4 = .69.
# :::
#
# **Exercise 3.** Drop the match of the token from `copy_score`. Is that the {term}`insight score`?
#
# :::{dropdown} Solution
# ```python
# def place_score(example, needles=None):
#     read = tokenizer(f"{example.prompt} {example.answer}", return_tensors="pt", return_offsets_mapping=True)
#     start, end = read.pop("offset_mapping")[0].T
#     attention = model(**read, output_attentions=True).attentions
#     answer = int((end <= len(example.prompt)).sum())
#     spans = needles or example.needles
#     needle = torch.stack([(start < last) & (end > first) for first, last in spans]).any(0)
#     looked = torch.stack([layer[0, :, answer - 1 : -1].argmax(-1) for layer in attention])
#     return needle[looked].float().mean(-1)
#
# model.set_attn_implementation("eager")
# insight = torch.stack([place_score(example) for example in examples]).mean(0)
# model.set_attn_implementation("sdpa")
# theirs = retrieval_scores(model, tokenizer, examples, kind="insight")
# print(f"largest difference {abs(insight.numpy() - theirs.scores).max():.6f};", len(select_heads(theirs)), "heads")
# ```
# It is. With the examples above, 51 heads score more than 0.1; the copy score has 31.
# :::
#
# **Exercise 4.** What would a head score by chance? Score a random span as long as the needle in its place.
#
# :::{dropdown} Solution
# ```python
# import random
#
# draw = random.Random(0)
#
# def elsewhere(example):
#     """A span as long as each needle, at a random place of the documents."""
#     documents = example.prompt.rfind("Question:")
#     lengths = [last - first for first, last in example.needles]
#     starts = [draw.randrange(documents - length) for length in lengths]
#     return [(start, start + length) for start, length in zip(starts, lengths)]
#
# model.set_attn_implementation("eager")
# chance = torch.stack([place_score(one, elsewhere(one)) for one in examples for _ in range(5)]).mean(0)
# model.set_attn_implementation("sdpa")
# print(f"mean over heads: {chance.mean():.2f}; by the package, over more spans: {theirs.chance.mean():.2f}")
# ```
# A few hundredths: far below the scores of the retrieval heads.
# :::

# %% [markdown]
# ## How it is measured
#
# Each run reads held-out real examples of the {term}`probe set`, question and reference answer
# ({term}`teacher forcing`). The {term}`retrieval score` follows {cite:t}`wu2025retrieval`; the {term}`insight score`
# asks only for the position, not for the token, and is used for `summhay`. A head with a score above the threshold is a
# {term}`retrieval head`. Any threshold is a convention, so results are shown over a range of them. A head can hit a
# needle by luck, or because like tokens attract each other. So each score stands beside its {term}`chance level`: the
# same measure on spans of the same lengths that are not needles. In code:
# {py:func}`~retrieval_heads.retrieval_scores`, then {py:func}`~retrieval_heads.select_heads`.

# %% [markdown]
# ## Maps of heads

# %% mystnb={"figure": {"name": "fig-head-maps", "caption": "Score of every head (copy score; insight score for summhay) in runs of the first seed and base model, and of the model before extension. Framed: retrieval heads, with a score above the threshold."}, "image": {"alt": "A map of layers by heads for each task and some training conditions, darker for a higher score: a few framed heads in some layers stand out in each, mostly the same ones"}} tags=["hide-input"]
made = set(zip(first.task, first.condition, strict=True))
maps = [(task, condition) for condition in figures.heads.SHOWN for task in settings.tasks if (task, condition) in made]
columns = len(settings.tasks) if len(settings.tasks) > 1 else 3
figure, axes = figures.style.panels([f"{task}: {figures.style.words_short(condition)}" for task, condition in maps], columns=columns, height=1.35)
for (task, condition), ax in zip(maps, axes, strict=True):
    rows = first[(first.task == task) & (first.condition == condition)]
    figures.heads.plot_head_map(rows, settings.detect.threshold, ax=ax, bar=False)
    ax.label_outer()
bar = figure.colorbar(axes[0].images[0], ax=axes, label="score (fraction)", shrink=0.6, aspect=30)

# %% tags=["remove-input"]
figures.page.data_line(profile, "head_scores", rows="the first seed and base model")

# %% [markdown]
# The same for every kind of training data, as means over the seeds of the first base model. Move the threshold, and point
# at a head to read its score.

# %% tags=["remove-input"]
HTML(figures.explorers.explorer_html(scores[scores["base"] == settings.base_names[0]], settings.detect.threshold, settings.tasks))

# %% [markdown]
# ## How many, and at which threshold?

# %% mystnb={"figure": {"name": "fig-head-counts", "caption": "Number of heads with a score above the threshold (mean over runs), for some kinds of training data. Dotted, in the same colour: heads whose chance level is above it. Upright line: the study's threshold."}, "image": {"alt": "One panel for each task: falling lines of the number of heads above a threshold, one for each of some training conditions and the base model, with dotted lines for the chance level far below"}} tags=["hide-input"]
figure, axes = figures.style.panels(settings.tasks, height=3.0)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.heads.plot_threshold_counts(some[some.task == task], settings.detect.thresholds, settings.detect.threshold, ax=ax)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "head_scores", rows="heads above each threshold, counted in each run")

# %% [markdown]
# ## Are they the same heads?
#
# With R the {term}`retrieval heads <retrieval head>` of the run on real data and S those of another run, the
# {term}`precision <precision of heads>` is the share of S that is also in R: a subset has a precision of 1. Runs of one
# seed start from the same random adapter, so each run is compared with real runs of *other* seeds. Heads that the base
# model has already were not learned from the data; {term}`gained <gained head>` are those that it does not have when it is
# scored at the same length with the raised {term}`RoPE theta`. In the report that is known of the base model that comes
# with the repository; the weights of the other one were not kept.

# %% mystnb={"figure": {"name": "fig-subsets", "caption": "Precision of each condition's heads among those of real runs of other seeds. Ticks: 97.5% of random sets of the same layers. Dashed: real beside real. Bars: 95% bootstrap intervals. Right: mean numbers of all and of gained heads."}, "image": {"alt": "One panel for each task: for each training condition a point for the precision of all its heads and one for the heads that the base model does not have, with ticks for chance and a dashed line for the ceiling"}} tags=["hide-input"]
figure = figures.heads.subsets_figure(subsets, settings.detect.threshold, settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, *["subsets"] * figures.correlation.has_claims(settings), "head_scores")

# %% mystnb={"figure": {"name": "fig-subsets-thresholds", "caption": "The same precision over thresholds: mean over the synthetic conditions, with a band from the lowest to the highest. Dotted: 97.5% of chance. Dashed: the ceiling. Left out where real runs have fewer than one such head on average."}, "image": {"alt": "One panel for each task: precision of all heads and of gained heads against the threshold, each beside chance and ceiling"}} tags=["hide-input"]
figure = figures.heads.thresholds_figure(subsets, settings.detect.threshold, settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, "head_scores")

# %% [markdown]
# Without a threshold: how the scores of a run and of real runs of other seeds agree, given the scores of the base model
# from which all of them started (the {term}`base share <base share>`).

# %% mystnb={"figure": {"name": "fig-base-share", "caption": "Rank correlation of all heads' scores with those of real runs of other seeds, as it is (squares) and given the base model's scores (diamonds). Dashed: real runs beside each other, likewise. Bars: 95% bootstrap intervals."}, "image": {"alt": "One panel for each task: for each training condition a square for the rank correlation of its scores with the real run's, and a diamond for the same given the base model's scores, beside a dashed line for real runs among each other"}} tags=["hide-input"]
figure = figures.heads.share_figure(of_subsets["base_share"], settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, *["base_share"] * figures.correlation.has_claims(settings), "head_scores")

# %% tags=["hide-input"]
best = figures.interval_tables.in_run_order(findings.strongest(first, 3)).drop(columns="seed")
best = best.rename(columns={"where": "head", "chance": "chance level", "mass": "attention mass"})
HTML(figures.page.folded_table("Numbers of heads, by run or condition", figures.interval_tables.counts_table(counts))
     + figures.page.folded_table("The three strongest heads (layer, head) of the mapped runs", best))

# %% [markdown]
# ## How it was decided
#
# By the rule of the {doc}`../preregistration`, C2 asks for a precision above one half and beyond chance, near the ceiling,
# of all heads and of the gained ones. That it is about tasks whose real runs have at least one head on average was decided
# after the runs.

# %% tags=["hide-input"]
found = f"{findings.detection_finding(counts)} {findings.cost_finding()}"
Markdown(f"{found}\n\n{figures.verdicts.verdict_text(claim_verdicts(settings, 'C2'))}")

# %% tags=["nbval-check-output", "remove-cell"]
sizes = scores.groupby(RUN).size()
print("runs and base models scored:", len(counts), "| heads of each:", sizes.unique().tolist())
assert 0 < len(counts) <= len(study_grid(settings)) + len(settings.tasks) * len(settings.bases)
assert table.score.between(0, 1).all()
assert table.chance.dropna().between(0, 1).all()

# %% [markdown]
# ## Limits
#
# A high score says where a head looks, not that the model uses what it finds there: {doc}`04_knockout` tests that. A
# head that carries meaning and copies no token is missed by the retrieval score {cite:p}`gema2026locos`. Scores are
# means over a few dozen examples; heads near the threshold come and go with them. More in {doc}`../limitations`.
# Set `profile = "live"` to compute this page's numbers anew on a CPU, on fewer examples, from the adapters that come
# with the repository.
