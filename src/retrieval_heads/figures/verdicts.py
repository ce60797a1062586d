"""Tables and figures of chapter 07: what was decided, what predicts performance, and the regret of a choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.claims.verdict import ALL, Verdict
from retrieval_heads.figures.common import points, write_empty
from retrieval_heads.figures.interval_tables import DASH, cells, with_interval
from retrieval_heads.wording import PREDICTORS, span, with_minus

CLAIMS = {
    "C1": "Synthetic data fall short of real data",
    "C2": "Heads learned on synthetic data are mostly a subset of those learned on real data",
    "C3": "Recall of the real-data heads predicts performance",
    "C4": "Retrieval heads are necessary",
    "C5": "Patching them in helps, and does not close the gap",
    "Q1": "A training set can be chosen by its heads on 20 probe examples",
    "Q2": "The two axes of realism interact",
    "Q3": "Attention mass or logit contribution predicts better than the copy score",
    "Q4": "The heads of two base models are alike",
    "Q5": "Single-hop differs in how much recall or performance varies",
}
"""The claims of the paper and the further questions, in short."""

AGAINST = {
    "C1": "Synthetic conditions that are better than `real`, beyond the interval: more than two of them refute it.",
    "C2": "Conditions whose heads are no more often the real run's than random ones: two of them refute it. Heads that "
          "the base model had already were not learned, so they speak neither way.",
    "C3": "An interval below 0.7: then the correlation is not strong. A cheaper quantity that predicts a left-out "
          "condition at least as well leaves recall little use, whatever the verdict.",
    "C4": "Runs that lose no more without their retrieval heads than without random ones. A like loss on plain text "
          "would make the heads generally useful, and not retrieval heads.",
    "C5": "Runs that patching hurts, runs that it helps no more than random heads do, and runs whose whole gap it "
          "closes: then the heads are sufficient.",
    "Q1": "A regret no smaller than that of a random choice or of the lowest training loss.",
    "Q2": "An interval around 0, or another sign in log-odds: then the floor of the metric may make the interaction.",
    "Q3": "Left-out conditions that mass or contribution predict no better than recall of the copy score's heads.",
    "Q4": "A correlation by layer that permuted layers reach too.",
    "Q5": "Ratios of variances, of `mdqa` to `musique`, that are above 1 or not told from it.",
}
"""What counts against each of them, whatever came out."""

FIGURES = {
    "C1": "02_lora_finetuning.html#fig-shortfall", "C2": "03_head_detection.html#fig-subsets",
    "C3": "06_correlation.html#fig-recall-performance", "C4": "04_knockout.html#fig-knockout-areas",
    "C5": "05_patching.html#fig-gap-closed", "Q1": "07_verdicts.html#fig-regret",
    "Q2": "02_lora_finetuning.html#fig-axis-map", "Q3": "07_verdicts.html#fig-predictors",
    "Q5": "06_correlation.html#fig-recall-performance",
}
"""Where the numbers of each are drawn, if anywhere."""

PAPER = {
    "C1": "MDQA F1 0.83 after real data, 0.49 after the best synthetic set (Llama-3-8B)",
    "C2": "129 heads on real MuSiQue; 112 and 39 on two synthetic sets, mostly among them",
    "C3": "“strongly correlated”; on MDQA Spearman 0.23 (Llama-3) and −0.27 (Mistral)",
    "C4": "the 10 strongest heads masked: F1 collapses; 10 random heads: less than 0.05 lost",
    "C5": "the intersection lifts symbolic MDQA from 0.48 to 0.73, of 0.83",
}
"""The paper's numbers by claim, second hand: from its abstract and public summaries, not from its tables."""

PAGE = "data.html"
"""The page that says of each table what it holds, what it was made from, and by which command."""

LOSSES = ("training_loss", "probe_loss")
"""Predictors that promise performance by being low."""

_KINDS = {
    "heads beside those of a real run": ("o", "#0173b2"),
    "heads of the run and the base model alone": ("D", "#029e73"),
    "no heads": ("s", "#de8f05"),
}
"""Kinds of predictors with marker and colour, in the order of the legend."""


def anchor(profile: str, table: str) -> str:
    """Where the page of the data speaks of a table; of measurements there is one section."""
    return "made-benchmarks" if profile == "benchmarks" else f"made-{table.replace('_', '-')}"


def verdicts_html(verdicts: pd.DataFrame) -> str:
    """The verdicts over all tasks, claims before questions: effect with interval and n; folded: rule and counts."""
    rows = verdicts[verdicts["task"] == ALL].sort_values("claim")
    claims, questions = ("".join(_row(row) for row in rows[rows.claim.str.startswith(kind)].itertuples())
                         for kind in ("C", "Q"))
    if claims and questions:
        claims += '<tr class="part"><th colspan="4">Further questions</th></tr>'
    return table_of_verdicts(("Claim", "Verdict", "Effect, 95% interval, n", "Why, and from what"), claims + questions)


def task_verdicts_html(verdicts: pd.DataFrame, tasks: Sequence[str]) -> str:
    """One row for each claim that is decided task by task, one column per task; folded: the counts."""
    known = {(row.claim, row.task): row for row in verdicts[verdicts["task"].isin(tasks)].itertuples()}
    body = "".join(
        f"<tr><td><strong>{claim}</strong></td>{''.join(_cell(task, known.get((claim, task))) for task in tasks)}</tr>"
        for claim in sorted({claim for claim, _ in known}))
    return table_of_verdicts(("Claim", *tasks), body) if body else "<p>No claim is decided task by task here.</p>"


def verdict_text(verdicts: Iterable[Verdict]) -> str:
    """The verdicts of one claim in words, as Markdown: over all tasks, then task by task with the counts."""
    known = {one.task: one for one in verdicts}
    if not known:
        return "There are no runs to decide it."
    lines = []
    if whole := known.pop(ALL, None):
        lines.append(f"Over all tasks, {whole.claim} is **{whole.verdict}**: {whole.quantity} {effect_text(whole)} "
                     f"(n = {_number(whole)}). {whole.detail}\n")
    lines += [f"- {task}: **{one.verdict}**, {effect_text(one)}. {one.detail}" for task, one in known.items()]
    return with_minus("\n".join(lines))


def effect_text(row: object) -> str:
    """The effect of a verdict or a row of verdicts with its 95% interval and unit; a dash where it is not known."""
    text = with_interval(row.effect, row.low, row.high)
    return text if text == DASH or row.unit == "fraction" else f"{text} {row.unit}"


def badge(verdict: str) -> str:
    """The word of a verdict with its colour and sign, both of them by the style sheet."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{escape(verdict)}</span>'


def table_of_verdicts(heads: Iterable[str], body: str) -> str:
    """A table in the looks of those of verdicts, from its headings and its rows as HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<table class="dataframe verdicts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def labelled_table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Such a table from cells of HTML; each cell knows its heading, which a phone shows before it."""
    lines = ("".join(f'<td data-of="{escape(head)}">{cell}</td>' for head, cell in zip(heads, row, strict=True))
             for row in rows)
    return table_of_verdicts(heads, "".join(f"<tr>{line}</tr>" for line in lines))


def _row(row: object) -> str:
    drawn = f'<a href="{FIGURES[row.claim]}">figure</a>, ' if row.claim in FIGURES else ""
    return (
        f"<tr><td><strong>{row.claim}</strong> {escape(CLAIMS.get(row.claim, ''))}</td>"
        f"<td>{badge(row.verdict)}</td>"
        f"<td>{escape(effect_text(row))}<br><small>{escape(row.quantity)}; n = {escape(_number(row))}</small></td>"
        f"<td>{_folded('the counts', row.detail)}{_folded('the rule', row.rule)}"
        f"{_folded('what counts against it', AGAINST.get(row.claim, ''))}"
        f'{drawn}table <a href="{PAGE}#{anchor("", row.table)}"><code>{escape(row.table)}</code></a></td></tr>'
    )


def _cell(task: str, row: object | None) -> str:
    if row is None:
        return "<td>–</td>"
    return (f'<td><span class="of-task">{escape(task)}: </span>{badge(row.verdict)}<br>{escape(effect_text(row))}'
            f"<br><small>n = {escape(_number(row))}</small>{_folded('the counts', row.detail)}</td>")


def _number(row: object) -> str:
    """`14 conditions`, or `1 task`."""
    return f"{row.n} {row.n_of.removesuffix('s') if row.n == 1 else row.n_of}"


def _folded(name: str, text: str) -> str:
    if not text:
        return ""
    return f"<details><summary>{name}</summary>{escape(with_minus(str(text).replace('`', '')))}</details>"


def list_height(rows: pd.DataFrame, column: str) -> float:
    """Inches of a figure with one line for each row that has a value; a low one where there is none."""
    n = int(rows[column].notna().sum())
    return 1.2 + 0.24 * n if n else 1.8


def plot_predictors(correlations: pd.DataFrame, ax: Axes) -> None:
    """Rank correlation of each predictor with performance, with its interval; the strongest on top.

    From rows of `correlation_runs`, one per predictor. A quantity that promises performance by being small, a loss,
    stands at its correlation as it is, and is marked.
    """
    rows = correlations[correlations.estimate.notna()]
    rows = rows.reindex(rows.estimate.abs().sort_values().index)
    _predictors(ax, rows, ("estimate", "low", "high"), signed=True)
    ax.set_xlabel("Spearman's rank correlation")
    if rows.empty:
        write_empty(ax, "no rank correlation is defined\nwith so few conditions")
        return
    ax.axvline(0, color="#666666", linewidth=0.8)
    ax.set(xlim=(-1.05, 1.05), xlabel=f"{ax.get_xlabel()} (n = {span(rows.n_conditions)} conditions)")


def plot_regret(choice: pd.DataFrame, ax: Axes) -> None:
    """What is lost by choosing the training set by each predictor, beside a random choice; the least loss on top.

    From rows of the table `choice` of one task and set of candidates.
    """
    rows = choice[choice.regret.notna()].sort_values("regret", ascending=False)
    _predictors(ax, rows, ("regret", "regret_low", "regret_high"))
    if len(rows):
        ax.axvline(rows.random_regret.mean(), color="#666666", linestyle="--", linewidth=1.2, label="a random choice")
        low, high = rows.random_regret_low.mean(), rows.random_regret_high.mean()
        if not pd.isna(low):
            ax.axvspan(low, high, color="#666666", alpha=0.12, linewidth=0)
    else:
        write_empty(ax, "no choice could be made:\nit takes real runs of several seeds")
    n = f"; n = {span(rows.n_choices)} choices of {span(rows.n_candidates)} sets" if len(rows) else ""
    ax.set_xlabel(f"regret (fraction of the score{n})")
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))


def _predictors(ax: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], signed: bool = False) -> None:
    """One point per row with its interval, the first row lowest; losses are marked if signed."""
    with_real, alone, without = _KINDS
    kinds = rows.predictor.map({name: alone for name in ("n_heads", "base_overlap")}
                               | {name: without for name in (*LOSSES, "ngram_overlap")}).fillna(with_real)
    places = pd.Series(np.arange(len(rows)), rows.index)
    for kind, (mark, colour) in _KINDS.items():
        if (own := kinds == kind).any():
            points(ax, places[own], rows[own], columns, across=True, fmt=mark, capsize=3, color=colour, label=kind)
    ax.set_yticks(places, [PREDICTORS.get(name, name) + (" (low is good)" if signed and name in LOSSES else "")
                           for name in rows.predictor])
    if len(rows):
        ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="y", visible=False)


def errors_table(errors: pd.DataFrame) -> pd.DataFrame:
    """The error in predicting a left-out condition by each quantity, the smallest first, and the gain over the mean.

    From rows of the table `prediction_errors` of one task and set of conditions, beside the reference `mean`.
    """
    rows = errors[errors.error.notna()].sort_values("error")
    return pd.DataFrame({
        "predicted from": [PREDICTORS.get(name, name) for name in rows.predictor],
        "absolute error": cells(rows, "error"), "gain over the mean": cells(rows, "gain"),
        "conditions": rows.n_conditions, "finding": rows.finding,
    })
