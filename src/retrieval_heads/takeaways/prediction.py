"""What the chapters on correlation and on the verdicts found."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.prediction import NAMES
from retrieval_heads.wording import listed, p_value


def correlation_takeaway(
    conditions: pd.DataFrame, claims: Mapping[str, pd.DataFrame] | None, threshold: float,
) -> list[str]:
    """How closely recall goes with performance, how that depends on the threshold, and what predicts without heads.

    Args:
        conditions: `stages.correlate.conditions_table`.
        claims: the tables `correlation_runs`, `run_predictors` and `choice`; None for a study with one seed.
        threshold: the study's.
    """
    if claims is None:
        return [f"With one seed and {conditions.condition.nunique()} conditions, recall and performance cannot be "
                "correlated to any purpose. Recall here: " + listed([
                    f"{row.recall:.2f} for `{row.condition}` on {row.task}" for row in conditions.itertuples()
                    if pd.notna(row.recall)][:4]) + "."]
    rows = claims["correlation_runs"]
    rows = rows[(rows.task == ALL) & (rows.conditions == "all") & (rows.method == "spearman") & rows.estimate.notna()]
    rows = rows[rows.given == "nothing"]
    recall = rows[(rows.predictor == "recall") & (rows.base == ALL)].set_index("threshold")
    at = recall.loc[threshold]
    sentences = [f"Recall of the real-data heads goes with performance: Spearman {at.estimate:.2f} "
                 f"[{at.low:.2f}, {at.high:.2f}], {p_value(at.p)}, over {at.n_conditions:.0f} conditions.",
                 "That depends on the threshold that makes a head a retrieval head: the correlation is " + listed(
                     [f"{value:.2f} at {place:g}" for place, value in recall.estimate.items()
                      if place in (recall.index.min(), threshold, recall.estimate.idxmax())])
                 + _bases(rows, threshold) + "."]
    means = claims["run_predictors"].groupby(["task", "condition"]).recall.mean()
    task = means.groupby("task").size().index[0]
    sentences.append(f"Recall leaves little to tell conditions apart: its means span {means[task].min():.2f} to "
                     f"{means[task].max():.2f} on {task}.")
    best = rows[(rows.base == ALL) & (rows.threshold == threshold)].set_index("predictor").estimate
    cheap = [f"{NAMES.get(name, name)} {best[name]:.2f}" for name in ("probe_loss", "ngram_overlap", "training_loss")
             if name in best]
    return [*sentences, "For comparison, without any heads: " + listed(cheap) + "."] if cheap else sentences


def _bases(rows: pd.DataFrame, threshold: float) -> str:
    single = rows[(rows.predictor == "recall") & (rows.base != ALL) & (rows.threshold == threshold)]
    if single.empty:
        return ""
    return "; of single base models " + listed([f"{row.estimate:.2f} ({row.base})" for row in single.itertuples()])


def verdicts_takeaway(verdicts: pd.DataFrame, choice: pd.DataFrame) -> list[str]:
    """How many claims hold, and by what a training set is chosen best.

    Args:
        verdicts: the table.
        choice: the table.
    """
    whole = verdicts[(verdicts.task == ALL) & verdicts.claim.str.startswith("C")]
    found = whole.groupby("verdict").claim.agg(lambda claims: listed(sorted(claims)))
    sentences = ["Of the paper's five claims: " + "; ".join(f"{claims} {verdict}" for verdict, claims in found.items())
                 + "."]
    rows = choice[(choice.task == ALL) & (choice.candidates == "synthetic") & choice.regret.notna()]
    if len(rows):
        known = rows.set_index("predictor").sort_values("regret")
        order = [name for name in known.index if name in (known.index[0], "probe_loss", "recall_few")]
        sentences.append(
            "Choosing a synthetic training set costs, against the best one (fraction of the score): "
            + listed([f"{known.regret[name]:.3f} by {NAMES.get(name, name)}" for name in order])
            + f"; {known.random_regret.iloc[0]:.3f} at random.")
    return sentences
