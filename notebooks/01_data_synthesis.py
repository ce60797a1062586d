# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data synthesis: what do real and synthetic examples look like?
#
# **Question.** What does a model miss that is trained on synthetic examples?

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.data.example import TASKS
from retrieval_heads.data.relations import relations
from retrieval_heads.stages.common import sample_examples
from retrieval_heads.stages.findings import unseen_finding
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.training import data_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "data")
table = load_table(profile, "examples")
SIDE = ("real", "low_low", "symbolic")

# %% tags=["remove-input"]
figures.page.takeaway(settings, data_takeaway(table))

# %% [markdown]
# ## Three kinds side by side
#
# The same task, `mdqa` (find one fact in one of many documents), as real, as the least real synthetic, and as symbolic
# data. The {term}`needle`, which holds the answer, is <mark>marked</mark>. Shown are its document and the one that
# resembles the question most.

# %% tags=["remove-input"]
HTML(figures.page.side_by_side(sample_examples(settings, "mdqa"), SIDE))

# %% [markdown]
# ## Make your own
#
# {py:func}`~retrieval_heads.data.make_examples` makes any number of examples of any kind and length. Equal seeds give
# equal texts.

# %% tags=["live", "nbval-check-output"]
from retrieval_heads.data import make_examples

task = "musique"  # change this: mdqa, musique or summhay
for condition in ("real", "low_low"):  # ... or these: high_high, mid_low, symbolic, real_limited
    [example] = make_examples(task=task, condition=condition, length=400, n=1, seed=7)
    print(condition, "|", example.meta["documents"], "documents")
    for start, end in example.needles:  # character offsets into the prompt
        print("  needle:", example.prompt[start:end])
    print("  question:", example.prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:"))
    print("  answer:", example.answer)

# %% [markdown]
# **Exercise 1.** How many different words do 20 examples of `real` have, and how many those of `low_low`? Count the
# whole prompts, then the needles alone.
#
# :::{dropdown} Solution
# ```python
# for condition in ("real", "low_low"):
#     examples = make_examples(task="mdqa", condition=condition, length=400, n=20, seed=0)
#     prompts = {word for one in examples for word in one.prompt.split()}
#     needles = {word for one in examples for a, b in one.needles for word in one.prompt[a:b].split()}
#     print(condition, len(prompts), len(needles))
# ```
# The haystack of `low_low` is five sentences, repeated; its needles have one template for each relation.
# :::
#
# **Exercise 2.** Where in the prompt does the needle stand? Would a model that reads only the last 100 words do well?
#
# :::{dropdown} Solution
# ```python
# examples = make_examples(task="mdqa", condition="real", length=400, n=50, seed=0)
# places = [one.needles[0][0] / len(one.prompt) for one in examples]
# print(f"{min(places):.2f} to {max(places):.2f}, mean {sum(places) / len(places):.2f}")
# ```
# They stand anywhere, so reading the end alone does not help. {doc}`09_bring_your_own` has a set where it does.
# :::

# %% [markdown]
# ## How the kinds differ
#
# All texts are generated from a seed. Entities with invented names stand in dozens of relations to each other, and
# every relation can be put in many sentences. An example is a prompt of numbered documents and a question. The
# sentences that the answer needs are its {term}`needles <needle>`; everything else is the {term}`haystack`. The three
# {term}`tasks <task>` follow multi-document question answering {cite:p}`liu2024lost`, MuSiQue
# {cite:p}`trivedi2022musique` and Summary of a Haystack {cite:p}`laban2024summhay`.
#
# Real examples have every form of sentence in their needles and {term}`hard negatives <hard negative>` in their
# haystack. The synthetic {term}`conditions <condition>` take realism away from one or the other, as in
# {cite:t}`zhao2025synthetic`: the first word of their names is the {term}`concept expression` (how varied the needles
# are), the second the {term}`context diversity` (how varied the haystack is); `symbolic` has codes in the place of
# words. A {term}`mixture` such as `real_limited-high_high` takes two conditions in turn. `real_short` and
# `real_shuffled` (real examples that are short, or whose answers were dealt out anew) are controls. Training examples,
# those for detecting heads and those for testing share no name and no random stream.

# %% [markdown]
# ## What training never shows
#
# A needle sentence of the test set has a relation (`employer`) and a form (`active, second verb phrase`). A form or
# relation is *unseen* when no needle of the condition's training examples has it. Both together are unseen when none
# has this relation in this form.

# %% mystnb={"figure": {"name": "fig-unseen", "caption": "Share of the real test set's needle statements whose sentence form, relation, or both together never occur in the training needles, for each kind of data with examples of its own."}, "image": {"alt": "One panel for each task with a row for each kind of training data: three points for the share of test statements with an unseen sentence form, an unseen relation, and an unseen pair of both"}} tags=["hide-input"]
train = figures.training.with_own_examples(table)
order = figures.style.in_order(train.condition)
figure, axes = figures.style.panels(settings.tasks, height=1.3 + 0.24 * len(order), sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.training.plot_unseen(train[train.task == task], ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "examples", rows="split train")

# %% tags=["hide-input"]
Markdown(unseen_finding(table))

# %% [markdown]
# ## Every kind, for every task
#
# A click unfolds an example, at the base model's length.

# %% tags=["hide-input"]
HTML("".join(f"<h3>{task}</h3>{figures.page.folded_examples(sample_examples(settings, task))}" for task in TASKS))

# %% tags=["hide-input"]
order = {name: place for place, name in enumerate(figures.style.in_order(table.condition))}
ordered = table.sort_values(["task", "split", "condition", "length"], key=lambda column: column.map(order)
                            if column.name == "condition" else column, ascending=[True, False, True, True])
counted = ordered.drop(columns=["unseen", "unseen_forms", "unseen_relations", "ngram_overlap"])
HTML(figures.page.folded_table("Number, length, documents, needles and words of each set of examples", counted, digits=1))

# %% tags=["nbval-check-output", "remove-cell"]
print(len(relations()), "relations;", len(TASKS), "tasks;", len(CONDITIONS), "conditions")
print("described:", len(table), "sets of examples, of the splits", ", ".join(sorted(set(table.split))))
assert (table.tokens <= table.length).all()
assert table.unseen.dropna().between(0, 1).all()

# %% [markdown]
# ## Limits
#
# "Real" is the distribution that models are tested on. These texts are generated too; no language model or person wrote
# them. A statement counts by how it is built, not by its words: two forms may differ by little. The shares depend on
# the number of training examples: few examples leave much unseen under any condition. More in {doc}`../limitations`.
