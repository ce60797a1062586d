"""The tables of verdicts as HTML, for a chapter and for the landing page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from retrieval_heads.claims.verdict import ALL, Verdict
from retrieval_heads.figures.sources import PAGE, anchor

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


def verdicts_html(verdicts: pd.DataFrame, task: str = ALL) -> str:
    """One row per claim, then one a further question: verdict, effect with interval and n; folded: rule, counts.

    Args:
        verdicts: the table `verdicts`.
        task: whose verdicts; `all` for those over all tasks.
    """
    rows = verdicts[verdicts["task"] == task].sort_values("claim")
    parts = [rows[rows.claim.str.startswith(kind)] for kind in ("C", "Q")]
    claims, questions = ("".join(_row(row) for row in part.itertuples()) for part in parts)
    if claims and questions:
        claims += '<tr class="part"><th colspan="4">Further questions</th></tr>'
    return _table(("Claim", "Verdict", "Effect, 95% interval, n", "Why, and from what"), claims + questions)


def task_verdicts_html(verdicts: pd.DataFrame, tasks: Sequence[str]) -> str:
    """One row for each claim that is decided task by task, one column per task: verdict and effect; folded: the counts.

    Args:
        verdicts: the table `verdicts`.
        tasks: in the order of the columns.
    """
    rows = verdicts[verdicts["task"].isin(tasks)]
    known = {(row.claim, row.task): row for row in rows.itertuples()}
    body = "".join(
        f"<tr><td><strong>{claim}</strong></td>{''.join(_cell(task, known.get((claim, task))) for task in tasks)}</tr>"
        for claim in sorted(set(rows.claim))
    )
    return _table(("Claim", *tasks), body) if body else "<p>No claim is decided task by task here.</p>"


def verdict_text(verdicts: Iterable[Verdict]) -> str:
    """The verdicts of one claim in words, as Markdown: over all tasks, then task by task with the counts."""
    known = {one.task: one for one in verdicts}
    if not known:
        return "There are no runs to decide it."
    lines = []
    if ALL in known:
        whole = known.pop(ALL)
        effect = effect_text(*_floats(whole), whole.unit)
        lines.append(f"Over all tasks, {whole.claim} is **{whole.verdict}**: {whole.quantity} {effect} "
                     f"(n = {_number(whole)}). {whole.detail}\n")
    for task, one in known.items():
        lines.append(f"- {task}: **{one.verdict}**, {effect_text(*_floats(one), one.unit)}. {one.detail}")
    return "\n".join(lines)


def finding_of_tables(verdicts: pd.DataFrame, claim: str) -> str:
    """`verdict_text` of one claim from the table `verdicts`."""
    rows = verdicts[verdicts.claim == claim].to_dict("records")
    return verdict_text(Verdict(**row) for row in sorted(rows, key=lambda row: row["task"]))


def effect_text(effect: float, low: float, high: float, unit: str) -> str:
    """A number with its 95% interval and unit; a dash where it is not known."""
    if pd.isna(effect):
        return "–"
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{low:.2f}, {high:.2f}]"
    return f"{effect:.2f}{interval}".replace("-0.00", "0.00") + f" {unit}"


def badge(verdict: str) -> str:
    """The word of a verdict with its colour and sign, both of them by the style sheet."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{escape(verdict)}</span>'


def _table(heads: Sequence[str], body: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<table class="dataframe verdicts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(row: object) -> str:
    against = AGAINST.get(row.claim, "").replace("`", "")
    return (
        f"<tr><td><strong>{row.claim}</strong> {escape(CLAIMS.get(row.claim, ''))}</td>"
        f"<td>{badge(row.verdict)}</td>"
        f"<td>{escape(_effect(row))}<br><small>{escape(row.quantity)}; n = {escape(_number(row))}</small></td>"
        f"<td>{_folded('the counts', row.detail)}{_folded('the rule', row.rule)}"
        f"{_folded('what counts against it', against)}"
        f"{_links(row)}</td></tr>"
    )


def _links(row: object) -> str:
    """To the figure, and to the page that leads from the table to its rows and the command that made them."""
    drawn = f'<a href="{FIGURES[row.claim]}">figure</a>, ' if row.claim in FIGURES else ""
    made = f'<a href="{PAGE}#{anchor("", row.table)}"><code>{escape(row.table)}</code></a>'
    return f"{drawn}table {made}"


def _cell(task: str, row: object | None) -> str:
    if row is None:
        return "<td>–</td>"
    return (f'<td><span class="of-task">{escape(task)}: </span>{badge(row.verdict)}<br>{escape(_effect(row))}'
            f"<br><small>n = {escape(_number(row))}</small>{_folded('the counts', row.detail)}</td>")


def _number(row: object) -> str:
    """`14 conditions`, or `1 task`."""
    return f"{row.n} {row.n_of.removesuffix('s') if row.n == 1 else row.n_of}"


def _floats(one: Verdict) -> list[float]:
    return [float("nan") if end is None else end for end in (one.effect, one.low, one.high)]


def _effect(row: object) -> str:
    return effect_text(row.effect, row.low, row.high, row.unit)


def _folded(name: str, text: str) -> str:
    return f"<details><summary>{name}</summary>{escape(str(text).replace('`', ''))}</details>" if text else ""
