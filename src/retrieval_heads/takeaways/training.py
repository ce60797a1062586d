"""What chapters 00, 01, 02 and 08 found: the base model, the texts, the fine-tuning, the costs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.arrays import RAISED
from retrieval_heads.claims.runs import synthetic
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.findings import solved
from retrieval_heads.wording import listed, shares_of, span


def base_takeaway(base: pd.DataFrame, counts: pd.DataFrame, profile: Profile) -> list[str]:
    """What the untrained model can do at its own length and beyond, and how many heads it has."""
    exact = base[base.metric == "exact_match"].groupby(["condition", "eval_length", "task"]).value.mean()
    longest = profile.eval_lengths[-1]
    own = f"At {profile.base_length:,} tokens the base model answers {shares_of(exact['base'][profile.base_length])}"
    sentences = [f"{own}."]
    if longest > profile.base_length:
        sentences = [f"{own}; at {longest:,} tokens only {shares_of(exact['base'][longest])}."]
        sentences.append("Raising the RoPE theta, without any training, already gives "
                         f"{shares_of(exact['rope'][longest])}. What fine-tuning adds is measured from there.")
    found = counts.groupby("task").heads.mean()
    layers = counts.groupby("task").layers.max()
    sentences.append("It has retrieval heads already: " + listed([
        f"{heads:.0f} on {task} (in {layers[task]} layers)" for task, heads in found.items()]) + ".")
    return sentences


def data_takeaway(examples: pd.DataFrame) -> list[str]:
    """What the training examples of each kind never show of the test set, from the table `examples`."""
    train = examples[examples.split == "train"]
    own = train[train.condition.map(lambda name: not kind_of(name).members)]
    shares = own.groupby("condition")[["unseen_forms", "unseen_relations"]].mean()
    real = shares.loc[REFERENCE]
    made = shares[shares.index.map(lambda name: kind_of(name).synthetic and kind_of(name).concept != "symbolic")]
    return [
        f"Synthetic examples in words never show {span(made.unseen_forms, '.0%')} of the sentence forms in the real "
        f"test set; real examples miss {real.unseen_forms:.0%}.",
        f"Of the relations, real examples leave {real.unseen_relations:.0%} unseen and synthetic ones in words "
        f"{span(made.unseen_relations, '.0%')}: what they lack is the many ways to say a thing.",
    ]


def finetune_takeaway(
    shortfall: pd.DataFrame, performance: pd.DataFrame, base: pd.DataFrame, metrics: Mapping[str, str],
    sizes: pd.DataFrame | None,
) -> list[str]:
    """How far synthetic data fall short, what training adds at all, and what more examples do.

    `metrics` are those by which the tasks are judged; without runs of other sizes there are no `sizes`.
    """
    rows = shortfall[(shortfall.metric == shortfall.task.map(metrics))
                     & shortfall.condition.isin(synthetic(shortfall.condition))]
    mean = rows.groupby("task").value.mean()
    sentences = ["Models trained on synthetic data score lower than models trained on real data, on average by "
                 + listed([f"{value:.2f} on {task}" for task, value in mean.items()]) + "."
                 if (mean > 0).all() else "Synthetic less real score, mean over conditions: "
                 + listed([f"{-value:+.2f} on {task}" for task, value in mean.items()]) + "."]
    extremes = rows.groupby("condition").value.mean()
    if len(extremes) > 1:
        sentences.append(f"How much depends on the kind: least for `{extremes.idxmin()}` ({extremes.min():.2f}), most "
                         f"for `{extremes.idxmax()}` ({extremes.max():.2f}; means over tasks).")
    longest = performance.eval_length.max()
    real, rope = solved(performance, REFERENCE, longest), solved(base, RAISED, longest)
    sentences.append("Real examples lift the score above a raised theta alone: " + listed(
        [f"{task} from {rope[task]:.2f} to {value:.2f}" for task, value in real.items()]) + ".")
    if sizes is not None and "low_low" in set(sizes.condition):
        sentences.append(_sizes(sizes, "low_low"))
    return sentences


def costs_takeaway(summary: pd.DataFrame, whole: pd.DataFrame) -> list[str]:
    """What reading all heads costs beside a plain pass, and what the study costs (the last row of `costs_full`)."""
    found = summary.set_index("what")
    one, many = found.loc["detection"], found.loc["detection_many"]
    return [
        f"Reading all heads of an 8B model at {summary.tokens.iloc[0]:,} tokens takes {one.to_plain:.3f} times the "
        f"time of a plain pass, and {one.peak_to_plain:.3f} times its memory.",
        f"It is {one.faster_than_wu:.1f} times faster than the procedure of Wu et al.; with "
        f"{many.questions:.0f} questions on one haystack, {many.faster_than_wu:.0f} times per question.",
        f"The whole study at this size takes about {whole.hours.iloc[-1]:,.0f} hours of one card.",
    ]


def _sizes(sizes: pd.DataFrame, condition: str) -> str:
    """From the fewest to the most examples of one condition, on the task where that changes the score most."""
    wide = sizes[sizes.condition == condition].pivot(index="task", columns="scale", values="value").dropna()
    change = wide[wide.columns.max()] - wide[wide.columns.min()]
    task = change.abs().idxmax()
    few, many = wide.columns.min(), wide.columns.max()
    verb = "raise" if change[task] > 0 else "lower"
    return (f"More of the least real data (`{condition}`) {verb} the score: {many / few:.0f} times as many examples "
            f"take {task} from {wide.loc[task, few]:.2f} to {wide.loc[task, many]:.2f}.")
