# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Patching: what is gained with the heads of a better model?
#
# **Claim C5.** Retrieval heads explain performance but are not totally sufficient: patching them from the model trained
# on real data helps, and does not close the gap {cite:p}`zhao2025synthetic`.

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.claims.patching import judge_patching
from retrieval_heads.config import load_profile
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages import patch
from retrieval_heads.stages.claims import claim_verdicts
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import patching_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "patch")
table = load_table(profile, "patching")
judged = judge_patching(table, n_resamples=settings.bootstrap)

# %% tags=["remove-input"]
figures.page.takeaway(settings, patching_takeaway(judged.tables["sufficiency"]), ["C5"])

# %% mystnb={"figure": {"name": "fig-patching", "caption": "Gain in exact match (teacher forced) by patching in sets of heads of the run on real data. Diamonds: means with 95% bootstrap intervals; small points: conditions. Small studies show the scores themselves."}, "image": {"alt": "One panel for each task: for the intersection, the complement, random heads as many as either, and all heads, what is gained in exact match or the exact match itself when they are patched in from the run on real data"}} tags=["hide-input"]
figure = figures.patching.patching_figure(table, judged.tables["sufficiency"], settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, "patching", rows="metric forced_exact_match")

# %% [markdown]
# ## Patch one model into another yourself
#
# The *source* was trained on real examples, the *target* on `low_low`. Both read the same long text; the target's answer
# is wrong. Where the answer is predicted, what some heads of the target put out is replaced by what the same heads of the
# source put out. This example was chosen because the two adapters disagree on it; on most examples they do not. The
# average over runs is in the figure above.
#
# `encode` gives the token ids of the example: those from `prompt_length` on are the `answer_length` tokens of the answer,
# then the end. `query_rows` are the positions that predict the answer.

# %% tags=["live", "nbval-check-output"]
import torch

from retrieval_heads import load_model, patch_heads, retrieval_scores, select_heads
from retrieval_heads.data import make_examples
from retrieval_heads.data.encode import encode

source, tokenizer = load_model("../models/base", adapter="../models/adapters/mdqa__real__s1__base")
target, _ = load_model("../models/base", adapter="../models/adapters/mdqa__low_low__s1__base")  # change this: high_low
# change this: another seed (most examples show no gap)
example = make_examples(task="mdqa", condition="real", length=1280, n=1, seed=3, split="test")[0]
one = encode(example, tokenizer)

def answer_probability(model):
    """Probability of the whole right answer: the product over its tokens."""
    logits = model(input_ids=torch.tensor([one.ids])).logits[0, list(one.query_rows)]
    wanted = torch.tensor(one.ids[one.prompt_length:][:one.answer_length])
    return logits.softmax(-1).gather(1, wanted[:, None]).prod().item()

# %% tags=["live", "nbval-check-output"]
print(f"{example.answer}: source {answer_probability(source):.3f}, target {answer_probability(target):.3f}")
probe = make_examples(task="mdqa", condition="real", length=512, n=3, seed=0, split="probe")
of_source, of_target = (select_heads(retrieval_scores(model, tokenizer, probe)) for model in (source, target))
heads = [head for head in of_source if head in of_target]  # change this: heads[:10], or of_source
print(f"{len(of_source)} retrieval heads of the source, {len(of_target)} of the target; {len(heads)} are patched")

# %% [markdown]
# By hand: keep what the heads of the source put out, and write it into the target.

# %% tags=["live", "nbval-check-output"]
rows, size, kept = slice(one.prompt_length - 1, None), target.config.head_dim, {}

def keep(layer):
    return lambda module, inputs: kept.update({layer: inputs[0][:, rows].clone()})

def write(layer):
    def hook(module, inputs):
        read = inputs[0].clone()  # [batch, position, heads * size]
        for head in (head for at, head in heads if at == layer):
            part = slice(head * size, (head + 1) * size)
            read[:, rows, part] = kept[layer][..., part]
        return (read,)
    return hook

# %% tags=["live", "nbval-check-output"]
def projections(model):
    return [module for name, module in model.named_modules() if name.endswith("self_attn.o_proj")]

for model, hook in ((source, keep), (target, write)):  # the source first: its outputs are written
    hooks = [module.register_forward_pre_hook(hook(layer)) for layer, module in enumerate(projections(model))]
    result = answer_probability(model)
    for handle in hooks:
        handle.remove()
print(f"target, patched by hand: {result:.3f}")
with patch_heads(target, source, heads, positions=rows):
    print(f"by patch_heads: {answer_probability(target):.3f}")

# %% [markdown]
# **Exercise 1.** Patch an equal number of random heads from the same layers (12 layers of 16 heads). Do they help, too?
#
# :::{dropdown} Solution
# ```python
# from retrieval_heads import random_heads
#
# heads = [head for head in of_source if head in of_target]
# sets = {f"the {len(heads)} heads of both": heads}
# for seed in range(3):
#     sets[f"random heads, seed {seed}"] = random_heads(heads, (12, 16), seed, exclude={*of_source, *of_target})
# for name, chosen in sets.items():
#     with patch_heads(target, source, chosen, positions=rows):
#         print(f"{name}: {answer_probability(target):.3f}")
# ```
# They harm: the target alone gives the right answer .247, with the heads of both .993, and with random ones .02 to .07. A
# random head does not carry the answer, and what it puts out in the source is not what the later layers of the target
# are used to; its own output there is lost.
# :::
#
# **Exercise 2.** How few of the shared heads are enough for this example?
#
# :::{dropdown} Solution
# ```python
# heads = [head for head in of_source if head in of_target]
# for k in (5, 10, 20):
#     with patch_heads(target, source, heads[:k], positions=rows):
#         print(len(heads[:k]), f"{answer_probability(target):.3f}")
# ```
# Ten or so: the strongest 5 give .715, 10 give .968 and 20 give .993, as much as all of them.
# :::
#
# **Exercise 3.** Patch in the other direction: can the heads of the worse model spoil the better one?
#
# :::{dropdown} Solution
# ```python
# heads = [head for head in of_source if head in of_target]
# with patch_heads(source, target, heads, positions=rows):
#     print(f"{answer_probability(source):.3f}")
# ```
# They can with this target: the probability falls from .983 to .170. With the adapters `high_low`, `low_high` and
# `high_high` it stays at .92, and with `symbolic` it even rises (.997): these answer this example well themselves.
# :::

# %% [markdown]
# ## How it is measured
#
# {term}`Patching <patching>` {cite:p}`zhang2024patching` works between two models here. The *source* is the
# {term}`run` on real data, the *target* a run of the same task and seed on other data. Both read the same held-out real
# example; at the {term}`answer positions`, what some heads of the target put out is replaced by what the same heads of
# the source put out ({py:func}`~retrieval_heads.patch_heads`). Each model reads the text before by itself. With R the
# {term}`retrieval heads <retrieval head>` of the source and S those of the target, the
# {term}`patching sets <patching set>` are
#
# - the *intersection*, R and S: heads that both models use, but the source perhaps better;
# - the *complement*, R without S: heads that the target lacks;
# - *all* heads, which is the most that patching at these positions can do;
# - *random* heads outside R and S, as many in each layer as in the intersection, and others as many as in the
#   complement.
#
# The {term}`gap closed` is a share of the distance to the real run. It is given only where that distance is above 0
# beyond its 95% interval. Without a clear gap, the share is meaningless.

# %% [markdown]
# ## The share of the gap

# %% mystnb={"figure": {"name": "fig-gap-closed", "caption": "Share of the gap to the real run that each set of heads closes, by training data of the patched runs; right: number of runs with a gap. Dashed: the real run. Bars: 95% bootstrap intervals over these runs."}, "image": {"alt": "One panel for each task: for each training condition whose runs have a gap, points for the share of the gap that is closed by the intersection, the complement, matched random heads and all heads; a dashed line at one"}} tags=["hide-input"]
figure = figures.patching.closed_figure(judged.tables["sufficiency"], settings.tasks)

# %% tags=["remove-input"]
figures.page.data_line(profile, "patching", rows="runs with a gap, metric forced_exact_match")

# %% [markdown]
# The intersection has many more heads than the complement. At *equal numbers*, we patch as many heads of each set as
# the complement has: the strongest of the intersection, and as many random ones. The table shows the difference in gain
# within a run.

# %% tags=["hide-input"]
equal = figures.patching.equal_table(judged.tables["sufficiency_equal"])
HTML(figures.patching.patching_folded(table, judged.tables["sufficiency"])
     + figures.page.folded_table("At equal numbers", equal)
     + figures.page.folded_table("Runs that speak against the claim, one by one", figures.patching.against_table(judged.tables["sufficiency_against"])))

# %% [markdown]
# ## How it was decided
#
# By the rule of the {doc}`../preregistration`, C5 asks that patching the intersection helps, with the interval of the gain
# above 0, in most of the runs that have a gap, hurts in none, gains more than random heads in most, and leaves a part of
# the gap open. The last was fixed as a count of runs too. A run has too few examples for that, so the pooled share
# decides it, which was changed after the runs. It is decided over all tasks; single tasks are shown beside it.

# %% tags=["hide-input"]
Markdown(figures.verdicts.verdict_text(claim_verdicts(settings, "C5")))

# %% tags=["nbval-check-output", "remove-cell"]
runs = table[RUN].drop_duplicates()
print(len(runs), "patched runs; sets always there:", sorted({"all", "none", "source"} & set(table["set"])))
assert 0 < len(runs) <= len(patch.targets(study_grid(settings)))
empty = table[table.n_heads == 0].groupby([*RUN, "metric"])
assert (empty.apply(lambda rows: rows[rows["set"] != "source"].value.nunique()) == 1).all()

# %% [markdown]
# ## Limits
#
# Patching at the answer positions leaves what the target has read into its keys and values before; what is lost there
# cannot be patched back. The output projection is the target's own, adapted to its own heads, so even *all* heads need
# not reach the real run. A number of heads is not an amount of change: the intersection and its random control are equal
# in number and layers only. Shares of a small gap vary widely. More in {doc}`../limitations`.
# Set `profile = "live"` to compute this page's numbers anew on a CPU, on fewer examples, from the adapters that come
# with the repository.
