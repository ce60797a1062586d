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
#
# **Method.** All texts are generated from a seed. Entities with invented names stand in dozens of relations to
# each other, and every relation can be put in many sentences. An example is a prompt of numbered documents and a
# question; the sentences that the answer needs are its {term}`needles <needle>`, everything else is the
# {term}`haystack`. The three {term}`tasks <task>` follow multi-document question answering {cite:p}`liu2024lost`,
# MuSiQue {cite:p}`trivedi2022musique` and Summary of a Haystack {cite:p}`laban2024summhay`.
#
# Real examples have every form of sentence in their needles and {term}`hard negatives <hard negative>` in their
# haystack. The synthetic {term}`conditions <condition>` take realism away from one or the other, as in
# {cite:t}`zhao2025synthetic`: the first word of their names is the {term}`concept expression` (how varied the needles
# are), the second the {term}`context diversity` (how varied the haystack is); `symbolic` has codes in the place of
# words. A {term}`mixture` such as `real_limited-high_high` takes two conditions in turn, `real_short` and
# `real_shuffled` (real examples that are short, or whose answers are dealt out anew) are controls: they have no examples
# of their own to show. Training examples, those for detecting heads and those for testing share no name and no random
# stream. In code: {py:func}`~retrieval_heads.data.make_examples`.
#
# **What to look at.** Compare the marked sentences of a task from `real` down to `symbolic`, then the share of the test
# set's sentences that each condition never shows.

# %% tags=["parameters"]
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

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "data")
table = load_table(profile, "examples")
OPENED = ("real", "low_low")

# %% [markdown]
# ## One example of each
#
# Every task in every condition that has examples of its own, whatever the profile, at the base model's length; a click
# unfolds a condition. Shown are the documents with a needle, which is <mark>marked</mark>, and one that resembles the
# question most.
#
# ### mdqa: one fact in one of many documents

# %% tags=["hide-input"]
HTML(figures.examples.folded_examples(sample_examples(settings, "mdqa"), OPENED))

# %% [markdown]
# ### musique: a chain of facts in different documents

# %% tags=["hide-input"]
HTML(figures.examples.folded_examples(sample_examples(settings, "musique"), OPENED))

# %% [markdown]
# ### summhay: cite the documents that contain an insight

# %% tags=["hide-input"]
HTML(figures.examples.folded_examples(sample_examples(settings, "summhay"), OPENED))

# %% [markdown]
# ## Statistics
#
# Per set of examples: their largest allowed length, their number *n*, mean tokens, documents and needles an example,
# and the number of different words. The last one grows with *n*; compare training sets with each other.

# %% tags=["hide-input"]
order = {name: place for place, name in enumerate(figures.style.in_order(table.condition))}
ordered = table.sort_values(["task", "split", "condition", "length"], key=lambda column: column.map(order)
                            if column.name == "condition" else column, ascending=[True, False, True, True])
HTML(figures.examples.table_html(ordered.drop(columns=["unseen", "unseen_forms", "unseen_relations", "ngram_overlap"]), digits=1))

# %% [markdown]
# ## What training never shows
#
# A needle sentence of the test set has a relation (`employer`) and a form (`active, second verb phrase`). A form or
# relation is *unseen* when no needle of the condition's training examples has it, and both together are unseen when
# none has this relation in this form.

# %% mystnb={"figure": {"name": "fig-unseen", "caption": "Share of the real test set's needle statements whose sentence form, relation, or both together never occur in a needle of the training examples, by training condition."}, "image": {"alt": "One panel for each task: horizontal bars for each training condition, the share of test statements with an unseen sentence form, an unseen relation, and an unseen pair of both"}} tags=["hide-input"]
train = table[table.split == "train"]
figure, axes = figures.style.panels(settings.tasks, columns=2, height=0.9 + 0.55 * train.condition.nunique())
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.data.plot_unseen(train[train.task == task], ax=ax)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "examples", rows="split train")

# %% [markdown]
# ## Finding

# %% tags=["hide-input"]
Markdown(unseen_finding(table))

# %% tags=["nbval-check-output"]
print(len(relations()), "relations;", len(TASKS), "tasks;", len(CONDITIONS), "conditions")
print("described:", len(table), "sets of examples, of the splits", ", ".join(sorted(set(table.split))))
assert (table.tokens <= table.length).all()
assert table.unseen.dropna().between(0, 1).all()

# %% [markdown]
# **Limits.** "Real" is the distribution that models are tested on; these texts are generated too, and no language model
# or person wrote them. A statement counts by how it is built, not by its words: two forms may differ by little. The
# shares depend on the number of training examples: few examples leave much unseen under any condition, as in the
# `smoke` profile. More in {doc}`../limitations`.
