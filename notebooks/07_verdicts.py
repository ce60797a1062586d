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
#
# **Method.** Every verdict is computed from the tables of the chapters before. The rules were written down before the runs
# of the `report` profile; what of them was filled in or changed later, and what that changed, is listed there. *Not
# decided* means that the condition for a test was not met, and speaks for nothing. Intervals
# are 95% bootstrap intervals over seeds, base models and examples, and over conditions where conditions are compared.
# A correlation over conditions is tested by permuting whole conditions, as runs of one condition are no independent
# evidence. A predictor is worth something when it predicts a condition that was left out, or when the training set
# chosen by it is a good one; regret is how much worse it is than the best. Training sets of your own are put in order by
# {ref}`the command rank <verb-rank>`.
#
# **What to look at.** The verdicts, and what is folded beside them: the counts, and what would speak against; whether
# the points of the heads lie further from zero than those of the cheaper quantities; and whether choosing by heads loses
# less than a random choice.

# %% tags=["parameters"]
profile = "smoke"

# %% tags=["hide-input"]
from IPython.display import HTML, Markdown

from retrieval_heads import figures
from retrieval_heads.config import load_profile
from retrieval_heads.stages.findings import study_size
from retrieval_heads.stages.provide import provide
from retrieval_heads.store import load_table

figures.style.use_style()
settings = load_profile(profile)
provide(settings, "claims")
verdicts, correlations, choice = (load_table(profile, name) for name in ("verdicts", "correlation_runs", "choice"))

# %% [markdown]
# ## The claims

# %% tags=["hide-input", "verdicts"]
HTML(figures.verdict_table.verdicts_html(verdicts))

# %% tags=["hide-input", "verdicts"]
Markdown(study_size(settings, load_table(profile, "training")))

# %% [markdown]
# ## Task by task

# %% tags=["hide-input"]
HTML(figures.verdict_table.task_verdicts_html(verdicts, settings.tasks))

# %% [markdown]
# ## What goes with performance

# %% mystnb={"figure": {"name": "fig-predictors", "caption": "Rank correlation over training conditions of each quantity with performance, each averaged over the runs of a condition; of the tasks together whose real runs have at least one head on average, with ranks taken within each. The strongest is on top. Round: heads compared with those of a real run; diamonds: heads without a real run; squares: no heads at all. A loss promises performance by being low, so it should stand on the left. Bars: 95% bootstrap intervals over conditions."}, "image": {"alt": "A list of predictors with points and intervals for the rank correlation with performance, the strongest on top; round points for heads compared with a real run, diamonds for heads of the run alone, squares for losses and overlaps of words"}} tags=["hide-input"]
tasks = "all" if "all" in set(correlations.task) else settings.tasks[0]
title = "tasks with heads, ranks within each" if tasks == "all" else tasks
known = correlations[(correlations.task == tasks) & (correlations.method == "spearman") & (correlations.base == "all")
                     & (correlations.conditions == "all") & (correlations.threshold == settings.detect.threshold)
                     & (correlations.given == "nothing")]
figure, axes = figures.style.panels([title], columns=1, height=figures.prediction.list_height(known, "estimate"), width=figures.style.WIDTH)
figures.prediction.plot_predictors(known, ax=axes[0])
figures.common.shared_legend(figure, axes)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "correlation_runs", rows=f"task {tasks}, method spearman, conditions all, base all, the study's threshold")

# %% [markdown]
# ## Predicting a condition that was left out
#
# Each condition is predicted from the others by a line through the means of each task. *Gain* is how much smaller the
# error is than when the mean of the others is taken. Against heads speaks a quantity without heads that stands above.

# %% mystnb={"figure": {"name": "fig-prediction-errors", "caption": "Mean absolute error in predicting the performance of a condition that was left out, mean over the tasks whose real runs have heads, by each quantity; the smallest is on top. Upright strokes: the error of the mean of the other conditions. Points on the left of them predict better than that. Bars: 95% intervals over conditions."}, "image": {"alt": "A list of predictors with points and intervals for the error in predicting a left-out condition, the smallest on top, each beside a stroke for the error of the mean of the other conditions"}} tags=["hide-input"]
errors = load_table(profile, "prediction_errors")
left_out = errors[(errors.conditions == "all") & (errors.task == tasks) & (errors.reference == "mean")]
figure, axes = figures.style.panels(["mean over tasks with heads" if tasks == "all" else tasks], columns=1, height=figures.prediction.list_height(left_out, "error"), width=figures.style.WIDTH)
figures.prediction.plot_errors(left_out, ax=axes[0])
figures.common.shared_legend(figure, axes, columns=2)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "prediction_errors", rows=f"task {tasks}, conditions all, reference mean")

# %% tags=["hide-input"]
HTML(figures.examples.folded_table("The numbers, and whether each is better than the mean", figures.prediction.errors_table(left_out)))

# %% [markdown]
# ## Choosing a training set
#
# Over all tasks, also the one in which real runs have hardly any head.

# %% mystnb={"figure": {"name": "fig-regret", "caption": "How much worse the synthetic training set is that each quantity chooses than the best one, mean over tasks, base models and seeds; the head scores of the real run come from another seed. Of losses the lowest is taken, of all else the highest. Dashed: a random choice. Bars and band: 95% bootstrap intervals over base models and seeds, missing where there are too few."}, "image": {"alt": "A list of predictors with points for the regret of the training set chosen by each, the smallest on top, beside a dashed line for a random choice"}} tags=["hide-input"]
shown = choice[(choice.task == tasks) & (choice.candidates == "synthetic")]
figure, axes = figures.style.panels(["mean over tasks" if tasks == "all" else tasks], columns=1, height=figures.prediction.list_height(shown, "regret"), width=figures.style.WIDTH)
figures.prediction.plot_regret(shown, ax=axes[0])
figures.common.shared_legend(figure, axes, columns=2)

# %% tags=["remove-input"]
figures.sources.data_line(profile, "choice", rows=f"task {tasks}, candidates synthetic")

# %% tags=["nbval-check-output"]
print("decided by rules:", ", ".join(sorted(set(verdicts.claim))))
assert set(verdicts.verdict) <= {"supported", "supported in part", "not supported", "not decided"}
assert {"C1", "C2", "C3", "C4", "C5"} <= set(verdicts.claim)
assert not verdicts.duplicated(["claim", "task"]).any()

# %% [markdown]
# **Limits.** Two base models are no sample of base models; a verdict asks for the same sign in both, which is little. What
# predicts among these conditions need not predict among others. With the `smoke` profile nothing is decided: it shows that
# the rules are applied, and no more. More in {doc}`../limitations`.
