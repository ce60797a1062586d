"""What the first page says: the answer, one sentence for each claim, which data to use; from the report's tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.prediction import NAMES
from retrieval_heads.takeaways.heads import of_synthetic_heads, patching_takeaway
from retrieval_heads.wording import listed

Tables = Mapping[str, pd.DataFrame]
NEEDED = ("verdicts", "necessity", "mean_shortfall", "shortfall", "subsets", "sufficiency", "choice", "axis_effects",
          "size_effects", "correlation_runs", "run_predictors", "knockout")
"""The tables that the functions read."""


def answer(tables: Tables, threshold: float) -> list[str]:
    """What was found, in three sentences as Markdown.

    Args:
        tables: `NEEDED`, by name.
        threshold: of the study.
    """
    necessary, short = _whole(tables["necessity"]), _of_all(tables["mean_shortfall"])
    same = of_synthetic_heads(tables["subsets"], threshold).query("heads == 'all'")
    runs = tables["run_predictors"]
    base = runs[runs.task.isin(same.task)].base_overlap.mean()
    patched = tables["sufficiency"].query("task == 'all' and condition == 'all'").set_index("set")
    regret = _regret(tables["choice"])
    better = "better" if regret["probe_loss"] < regret["recall_few"] else "no better"
    return [
        f"**Retrieval heads carry the answers.** Without them the models lose {necessary.share_retrieval:.0%} of their "
        f"right answers; without as many random heads of the same layers, {necessary.share_random:.0%}.",
        "**They are only a part of why synthetic data do worse** "
        f"(by {short.value:.2f} on average, of a score up to 1): {same.precision.mean():.0%} of the heads that "
        f"retrieve after synthetic training do so after real training, too, and {base:.0%} of the base model's heads "
        "are still among them. Patching the shared heads in from a real-data model closes "
        f"{patched.closed['intersection']:.0%} of the gap where there is one, so what heads read differs more than "
        "which heads they are.",
        f"**To choose training data, the loss on a few dozen real examples works {better}** than heads: the chosen set "
        f"is {regret['probe_loss']:.3f} worse than the best one, by heads {regret['recall_few']:.3f}, at random "
        f"{regret['random']:.3f}.",
    ]


def claim_sentences(tables: Tables, threshold: float) -> dict[str, str]:
    """One sentence for each of the five claims."""
    rows = tables["correlation_runs"]
    recall = rows[(rows.predictor == "recall") & (rows.method == "spearman") & (rows.task == ALL) & (rows.base == ALL)
                  & (rows.conditions == "all") & rows.estimate.notna()]
    recall = recall[recall.given == "nothing"]
    over = recall.groupby("threshold").estimate.first()
    same = of_synthetic_heads(tables["subsets"], threshold).query("heads == 'all'")
    necessary = _whole(tables["necessity"])
    shortfall = tables["mean_shortfall"]
    by_task = shortfall[shortfall.task != ALL].set_index("task").value
    return {
        "C1": "Synthetic sets score lower by " + listed([f"{value:.2f} on {task}" for task, value in by_task.items()])
              + ".",
        "C2": f"{same.precision.mean():.0%} of the heads after synthetic training are heads of a real run, too; random "
              f"sets of the same layers reach {same.chance_high.mean():.0%} or less.",
        "C3": f"The correlation depends on the threshold: {over.min():.2f} to {over.max():.2f}.",
        "C4": f"All retrieval heads take {necessary.share_retrieval:.0%} of the right answers with them, as many "
              f"random ones {necessary.share_random:.0%}; the ten strongest alone {necessary.ten_retrieval:.0%}.",
        "C5": patching_takeaway(tables["sufficiency"])[0],
    }


def advice(tables: Tables, n_train: int) -> list[str]:
    """Which data to use, in three sentences as Markdown.

    Args:
        tables: `NEEDED`.
        n_train: the study's number of training examples.
    """
    sizes = tables["size_effects"].pivot(index=["task", "condition"], columns="scale", values="value").dropna()
    few, many = sizes.columns.min(), sizes.columns.max()
    task = sizes.index[0][0]
    real, high, low = (sizes.loc[task, name] for name in ("real", "high_high", "low_low"))
    axes = tables["axis_effects"]
    axes = axes[(axes.task == task) & (axes.scale == "difference")].set_index("effect").value
    cost = {axis: axes[axis] for axis in ("concept", "context") if axis in axes}
    regret = _regret(tables["choice"])
    order = sorted((name for name in ("ngram_overlap", "probe_loss", "recall_few") if name in regret), key=regret.get)
    filler = (" Repeated filler costs most: a haystack of the least instead of the most real kind "
              f"{cost['context']:.2f}, "
              f"a needle {cost['concept']:.2f}.") if len(cost) == 2 and cost["context"] > cost["concept"] else ""
    return [
        f"**Real examples first, even few.** On {task}, {few * n_train:.0f} real examples give {real[few]:.2f}, "
        f"{n_train} realistic synthetic ones {high[1.0]:.2f} and {n_train} real ones {real[1.0]:.2f}.",
        f"**Do not add more of a poor set.** {few * n_train:.0f} examples of `low_low` give {low[few]:.2f}, "
        f"{many * n_train:.0f} give {low[many]:.2f}.{filler}",
        "**Between synthetic sets, measure.** How much worse than the best set the chosen one is: " + listed(
            [f"{regret[name]:.3f} by {NAMES[name]}" for name in order]) + f", {regret['random']:.3f} at random.",
    ]


def _whole(table: pd.DataFrame) -> pd.Series:
    return table[(table.task == ALL) & (table.condition == ALL)].iloc[0]


def _of_all(table: pd.DataFrame) -> pd.Series:
    return table[table.task == ALL].iloc[0]


def _regret(choice: pd.DataFrame) -> dict[str, float]:
    """By predictor, over all tasks and synthetic candidates; `random` of a random choice."""
    rows = choice[(choice.task == ALL) & (choice.candidates == "synthetic") & choice.regret.notna()]
    return rows.set_index("predictor").regret.to_dict() | {"random": float(rows.random_regret.iloc[0])}
