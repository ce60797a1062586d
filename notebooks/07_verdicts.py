# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Verdicts: what is supported, and what predicts?
#
# **Question.** Which of the five claims hold here, by the rules of the {doc}`../preregistration`? Do heads predict
# performance better than quantities that are cheaper to measure, and well enough to choose a training set?

# %% tags=["parameters", "remove-cell"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages.findings import study_size
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.heads import verdicts_takeaway

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "claims")
verdicts, correlations, choice = (load_table(profile, name) for name in ("verdicts", "correlation_runs", "choice"))
tasks = "all" if "all" in set(correlations.task) else settings.tasks[0]
title = "mean over all tasks" if tasks == "all" else tasks

# %% tags=["remove-input"]
figures.page.takeaway(settings, verdicts_takeaway(verdicts, choice))

# %% mystnb={"figure": {"name": "fig-regret", "caption": "Choosing a training set: how much worse the synthetic set that each quantity chooses is than the best one (regret). Dashed: a random choice. Bars and band: 95% bootstrap intervals over base models and seeds."}, "image": {"alt": "A list of predictors with points for the regret of the training set chosen by each, the smallest on top, beside a dashed line for a random choice"}} tags=["hide-input"]
shown = choice[(choice.task == tasks) & (choice.candidates == "synthetic")]
figure, axes = figures.style.panels([title], columns=1, height=figures.verdicts.list_height(shown, "regret"), width=figures.style.WIDTH)
figures.verdicts.plot_regret(shown, ax=axes[0])
figures.common.shared_legend(figure, axes, columns=2)

# %% tags=["remove-input"]
figures.page.data_line(profile, "choice", rows=f"task {tasks}, candidates synthetic")

# %% [markdown]
# ## Every claim and question

# %% tags=["remove-input", "verdicts"]
HTML(figures.verdicts.verdicts_html(verdicts))

# %% tags=["remove-input", "verdicts"]
Markdown(study_size(settings, load_table(profile, "training")))

# %% tags=["hide-input"]
HTML(f"<details><summary>Task by task</summary>{figures.verdicts.task_verdicts_html(verdicts, settings.tasks)}</details>")

# %% [markdown]
# ## Decide one yourself
#
# A verdict is a rule applied to a table. For C4, each task counts its runs that can answer at all (*able*), and asks in
# how many of them the retrieval heads cost more than random ones beyond the interval (*above*), or less (*below*).

# %% tags=["live", "nbval-check-output"]
import pandas as pd

runs = pd.read_csv("../results/report/necessity.csv").query("condition == 'all' and task != 'all'")
for row in runs.itertuples():
    above = row.n_able and row.n_above > 0.5 * row.n_able and row.n_below == 0  # change this: 0.5
    taken = row.share_retrieval >= 0.5 and row.share_random < 0.25  # of all right answers
    verdict = "not decided" if not row.n_able else "supported" if above and taken else "in part" if above else "open"
    print(f"{row.task}: above in {row.n_above} of {row.n_able}, below in {row.n_below}: {verdict}")

table = pd.read_csv("../results/report/verdicts.csv").query("claim == 'C4'").set_index("task").verdict
print("in the report:", table.to_dict())

# %% [markdown]
# **Exercise 1.** How strict would the rule have to be before C4 fails on `mdqa`? Look at the shares.
#
# :::{dropdown} Solution
# ```python
# print(runs.set_index("task")[["share_retrieval", "share_random"]].round(2))
# ```
# Retrieval heads take all right answers, and random ones hardly any: no sensible threshold changes it.
# :::
#
# **Exercise 2.** Which rule decides C2? Find it in the table.
#
# :::{dropdown} Solution
# ```python
# print(pd.read_csv("../results/report/verdicts.csv").query("claim == 'C2'").rule.iloc[-1])
# ```
# :::

# %% [markdown]
# ## How it is decided
#
# Every verdict is computed from the tables of the chapters before. The rules were written down before the runs of the
# `report` profile; what of them was filled in or changed later, and what that changed, is listed in the
# {doc}`../preregistration`. *Not decided* means that the condition for a test was not met, and speaks for nothing. Intervals are
# 95% bootstrap intervals over seeds, base models and examples, and over conditions where conditions are compared. A
# correlation over conditions is tested by permuting whole conditions, because runs of one condition are not independent
# evidence. {term}`Regret <regret>` is how much worse the chosen training set is than the best. Training sets of your own
# are put in order by {ref}`the command rank <verb-rank>`.

# %% [markdown]
# ## What goes with performance

# %% mystnb={"figure": {"name": "fig-predictors", "caption": "Rank correlation of each quantity with performance over training conditions, the strongest on top. A loss promises performance by being low, so it should stand on the left. Bars: 95% bootstrap intervals over conditions."}, "image": {"alt": "A list of predictors with points and intervals for the rank correlation with performance, the strongest on top; round points for heads compared with a real run, diamonds for heads of the run alone, squares for losses and overlaps of words"}} tags=["hide-input"]
known = correlations[(correlations.task == tasks) & (correlations.method == "spearman") & (correlations.base == "all")
                     & (correlations.conditions == "all") & (correlations.threshold == settings.detect.threshold)
                     & (correlations.given == "nothing")]
figure, axes = figures.style.panels(["tasks with heads, ranks within each" if tasks == "all" else tasks], columns=1, height=figures.verdicts.list_height(known, "estimate"), width=figures.style.WIDTH)
figures.verdicts.plot_predictors(known, ax=axes[0])
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.page.data_line(profile, "correlation_runs", rows=f"task {tasks}, method spearman, conditions all, base all, the study's threshold")

# %% [markdown]
# ## Predicting a condition that was left out
#
# Each condition is predicted from the others by a line through the means of each task. *Gain* is how much smaller the
# error is than when the mean of the others is taken. Any higher-ranked predictor that ignores heads is evidence against
# them.

# %% tags=["hide-input"]
errors = load_table(profile, "prediction_errors")
left_out = errors[(errors.conditions == "all") & (errors.task == tasks) & (errors.reference == "mean")]
numbers = figures.verdicts.errors_table(left_out)
HTML(figures.page.table_html(numbers) if len(numbers) <= 15 else figures.page.folded_table("The error of each predictor", numbers))

# %% tags=["remove-input"]
figures.page.data_line(profile, "prediction_errors", rows=f"task {tasks}, conditions all, reference mean")

# %% tags=["nbval-check-output", "remove-cell"]
print("decided by rules:", ", ".join(sorted(set(verdicts.claim))))
assert set(verdicts.verdict) <= {"supported", "supported in part", "not supported", "not decided"}
assert {"C1", "C2", "C3", "C4", "C5"} <= set(verdicts.claim)
assert not verdicts.duplicated(["claim", "task"]).any()

# %% [markdown]
# ## Limits
#
# Two base models are not a sample of base models; a verdict asks for the same sign in both, which is little. What
# predicts among these conditions need not predict among others. A small profile decides nothing: it shows that the rules
# are applied. More in {doc}`../limitations`.
