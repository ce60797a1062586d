"""What the chapters on detection, knock-out and patching found."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.data.conditions import kind_of
from retrieval_heads.settings import REFERENCE
from retrieval_heads.wording import listed

METRIC = "forced_exact_match"


def detection_takeaway(counts: pd.DataFrame, subsets: pd.DataFrame, threshold: float, heads: int) -> list[str]:
    """How many heads retrieve after each kind of training, and how far they are the same.

    Args:
        counts: `findings.retrieval_counts`.
        subsets: `claims.subsets.subset_rows`, empty of precisions where there is one seed.
        threshold: the study's.
        heads: of the model.
    """
    made = counts[counts.condition.map(lambda name: kind_of(name).synthetic)]
    real, synthetic = (one.groupby("task").heads.mean() for one in (counts[counts.condition == REFERENCE], made))
    base = counts[counts.condition == "base"].groupby("task").heads.mean()
    each = [f"{synthetic[task]:.0f} against {real[task]:.0f} on {task}" for task in synthetic.index]
    sentences = [f"Of {heads} heads, so many retrieve in runs on synthetic data against runs on real data: "
                 + listed(each) + "."]
    if len(base):
        sentences.append("Before any fine-tuning, the base model has " + listed(
            [f"{value:.0f} on {task}" for task, value in base.items()]) + ".")
    return [*sentences, *subset_sentence(subsets, threshold)]


def of_synthetic_heads(subsets: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows of synthetic conditions at one threshold, of tasks whose real runs have at least one such head.

    Args:
        subsets: the table.
        threshold: the study's.
    """
    at = subsets[(subsets.threshold.astype(float) == threshold) & subsets.precision.notna()]
    real = at[(at.condition == REFERENCE) & (at.n_heads >= 1)]
    known = set(zip(real.task, real.heads, strict=True))
    kept = [(task, heads) in known and kind_of(condition).synthetic
            for task, heads, condition in zip(at.task, at.heads, at.condition, strict=True)]
    return at.loc[pd.Series(kept, index=at.index, dtype=bool)]


def subset_sentence(subsets: pd.DataFrame, threshold: float) -> list[str]:
    """How many heads of synthetic runs are also heads of real ones: one sentence, or none with one seed.

    Args:
        subsets: the table.
        threshold: the study's.
    """
    at = of_synthetic_heads(subsets, threshold).groupby("heads")
    if not len(at):
        return []
    mean, chance = at.precision.mean(), at.chance_high.mean()
    return ["Of the heads of synthetic runs, " + listed([
        f"{mean[kind]:.0%} {'of all' if kind == 'all' else 'of those newly gained'} are also heads of a real run of "
        f"another seed (97.5% of random sets reach {chance[kind]:.0%} or less)"
        for kind in ("all", "gained") if kind in mean.index]) + "."]


def knockout_takeaway(effects: pd.DataFrame, sizes: Mapping[str, int], mode: str, scope: str) -> list[str]:
    """What is lost without retrieval heads, random ones, and those with the lowest scores, in the runs on real data.

    Args:
        effects: the table `knockout_effects`.
        sizes: the k of each task.
        mode: of the knock-out.
        scope: likewise.
    """
    rows = effects[(effects.metric == METRIC) & (effects["mode"] == mode) & (effects.scope == scope)
                   & (effects.condition == REFERENCE)]
    mean = rows.groupby(["task", "contrast", "k"]).value.mean()
    parts = [f"{mean[task, 'retrieval', k]:.2f} against {mean[task, 'random', k]:.2f} on {task} ({k} heads)"
             for task, k in sizes.items() if (task, "random", k) in mean.index]
    sentences = ["Loss of exact match in runs on real data, without retrieval heads and without as many random ones: "
                 + listed(parts) + "."]
    lowest = []
    for task in sizes:
        both = mean[task].unstack("contrast").dropna(subset=["retrieval", "random"])
        if "bottom" in both and len(both):
            k = both.index.max()
            lowest.append(f"{both.bottom[k]:.2f} on {task} ({k} heads; retrieval heads {both.retrieval[k]:.2f}, random "
                          f"{both.random[k]:.2f})")
    if lowest:
        weakest = "The weakest heads of the same layers" if "retrieval_over_bottom" in set(effects.contrast) else (
            "The lowest scores of the whole model are in its first layers, which everything needs. Those heads")
        sentences.append(f"{weakest} cost {listed(lowest)}.")
    return sentences


def patching_takeaway(sufficiency: pd.DataFrame) -> list[str]:
    """The share of the gap that each set of heads closes.

    Args:
        sufficiency: the table.
    """
    rows = sufficiency[(sufficiency.condition == "all") & (sufficiency.n_gap > 0)]
    if rows.empty:
        return ["No run here has a gap to the real run that could be closed."]
    whole = rows[rows.task == ("all" if "all" in set(rows.task) else rows.task.iloc[0])].set_index("set").closed
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
