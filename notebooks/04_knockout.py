# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Knock-out: what is lost without the retrieval heads?
#
# **Claim C4.** Retrieval heads are necessary: knocking them out destroys performance, knocking out random heads does
# not {cite:p}`zhao2025synthetic`.
#
# **Method.** A {term}`retrieval head` has been found by where it looks. Whether the model *uses* what it finds there is
# another question, which a {term}`knock-out` answers: some heads are taken out of a {term}`run`, and the same held-out
# real examples are scored again. The sets of heads are
#
# - the *k* strongest ones by the {term}`retrieval score` (for `summhay` by the {term}`insight score`), as in
#   {cite:t}`wu2025retrieval`;
# - as many {term}`random controls <random control>`: heads of the same layers that are no retrieval heads, drawn
#   several times, because layers differ in what any head of theirs can do;
# - the *k* heads with the lowest scores.
#
# There is more than one way to take out a head, and the {term}`knock-out modes <knock-out mode>` must not be mixed up:
# `zero` and `mean` replace what the head puts out, `uniform` (what the code of Wu et al. does) makes it look evenly at
# everything. The {term}`knock-out scope` is `answer` where only the {term}`answer positions` are touched, so that the
# model reads the text undisturbed. Scored is {term}`exact match` under {term}`teacher forcing`: every token of the
# answer, and its end, is the model's most likely one.
#
# **What to look at.** How far the line of the retrieval heads lies below that of the random ones, and from which *k* on.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads.config import load_profile
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.examples import table_html
from retrieval_heads.figures.interval_tables import effects_table
from retrieval_heads.figures.knockout import knockout_panels, plot_effects, plot_knockout
from retrieval_heads.figures.style import WIDTH, panels, use_style
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages.provide import provide
from retrieval_heads.stages.verdicts import comparison_k, knockout_finding
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
provide(settings, "knockout")
table = load_table(profile, "knockout")
effects = load_table(profile, "knockout_effects")

# %% [markdown]
# ## Score against the number of heads
#
# The runs on real data, which have the best reason to rely on their retrieval heads:

# %% mystnb={"figure": {"name": "fig-knockout-curves", "caption": "Exact match (teacher forced) of the runs on real data with more and more heads knocked out, for each task and knock-out mode. Bars: 95% bootstrap intervals over examples, for random heads over draws too; small marks: single random draws."}, "image": {"alt": "One panel for each task and knock-out mode: lines of exact match against the number of heads knocked out, one line for retrieval heads, one for random heads of the same layers, one for the heads with the lowest scores, all starting from the unaltered run at zero heads"}} tags=["hide-input"]
parts = knockout_panels(table, ["real"])
figure, axes = panels([title for title, _ in parts], columns=2, width=WIDTH, sharey=True)
for (_, rows), ax in zip(parts, axes, strict=True):
    plot_knockout(rows, ax=ax)
shared_legend(figure, axes)

# %% [markdown]
# ## Every condition at one size
#
# The same for all {term}`conditions <condition>`, at the largest *k* at which every run still loses retrieval heads
# only. Shown is what the knock-out costs against the unaltered run on the same examples: 0 is no effect.

# %% mystnb={"figure": {"name": "fig-knockout-effects", "caption": "Loss of exact match (teacher forced) by knocking out equally many retrieval, random and lowest-scored heads, by training condition; mode zero or the first of the profile. Bars: 95% bootstrap intervals of the paired differences."}, "image": {"alt": "One panel for each task: for each training condition three points with intervals, the loss of exact match by knocking out retrieval heads, random heads and the heads with the lowest scores"}} tags=["hide-input"]
mode, scope, k = settings.knockout.modes[0], settings.knockout.scopes[0], comparison_k(table)
shown = effects[(effects["mode"] == mode) & (effects.scope == scope)]
figure, axes = panels(settings.tasks, columns=2, width=WIDTH, sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    plot_effects(shown[shown.task == task], k, ax=ax)
shared_legend(figure, axes)

# %% tags=["hide-input"]
print(f"Loss of exact match with {k} heads out, mode {mode}, scope {scope}, with 95% intervals")
HTML(table_html(effects_table(shown[shown.k == k])))

# %% [markdown]
# ## Finding
#
# The rule was fixed beforehand: C4 is supported when retrieval heads cost more than random ones, with a 95% interval of
# the paired difference above 0, in most runs, and less in none.

# %% tags=["hide-input"]
Markdown(knockout_finding(table, effects, mode, scope))

# %% tags=["nbval-check-output"]
runs = table[RUN].drop_duplicates()
print(len(runs), "runs; heads out:", sorted(set(table.k)), "; sets:", sorted(set(table["set"])))
assert 0 < len(runs) <= len(study_grid(settings))
assert table[table.metric == "forced_exact_match"].value.between(0, 1).all()

# %% [markdown]
# **Limits.** A knock-out shows what the model cannot replace at once; heads that do the same work can stand in for each
# other, so a small loss does not prove that a head is idle. At scope `answer` a head's work on the text before is left
# in place. Where *k* is larger than the number of retrieval heads, weaker heads are out too. With the `smoke` profile
# the figures show that the pipeline runs, and no more. More in {doc}`../limitations`.
