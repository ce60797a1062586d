"""What chapters 03 to 07 found: detection, knock-out, patching, correlation, verdicts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.necessity import METRIC
from retrieval_heads.claims.runs import where
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.settings import REFERENCE
from retrieval_heads.wording import PREDICTORS, listed, p_value


def detection_takeaway(counts: pd.DataFrame, subsets: pd.DataFrame, threshold: float, heads: int) -> list[str]:
    """How many heads retrieve after each kind of training (`findings.retrieval_counts`), and how far they are the same.

    With one seed, `subsets` has no precision.
    """
    made = counts[counts.condition.map(lambda name: kind_of(name).synthetic)]
    synthetic, real, base = (rows.groupby("task").heads.mean() for rows in (
        made, counts[counts.condition == REFERENCE], counts[counts.condition == "base"]))
    each = listed([f"{value:.0f} against {real[task]:.0f} on {task}" for task, value in synthetic.items()])
    sentences = [f"Of {heads} heads, so many retrieve in runs on synthetic data against runs on real data: {each}."]
    if len(base):
        sentences.append("Before any fine-tuning, the base model has " + listed(
            [f"{value:.0f} on {task}" for task, value in base.items()]) + ".")
    return [*sentences, *subset_sentence(subsets, threshold)]


def of_synthetic_heads(subsets: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of synthetic conditions at one threshold, of tasks whose real runs have at least one such head."""
    at = subsets[(subsets.threshold.astype(float) == threshold) & subsets.precision.notna()]
    real = at[(at.condition == REFERENCE) & (at.n_heads >= 1)]
    made = at[at.condition.map(lambda name: kind_of(name).synthetic).astype(bool)]
    return made.merge(real[["task", "heads"]], on=["task", "heads"])


def subset_sentence(subsets: pd.DataFrame, threshold: float) -> list[str]:
    """How many heads of synthetic runs are also heads of real ones: one sentence, or none with one seed."""
    at = of_synthetic_heads(subsets, threshold).groupby("heads")[["precision", "chance_high"]].mean()
    parts = [f"{at.precision[kind]:.0%} {which} are also heads of a real run of another seed (97.5% of random sets "
             f"reach {at.chance_high[kind]:.0%} or less)"
             for kind, which in (("all", "of all"), ("gained", "of those newly gained")) if kind in at.index]
    return [f"Of the heads of synthetic runs, {listed(parts)}."] if parts else []


def knockout_takeaway(effects: pd.DataFrame, sizes: Mapping[str, int], mode: str, scope: str) -> list[str]:
    """What is lost without retrieval heads, random ones, and those with the lowest scores, in the runs on real data.

    From the table `knockout_effects`, at the k of each task.
    """
    rows = where(effects, metric=METRIC, mode=mode, scope=scope, condition=REFERENCE)
    mean = rows.groupby(["task", "contrast", "k"]).value.mean()
    parts = [f"{mean[task, 'retrieval', k]:.2f} against {mean[task, 'random', k]:.2f} on {task} ({k} heads)"
             for task, k in sizes.items() if (task, "random", k) in mean.index]
    sentences = ["Loss of exact match in runs on real data, without retrieval heads and without as many random ones: "
                 + listed(parts) + "."]
    lowest = []
    for task in sizes:
        both = mean[task].unstack("contrast").dropna(subset=["retrieval", "random"])
        if "bottom" in both and len(both):
            last = both.loc[both.index.max()]
            lowest.append(f"{last.bottom:.2f} on {task} ({last.name} heads; retrieval heads {last.retrieval:.2f}, "
                          f"random {last.random:.2f})")
    if lowest:
        weakest = "The weakest heads of the same layers" if "retrieval_over_bottom" in set(effects.contrast) else (
            "The lowest scores of the whole model are in its first layers, which everything needs. Those heads")
        sentences.append(f"{weakest} cost {listed(lowest)}.")
    return sentences


def patching_takeaway(sufficiency: pd.DataFrame) -> list[str]:
    """The share of the gap that each set of heads closes, from the table."""
    rows = sufficiency[(sufficiency.condition == ALL) & (sufficiency.n_gap > 0)]
    if rows.empty:
        return ["No run here has a gap to the real run that could be closed."]
    whole = rows[rows.task == (ALL if ALL in set(rows.task) else rows.task.iloc[0])].set_index("set").closed
    n = int(rows.n_gap.max())
    sentences = [f"Patching in the heads that both models have closes {whole['intersection']:.0%} of the gap (random "
                 f"heads {whole['random']:.0%}), over {n} runs that have one."
                 if {"intersection", "random"} <= set(whole.index) else f"{n} runs have a gap."]
    if "complement" in whole:
        less = " So runs differ less in which heads retrieve than in what these read." if (
            whole["complement"] < whole.get("intersection", 0)) else ""
        sentences.append(f"Heads that the synthetic run lacks close {whole['complement']:.0%}; all heads of the model "
                         f"{whole['all']:.0%}.{less}")
    return sentences


def correlation_takeaway(
    conditions: pd.DataFrame, claims: Mapping[str, pd.DataFrame] | None, threshold: float,
) -> list[str]:
    """How closely recall goes with performance, how that depends on the threshold, and what predicts without heads.

    From the tables `correlation_runs` and `run_predictors`; of a study with one seed from
    `stages.correlate.conditions_table`.
    """
    if claims is None:
        return [f"With one seed and {conditions.condition.nunique()} conditions, recall and performance cannot be "
                "correlated to any purpose. Recall here: " + listed([
                    f"{row.recall:.2f} for `{row.condition}` on {row.task}" for row in conditions.itertuples()
                    if pd.notna(row.recall)][:4]) + "."]
    rows = where(claims["correlation_runs"], task=ALL, conditions="all", method="spearman", given="nothing")
    rows = rows[rows.estimate.notna()]
    recall = rows[(rows.predictor == "recall") & (rows.base == ALL)].set_index("threshold")
    at, here = recall.loc[threshold], rows[rows.threshold == threshold]
    told = listed([f"{value:.2f} at {place:g}" for place, value in recall.estimate.items()
                   if place in (recall.index.min(), threshold, recall.estimate.idxmax())])
    single = here[(here.predictor == "recall") & (here.base != ALL)]
    bases = "; of single base models " + listed([f"{row.estimate:.2f} ({row.base})" for row in single.itertuples()])
    means = claims["run_predictors"].groupby(["task", "condition"]).recall.mean()
    task = means.index[0][0]
    best = here[here.base == ALL].set_index("predictor").estimate
    cheap = [f"{PREDICTORS[name]} {best[name]:.2f}" for name in ("probe_loss", "ngram_overlap", "training_loss")
             if name in best]
    return [
        f"Recall of the real-data heads goes with performance: Spearman {at.estimate:.2f} "
        f"[{at.low:.2f}, {at.high:.2f}], {p_value(at.p)}, over {at.n_conditions:.0f} conditions.",
        f"That depends on the threshold that makes a head a retrieval head: the correlation is {told}"
        f"{bases if len(single) else ''}.",
        f"Recall leaves little to tell conditions apart: its means span {means[task].min():.2f} to "
        f"{means[task].max():.2f} on {task}.",
        *([f"For comparison, without any heads: {listed(cheap)}."] if cheap else ()),
    ]


def synthetic_choice(choice: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table `choice` over all tasks, between synthetic sets, that have a regret."""
    return choice[(choice.task == ALL) & (choice.candidates == "synthetic") & choice.regret.notna()]


def verdicts_takeaway(verdicts: pd.DataFrame, choice: pd.DataFrame) -> list[str]:
    """How many claims hold, and by what a training set is chosen best; from the two tables."""
    whole = verdicts[(verdicts.task == ALL) & verdicts.claim.str.startswith("C")]
    found = whole.groupby("verdict").claim.agg(lambda claims: listed(sorted(claims)))
    sentences = ["Of the paper's five claims: " + "; ".join(f"{claims} {verdict}" for verdict, claims in found.items())
                 + "."]
    known = synthetic_choice(choice).set_index("predictor").sort_values("regret")
    if len(known):
        told = listed([f"{known.regret[name]:.3f} by {PREDICTORS.get(name, name)}" for name in known.index
                       if name in (known.index[0], "probe_loss", "recall_few")])
        sentences.append("Choosing a synthetic training set costs, against the best one (fraction of the score): "
                         f"{told}; {known.random_regret.iloc[0]:.3f} at random.")
    return sentences
