"""What the tables of base models, examples, fine-tuning and detection say, in sentences for any outcome.

Nothing is decided here: the verdicts on the claims come from `claims`, by the rules of the preregistration.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.claims.arrays import metric_name
from retrieval_heads.claims.runs import where
from retrieval_heads.data.conditions import kind_of
from retrieval_heads.keys import RUN, study_grid
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages.common import RAISED
from retrieval_heads.stages.head_sets import fitting_kind
from retrieval_heads.wording import plural, shares_of, span

FEW_EXAMPLES = 20


def fitting_scores(profile: Profile, head_scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `head_scores` of the kind that fits each task, read from the answer as the study does.

    Without those of the base models with the raised theta, which are there for what the runs gain.
    """
    return fitting_kind(profile, head_scores[head_scores.condition != RAISED])


def first_runs(scores: pd.DataFrame, profile: Profile, conditions: Iterable[str]) -> pd.DataFrame:
    """The rows of the first seed and the first base model, of these conditions; an untuned model has no seed."""
    first = scores.seed.isin([profile.seeds[0]]) | (scores.condition == "base")
    return scores[first & (scores["base"] == profile.base_names[0]) & scores.condition.isin(list(conditions))]


def retrieval_counts(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """One row per run: how many heads retrieve, in how many layers, how many of them beyond their chance level.

    Args:
        scores: rows of `head_scores` of one kind per task and one mode.
        threshold: a head with a score above it is a retrieval head.

    Returns:
        `heads`, `layers`, `beyond_chance` (of the heads), `best` (highest score), `chance` (highest chance level of any
        head) and `n_used` beside the key columns.
    """
    rows = []
    for key, run in scores.groupby(RUN):
        found = run[run.score > threshold]
        rows.append({
            **dict(zip(RUN, key, strict=True)), "heads": len(found), "layers": found.layer.nunique(),
            "beyond_chance": int((found.score > found.chance).sum()), "best": run.score.max(),
            "chance": run.chance.max(), "n_used": int(run.n_used.max()),
        })
    return pd.DataFrame(rows)


def strongest(scores: pd.DataFrame, k: int) -> pd.DataFrame:
    """The k best heads of each run, best first, with score, chance level and attention mass."""
    ranked = scores.sort_values(["score", "mass"], ascending=False, kind="stable")
    best = ranked.groupby(RUN, sort=False).head(k)
    place = [f"({row.layer}, {row.head})" for row in best.itertuples()]
    columns = [*RUN, "where", "score", "chance", "mass"]
    return best.assign(where=place)[columns].sort_values(RUN, kind="stable")


def unseen_finding(examples: pd.DataFrame) -> str:
    """What of the test set's statements the training examples of each condition never show."""
    train = examples[examples.split == "train"]
    shares = train.groupby("condition")[["unseen_forms", "unseen_relations", "unseen"]].mean()
    real = shares.loc[REFERENCE]
    others = shares[[kind_of(name).synthetic and kind_of(name).dissected for name in shares.index]]
    text = (f"Examples of `real` leave {real.unseen_forms:.0%} of the test statements' sentence forms and "
            f"{real.unseen_relations:.0%} of their relations unseen")
    if len(others):
        text += (f"; those of the synthetic conditions {span(others.unseen_forms, '.0%')} and "
                 f"{span(others.unseen_relations, '.0%')}")
    n = span(train[train.condition == REFERENCE].n)
    return (f"{text} (means over tasks). A relation and a form *together* are new in {real.unseen:.0%} of the "
            f"statements, even to a `real` run: {n} examples cannot show every pair.")


def performance_sentence(performance: pd.DataFrame, base: pd.DataFrame) -> str:
    """What the runs on real data solve, beside the raised theta without training; from `performance` and `base`.

    At the longest length; exact match, and citation F1 for `summhay`.
    """
    longest = performance.eval_length.max()
    real, rope = solved(performance, REFERENCE, longest), solved(base, RAISED, longest)
    return (f"At {longest:,} tokens the runs on real data solve {shares_of(real)} (exact match; citation F1 on "
            f"summhay), against {shares_of(rope.reindex(real.index))} without training at the raised RoPE theta."
            f"{_size(performance.n)}")


def solved(table: pd.DataFrame, condition: str, length: int) -> pd.Series:
    """By task, the mean score of a condition at a length, in the metric by which the task is decided."""
    rows = where(table, condition=condition, eval_length=length)
    return rows[rows.metric == rows.task.map(metric_name)].groupby("task").value.mean()


def detection_finding(counts: pd.DataFrame) -> str:
    """How many heads retrieve in each run, from `retrieval_counts`."""
    lines = []
    for task, of_task in counts.groupby("task"):
        mean = of_task.groupby("condition").heads.mean()
        trained = mean.drop(index=[name for name in (REFERENCE, "base") if name in mean.index])
        text = f"On {task} the real run has {mean[REFERENCE]:.0f} retrieval heads" if REFERENCE in mean.index else task
        if len(trained):
            text += f", the others have {trained.min():.0f}" + (
                f" (`{trained.idxmin()}`) to {trained.max():.0f} (`{trained.idxmax()}`)"
                if trained.max() > trained.min() else ""
            )
        if "base" in mean.index:
            text += f", and the base model at its own length {mean['base']:.0f}"
        lines.append(text + ".")
    total, beyond = int(counts.heads.sum()), int(counts.beyond_chance.sum())
    lines.append(f"Of all {total:,} found, {beyond:,} score above their own chance level.")
    return " ".join(lines) + _size(counts.n_used)


def cost_finding() -> str:
    """What reading the attention costs over a plain forward pass; empty where `benchmarks/full_size.py` was not run."""
    path = paths.results_folder("benchmarks") / "full_size.csv"
    if not path.exists():
        return ""
    one = pd.read_csv(path).set_index("what").loc["detection"]
    return (f"Time of a pass with detection over that of a plain one: {one.to_plain:.2f} on {one.device} "
            f"({one.tokens:,} tokens, {one.parameters / 1e6:,.0f}M parameters).")


def _size(n: Iterable[int]) -> str:
    """How much the number of examples allows to be said."""
    least = int(min(n))
    return f" (n = {least} examples per run" + (
        "; so few show that the study runs, and nothing else.)" if least < FEW_EXAMPLES else ".)")


def study_size(profile: Profile, training: pd.DataFrame) -> str:
    """How many runs, by the table `training`, the verdicts rest on, and what of the study has not been run."""
    planned, of_seed = len(study_grid(profile)), training.groupby("seed").size()
    n_bases = training.base.nunique()
    several = f", {n_bases} base models" if n_bases > 1 else ""
    text = f"These verdicts rest on {len(training)} runs ({plural(training.seed.nunique(), 'seed')}{several})."
    if len(training) == planned:
        return text
    seeds = ", ".join(f"{of_seed.get(seed, 0)} of seed {seed}" for seed in profile.seeds)
    return (
        f"{text} **The study is not complete**: {planned} runs are planned, {planned // len(profile.seeds)} "
        f"a seed, and there are {seeds}. Conditions are compared under the seeds that they have in common, so the "
        f"intervals are wider than they will be, and *not decided* may become something else."
    )
