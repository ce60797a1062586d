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

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.claims.necessity import control_sentence
from retrieval_heads.config import load_profile
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages.claims import claim_verdicts, judged_tables
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import knockout_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "knockout")
table = load_table(profile, "knockout")
effects = load_table(profile, "knockout_effects")
areas = load_table(profile, "knockout_area")
mode, scope = settings.knockout.modes[0], settings.knockout.scopes[0]
ks = figures.knockout.comparison_sizes(table, settings.knockout.k)
order = figures.style.in_order(table.condition)
answered = [task for task in settings.tasks if task != "summhay"] or settings.tasks  # of summhay nothing is exact

# %% tags=["remove-input"]
figures.page.takeaway(settings, knockout_takeaway(effects, {task: ks[task] for task in answered}, mode, scope), ["C4"])

# %% mystnb={"figure": {"name": "fig-knockout-curves", "caption": "Exact match (teacher forced) of runs on real data as more heads are silenced (mode zero). Lines: mean over runs; bars: 95% bootstrap intervals; small marks: single runs and draws. Random lines end where too few heads are left."}, "image": {"alt": "One panel for each task: exact match against the number of heads knocked out; the line of retrieval heads falls to zero, that of random heads of the same layers stays level"}} tags=["hide-input"]
parts = figures.knockout.knockout_panels(table[table["mode"].isin([mode, "none"]) & table.task.isin(answered)], ["real"])
figure, axes = figures.style.panels(answered, columns=2, height=2.9, sharey=True)
for (_, rows), ax in zip(parts, axes, strict=True):
    figures.knockout.plot_knockout(rows, ax=ax)
    ax.label_outer()
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "knockout", rows=f"condition real, mode {mode}, metric forced_exact_match; the file has every mode and task")

# %% [markdown]
# ## Knock a head out yourself
#
# The heads of a layer lie side by side in what its output projection reads. A head is silenced by filling its part with
# zeros there. First, what the whole model makes of one example. `encode` gives its token ids: those from `prompt_length`
# on are the `answer_length` tokens of the answer, then the end. `query_rows` are the positions that predict the answer.

# %% tags=["live", "nbval-check-output"]
import torch

from retrieval_heads import ablate_heads, load_model, random_heads, retrieval_scores, select_heads
from retrieval_heads.data import make_examples
from retrieval_heads.data.encode import encode

model, tokenizer = load_model("../models/base")
examples = make_examples(task="mdqa", condition="real", length=256, n=4, seed=0, split="probe")
one = encode(examples[0], tokenizer)

def answer_probability(model):
    """Probability of the whole right answer: the product over its tokens."""
    logits = model(input_ids=torch.tensor([one.ids])).logits[0, list(one.query_rows)]
    wanted = torch.tensor(one.ids[one.prompt_length:][:one.answer_length])
    return logits.softmax(-1).gather(1, wanted[:, None]).prod().item()

print(f"{examples[0].answer}: probability {answer_probability(model):.3f}")

# %% tags=["live", "nbval-check-output"]
scores = retrieval_scores(model, tokenizer, examples)  # summhay needs kind="insight"
heads = select_heads(scores, k=20)  # change this: k=5, or [(6, 1)]
size = model.config.head_dim
projections = [module for name, module in model.named_modules() if name.endswith("self_attn.o_proj")]

def silence(layer, head):
    """Empty one head's part of what the output projection reads: `[batch, position, heads * size]`."""
    def hook(module, inputs):
        read = inputs[0].clone()
        read[..., head * size : (head + 1) * size] = 0
        return (read,)
    return projections[layer].register_forward_pre_hook(hook)

hooks = [silence(layer, head) for layer, head in heads]
print(f"without these {len(heads)} heads: {answer_probability(model):.3f}")
for hook in hooks:
    hook.remove()  # or the model stays without them

# %% [markdown]
# {py:func}`~retrieval_heads.ablate_heads` does the same, and removes its hooks by itself. The control is an
# equal number of random heads from the same layers, none of them a retrieval head; the model has 12 layers of 16 heads.
# These cells silence heads at all positions of the text. The figures of the study use scope `answer`: heads are silent
# only where the answer is predicted (Exercise 3).

# %% tags=["live", "nbval-check-output"]
with ablate_heads(model, heads, mode="zero"):  # change this: mode="uniform" makes them attend evenly to everything
    print(f"by ablate_heads: {answer_probability(model):.3f}")
others = random_heads(heads, (12, 16), seed=0, exclude=select_heads(scores))  # as many in each layer
with ablate_heads(model, others):
    print(f"without {len(others)} random heads: {answer_probability(model):.3f}")
print(f"whole again: {answer_probability(model):.3f}")

# %% [markdown]
# **Exercise 1.** How many retrieval heads have to go before the answer is lost? Does any single one matter?
#
# :::{dropdown} Solution
# ```python
# heads = select_heads(scores, k=20)
# for k in (1, 5, 10, 15, 16, 17, 18, 20):
#     with ablate_heads(model, heads[:k]):
#         print(k, f"{answer_probability(model):.3f}")
#
# def without(head):
#     with ablate_heads(model, [head]):
#         return answer_probability(model)
#
# print(f"least of all single heads: {min(map(without, heads)):.5f}")
# ```
# No single head matters: without the one that is missed most the probability is still .9997. Heads that do the same work
# stand in for each other, for the model was trained with whole heads left out at random ({doc}`00_base_model`). So most
# have to go before anything is seen, and then the answer is lost at once: .833 without 15 heads, .079 without 16, .006
# without 17.
# :::
#
# **Exercise 2.** Let the heads attend evenly to everything (`uniform`) in place of silencing them. Is that the same?
#
# :::{dropdown} Solution
# ```python
# heads = select_heads(scores, k=20)
# for k in (5, 10, 15, 20):
#     for mode in ("zero", "uniform"):
#         with ablate_heads(model, heads[:k], mode=mode):
#             print(k, mode, f"{answer_probability(model):.3f}")
# ```
# It is not: a head that attends evenly still writes something, the mean of all it could have read (without 15 heads:
# .833 silenced, .080 evenly). A third mode puts in a head's mean output over other examples. It needs these means:
# `from retrieval_heads.heads.ablate import mean_head_outputs`, then
# `ablate_heads(model, heads, mode="mean", means=mean_head_outputs(model, tokenizer, examples[1:]))`.
# :::
#
# **Exercise 3.** Write a hook that silences heads only where the answer is predicted (scope `answer`). Is the answer
# still lost?
#
# :::{dropdown} Solution
# ```python
# heads, rows = select_heads(scores, k=20), slice(one.prompt_length - 1, None)
#
# def silence_at(layer, head):
#     def hook(module, inputs):
#         read = inputs[0].clone()
#         read[:, rows, head * size : (head + 1) * size] = 0
#         return (read,)
#     return projections[layer].register_forward_pre_hook(hook)
#
# hooks = [silence_at(layer, head) for layer, head in heads]
# print(f"without {len(heads)} heads where the answer is predicted: {answer_probability(model):.3f}")
# for hook in hooks:
#     hook.remove()
# with ablate_heads(model, heads, positions=rows):
#     print(f"by ablate_heads: {answer_probability(model):.3f}")
# ```
# It is: .000. A token is predicted one position before it stands, so the first of these rows is the prompt's last.
# :::

# %% [markdown]
# ## How it is measured
#
# A {term}`retrieval head` has been found by where it looks. Whether the model *uses* what it finds there is another
# question, which a {term}`knock-out` answers: some heads are taken out of a {term}`run`, and the same held-out real
# examples are scored again. The sets of heads are
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
# The {term}`knock-out modes <knock-out mode>` must not be mixed up: `zero` and `mean` replace what the head puts out,
# `uniform` (what the code of Wu et al. does) makes it attend evenly to everything. With the {term}`knock-out scope`
# `answer` only the {term}`answer positions` are touched, so that the model reads the text undisturbed. The score is
# {term}`exact match` under {term}`teacher forcing`: every token of the answer, and its end, is the model's most likely
# one. In code: {py:func}`~retrieval_heads.ablate_heads`, with the heads that
# {py:func}`~retrieval_heads.select_heads` and {py:func}`~retrieval_heads.random_heads` give.

# %% [markdown]
# ## Every kind of training data
#
# Each panel shows the largest *k* at which only retrieval heads are removed in every run (the smallest *k* if some run
# has none). 0 is no effect. A run that answers next to nothing has nothing to lose.

# %% mystnb={"figure": {"name": "fig-knockout-effects", "caption": "Loss of exact match (teacher forced) by knocking out equally many retrieval heads and heads of each control, by training data; mode zero. Points: mean over runs; bars: 95% bootstrap intervals of the paired differences."}, "image": {"alt": "One panel for each task with a row for each training condition: points with intervals for the loss of exact match by knocking out retrieval heads and heads of each control"}} tags=["hide-input"]
shown = effects[(effects["mode"] == mode) & (effects.scope == scope)]
figure, axes = figures.style.panels([f"{task}, k = {k}" for task, k in ks.items()], height=1.6 + 1.2 * figures.performance.ROW * len(order), sharey=True)
for (task, k), ax in zip(ks.items(), axes, strict=True):
    figures.knockout.plot_effects(shown[shown.task == task], k, ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "knockout_effects", rows=f"the k of each panel, mode {mode}, scope {scope}, metric forced_exact_match")

# %% tags=["hide-input"]
HTML(figures.page.folded_table("The numbers (with many runs: mean, least and greatest run)",
                                   figures.interval_tables.effects_table(shown[shown.k == shown.task.map(ks)])))

# %% [markdown]
# ## The area between the curves
#
# One size is one choice. The area between the curve of the random heads and that of the retrieval heads, over the
# logarithm of the number of heads, takes all sizes together: it is the mean height of the one above the other.

# %% mystnb={"figure": {"name": "fig-knockout-areas", "caption": "Area between the knock-out curves of random and of retrieval heads (mode zero). Diamonds: mean over runs with 95% intervals; open where runs answer too little. Small marks: single runs. Right of 0: retrieval heads cost more."}, "image": {"alt": "One panel for each task with a row for each training condition: a diamond with a bar for the mean area and small marks for the single runs, beside a line at zero"}} tags=["hide-input"]
shown = areas[(areas["mode"] == mode) & (areas.scope == scope) & (areas["set"] == "random")]
figure, axes = figures.style.panels(settings.tasks, height=1.6 + figures.performance.ROW * len(order), sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.knockout.plot_areas(shown[shown.task == task], ax=ax, order=order)
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "knockout_area", rows=f"set random, mode {mode}, scope {scope}")

# %% [markdown]
# ## Only where something is to be retrieved?
#
# Heads could be needed for everything. So the runs on real data also read plain text, documents without a question,
# with the same heads out.

# %% mystnb={"figure": {"name": "fig-knockout-specificity", "caption": "Rise of the loss of runs on real data with heads out (mode zero), on answers (at the answer positions) and on plain text (everywhere). Lines: mean over runs; bars: least to greatest run."}, "image": {"alt": "One panel for each task: four lines of the rise of the loss against the number of heads knocked out, for retrieval and random heads, on answers and on plain text"}} tags=["hide-input"]
costs = figures.knockout.specificity_costs(load_table(profile, "text_loss"), table)
figure, axes = figures.style.panels(settings.tasks, height=3.2, sharey=True)
for task, ax in zip(settings.tasks, axes, strict=True):
    figures.knockout.plot_specificity(costs[costs.task == task], ax=ax)
figures.common.shared_legend(figure, axes, columns=2)

# %% tags=["remove-input"]
figures.page.data_line(profile, "text_loss", "knockout", rows="condition real, mode zero, metric nll")

# %% [markdown]
# ## Closer controls
#
# The report's own controls are random heads of the same layers, and the *k* lowest scores of the whole model, which are
# heads of layers 0 and 1 and needed for everything: these rows are marked as such. With the closer controls of the list
# above the knock-out was made again for the runs whose adapters come with the repository.

# %% tags=["hide-input"]
closer = judged_tables(settings, "C4")["controls"]
Markdown(control_sentence(closer) or "There are no such controls here.")

# %% tags=["remove-input"]
figures.page.data_line(profile, *["controls"] * figures.correlation.has_claims(settings), "knockout")

# %% [markdown]
# ## How it was decided
#
# By the rule of the {doc}`../preregistration`: in a task, C4 asks that the area between the curves lies above 0, beyond its
# interval, in more than half of the runs that can answer, and below 0 in none; and that all retrieval heads take half of
# the right answers with them, while as many random ones take less than a quarter.

# %% tags=["hide-input"]
Markdown(figures.verdicts.verdict_text(claim_verdicts(settings, "C4")))

# %% tags=["nbval-check-output", "remove-cell"]
runs = table[RUN].drop_duplicates()
print(len(runs), "runs; among the sets: none and retrieval,", {"none", "retrieval"} <= set(table["set"]))
assert 0 < len(runs) <= len(study_grid(settings))
assert table[table.metric == "forced_exact_match"].value.between(0, 1).all()

# %% [markdown]
# ## Limits
#
# A knock-out shows what the model cannot replace at once; heads that do the same work can stand in for each other, so a
# small loss does not prove that a head is idle. At scope `answer` a head's work on the text before is left in place.
# Where *k* is larger than the number of retrieval heads, weaker heads are out too. More in {doc}`../limitations`.
# Set `profile = "live"` to compute this page's numbers anew on a CPU, on fewer examples, from the adapters that come
# with the repository.
