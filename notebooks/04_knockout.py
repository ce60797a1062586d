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
# - as many {term}`random controls <random control>` that are not retrieval heads, drawn several times: heads of the same
#   layers, because layers differ in what any head of theirs can do, and heads of the same {term}`GQA groups <GQA group>`,
#   because retrieval heads stand together in few of them;
# - as many of the weakest heads of the same layers. Most heads score 0, and of equal scores any are drawn.
#
# Where a layer or group has too few heads left, the nearest ones lend some; the tables count them.
#
# There is more than one way to take out a head, and the {term}`knock-out modes <knock-out mode>` must not be mixed up:
# `zero` and `mean` replace what the head puts out, `uniform` (what the code of Wu et al. does) makes it look evenly at
# everything. The {term}`knock-out scope` is `answer` where only the {term}`answer positions` are touched, so that the
# model reads the text undisturbed. Scored is {term}`exact match` under {term}`teacher forcing`: every token of the
# answer, and its end, is the model's most likely one. In code: {py:func}`~retrieval_heads.ablate_heads`, with the heads
# that {py:func}`~retrieval_heads.select_heads` and {py:func}`~retrieval_heads.random_heads` give.
#
# **What to look at.** How far the line of the retrieval heads lies below that of the random ones, and from which *k* on.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.claims.controls import control_sentence
from retrieval_heads.config import load_profile
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages.claims import claim_verdicts, judged_tables
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "knockout")
table = load_table(profile, "knockout")
effects = load_table(profile, "knockout_effects")
areas = load_table(profile, "knockout_area")
mode, scope = settings.knockout.modes[0], settings.knockout.scopes[0]
ks = figures.knockout.comparison_sizes(table, settings.knockout.k)
order = figures.style.in_order(table.condition)

# %% [markdown]
# ## Score against the number of heads
#
# The runs on real data, which have the best reason to rely on their retrieval heads:

# %% mystnb={"figure": {"name": "fig-knockout-curves", "caption": "Exact match (teacher forced) of the runs on real data with more and more heads knocked out, for each task and knock-out mode. Lines: mean over seeds and base models; bars: 95% bootstrap intervals over examples, for random heads over draws too, averaged over runs; small marks: single runs, and single random draws. A line of random heads ends where too few are left."}, "image": {"alt": "One panel for each task and knock-out mode: lines of exact match against the number of heads knocked out, one line for retrieval heads and one for each control, all starting from the unaltered run at zero heads"}} tags=["hide-input"]
parts = figures.knockout.knockout_panels(table, ["real"])
columns = len(settings.knockout.modes) if len(settings.knockout.modes) > 1 else 3
figure, axes = figures.style.panels([title for title, _ in parts], columns=columns, height=2.2, sharey=True)
for (_, rows), ax in zip(parts, axes, strict=True):
    figures.knockout.plot_knockout(rows, ax=ax)
    ax.label_outer()
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "knockout", rows="condition real, metric forced_exact_match")

# %% [markdown]
# ## Every condition at one size
#
# The same for all {term}`conditions <condition>`, at the largest *k* of each task at which every run still loses
# retrieval heads only, or the smallest *k* where a run has none. Shown is what the knock-out costs against the
# unaltered run on the same examples: 0 is no effect. A run that answers next to nothing has nothing to lose.

# %% mystnb={"figure": {"name": "fig-knockout-effects", "caption": "Loss of exact match (teacher forced) by knocking out equally many retrieval heads and heads of each control, by training condition; mode zero or the first of the profile. Points: mean over seeds and base models; bars: 95% bootstrap intervals of the paired differences, over examples and draws, averaged over runs."}, "image": {"alt": "One panel for each task with a row for each training condition: points with intervals, the loss of exact match by knocking out retrieval heads and each control"}} tags=["hide-input"]
shown = effects[(effects["mode"] == mode) & (effects.scope == scope)]
figure, axes = figures.style.panels([f"{task}, k = {k}" for task, k in ks.items()], height=1.6 + 1.2 * figures.performance.ROW * len(order), sharey=True)
for (task, k), ax in zip(ks.items(), axes, strict=True):
    figures.knockout.plot_effects(shown[shown.task == task], k, ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "knockout_effects", rows=f"the k of each panel, mode {mode}, scope {scope}, metric forced_exact_match")

# %% [markdown]
# The numbers of that figure: a row is a run, with 95% intervals; in a study of more than 40 runs a row is a condition,
# with the mean over its runs and, in brackets, the least and the greatest run.

# %% tags=["hide-input"]
HTML(figures.examples.table_html(figures.interval_tables.effects_table(shown[shown.k == shown.task.map(ks)])))

# %% [markdown]
# ## The area between the curves
#
# One size is one choice. The area between the curve of the random heads and that of the retrieval heads, over the
# logarithm of the number of heads, takes all sizes together: it is the mean height of the one above the other.

# %% mystnb={"figure": {"name": "fig-knockout-areas", "caption": "Area between the knock-out curves of random and of retrieval heads (mean difference in exact match over log(1 + k); mode zero or the first of the profile), by training condition. Diamonds: mean over seeds and base models, with the runs' 95% bootstrap intervals over examples and draws, averaged over runs; open where the runs answer less than a fifth of the examples on average before anything is knocked out, so that there is little to lose. Small marks, where there are several: single runs. Right of 0: retrieval heads cost more."}, "image": {"alt": "One panel for each task with a row for each training condition: a diamond with a bar for the mean area and small marks for the single runs, beside a line at zero"}} tags=["hide-input"]
shown = areas[(areas["mode"] == mode) & (areas.scope == scope) & (areas["set"] == "random")]
figure, axes = figures.style.panels(settings.tasks, height=1.6 + figures.performance.ROW * len(order), sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.areas.plot_areas(shown[shown.task == task], ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "knockout_area", rows=f"set random, mode {mode}, scope {scope}")

# %% [markdown]
# ## Only where something is to be retrieved?
#
# Heads could be needed for everything. So the runs on real data also read plain text, documents without a question,
# with the same heads out.

# %% mystnb={"figure": {"name": "fig-knockout-specificity", "caption": "Rise of the loss of the runs on real data with heads knocked out (mode zero), on the tokens of the answers (heads out at the answer positions) and on plain text (heads out everywhere). Lines: mean over seeds and base models; bars: from the least to the greatest run. Higher is worse."}, "image": {"alt": "One panel for each task: four lines of the rise of the loss against the number of heads knocked out, for retrieval and random heads, on answers and on plain text"}} tags=["hide-input"]
costs = figures.areas.specificity_costs(load_table(profile, "text_loss"), table)
figure, axes = figures.style.panels(settings.tasks, height=3.2, sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.areas.plot_specificity(costs[costs.task == task], ax=ax)
figures.common.shared_legend(figure, axes, columns=2)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "text_loss", "knockout", rows="condition real, mode zero, metric nll")

# %% [markdown]
# ## Closer controls
#
# The report's own controls are random heads of the same layers, and the *k* lowest scores of the whole model, which are
# heads of layers 0 and 1 and needed for everything: these rows are marked as such. With the closer controls of the list
# above the knock-out was made again for the runs whose adapters come with the repository.

# %% tags=["hide-input"]
Markdown(control_sentence(judged_tables(settings, "C4")["controls"]) or "There are no such controls here.")

# %% tags=["remove-input"]
figures.sources.data_line(profile, *["controls"] * figures.correlation.has_claims(settings), "knockout")

# %% [markdown]
# ## Finding
#
# By the rule of the {doc}`../preregistration`: in a task, C4 asks that the area between the curves lies above 0, beyond its
# interval, in more than half of the runs that can answer, and below 0 in none; and that all retrieval heads take half of
# the right answers with them, while as many random ones take less than a quarter.

# %% tags=["hide-input"]
Markdown(figures.verdict_table.verdict_text(claim_verdicts(settings, "C4")))

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
# Set `profile = "live"` to compute this page's numbers
# anew on a CPU, on fewer examples, from the adapters that come with the repository.
