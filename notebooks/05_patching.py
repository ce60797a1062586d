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
#
# **Method.** {term}`Patching <patching>` {cite:p}`zhang2024patching` works between two models here. The *source* is the
# {term}`run` on real data, the *target* a run of the same task and seed on other data. Both read the same held-out real
# example; at the {term}`answer positions`, what some heads of the target put out is replaced by what the same heads of
# the source put out. Each model reads the text before by itself. With R the {term}`retrieval heads <retrieval head>` of
# the source and S those of the target, the {term}`patching sets <patching set>` are
#
# - the *intersection*, R and S: heads that both models use, but the source perhaps better;
# - the *complement*, R without S: heads that the target lacks;
# - *all* heads, which is the most that patching at these positions can do;
# - *random* heads outside R and S, as many in each layer as in the intersection, and others as many as in the
#   complement.
#
# The {term}`gap closed` is a share of the distance to the real run. It is given only where that distance is above 0
# beyond its 95% interval: a share of a gap that may be none means nothing.
#
# **What to look at.** Whether the bar of the intersection (or of the complement) is higher than that of the random
# heads before it, and how far below the line of the real run it stays.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads.claims.patching import judge_patching
from retrieval_heads.config import load_profile
from retrieval_heads.figures.common import shared_legend
from retrieval_heads.figures.examples import table_html
from retrieval_heads.figures.interval_tables import patching_table
from retrieval_heads.figures.patching import plot_patching
from retrieval_heads.figures.style import WIDTH, panels, use_style
from retrieval_heads.figures.sufficiency import plot_closed, sufficiency_table
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.stages import patch
from retrieval_heads.stages.provide import provide
from retrieval_heads.stages.verdicts import patching_finding
from retrieval_heads.store import load_table

use_style()
settings = load_profile(profile)
provide(settings, "patch")
table = load_table(profile, "patching")

# %% [markdown]
# ## Score with each set of heads

# %% mystnb={"figure": {"name": "fig-patching", "caption": "Exact match (teacher forced) of runs of some conditions, averaged over seeds and base models where there are several, with the outputs of a set of heads taken from the run on real data. Dashed line: the real run itself. Black bars and the band: 95% bootstrap intervals over examples, for random heads over draws too. Small numbers: heads patched; 0 is an empty set, which changes nothing."}, "image": {"alt": "One panel for each task: for each training condition a group of bars of exact match, with nothing patched, with the intersection, the complement, matched random heads and all heads patched, beside a dashed line for the real run"}} tags=["hide-input"]
figure, axes = panels(settings.tasks, columns=1, height=3.0, width=WIDTH)
few = [name for name in ("real_limited", "high_high", "low_low", "symbolic") if name in set(table.condition)]
for task, ax in zip(settings.tasks, axes, strict=True):
    plot_patching(table[(table.task == task) & table.condition.isin(few)], ax=ax)
shared_legend(figure, axes, columns=2)

# %% [markdown]
# ## The share of the gap
#
# Gap: by how much the real run is better on the same examples. Closed: the share of it, with its 95% interval, and a
# dash where there is no gap to speak of. Over random: how much more is gained than with the matched random heads.

# %% mystnb={"figure": {"name": "fig-gap-closed", "caption": "Share of the gap to the real run that is closed by each set of heads, by what the patched runs were trained on; in brackets the number of runs with a gap. Dashed: the real run itself. Bars: 95% bootstrap intervals over these runs, missing where there are too few."}, "image": {"alt": "One panel for each task: for each training condition whose runs have a gap, points for the share of the gap that is closed by the intersection, the complement, matched random heads and all heads; a dashed line at one"}} tags=["hide-input"]
shares = judge_patching(table, n_resamples=settings.bootstrap).tables["sufficiency"]
gapped = [task for task in settings.tasks if (shares[shares.task == task].n_gap > 0).any()] or [settings.tasks[0]]
figure, axes = panels(gapped, columns=2, height=4.4, width=WIDTH)
for task, ax in zip(gapped, axes, strict=True):
    plot_closed(shares[shares.task == task], ax=ax)
shared_legend(figure, axes, columns=2)

# %% tags=["hide-input"]
HTML(table_html(patching_table(table) if len(table[RUN].drop_duplicates()) <= 40 else sufficiency_table(shares)))

# %% [markdown]
# ## Finding
#
# The rule was fixed beforehand: C5 is supported when patching the intersection helps, with the interval of the gain
# above 0, in most of the runs that have a gap, hurts in none, and leaves a part of the gap open in most.

# %% tags=["hide-input"]
Markdown(patching_finding(table))

# %% tags=["nbval-check-output"]
runs = table[RUN].drop_duplicates()
print(len(runs), "patched runs; sets always there:", sorted({"all", "none", "source"} & set(table["set"])))
assert 0 < len(runs) <= len(patch.targets(study_grid(settings)))
empty = table[table.n_heads == 0].groupby([*RUN, "metric"])
assert (empty.apply(lambda rows: rows[rows["set"] != "source"].value.nunique()) == 1).all()

# %% [markdown]
# **Limits.** Patching at the answer positions leaves what the target has read into its keys and values before; what is
# lost there cannot be patched back. The output projection is the target's own, adapted to its own heads, so even *all*
# heads need not reach the real run. A number of heads is not an amount of change: the intersection and its random
# control are equal in number and layers only. With the `smoke` profile the figures show that the pipeline runs, and no
# more. More in {doc}`../limitations`.
# Set `profile = "live"` to compute this page's numbers
# anew on a CPU, on fewer examples, from the adapters that come with the repository.
