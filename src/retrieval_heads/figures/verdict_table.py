"""The table of verdicts as HTML, for a chapter and for the landing page."""

from __future__ import annotations

from html import escape

import pandas as pd

from retrieval_heads.claims.verdict import ALL

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


def verdicts_html(verdicts: pd.DataFrame, task: str = ALL) -> str:
    """One row a claim: verdict, effect with its interval, n, the rule, and where the rows are.

    Args:
        verdicts: the table `verdicts`.
        task: whose verdicts; `all` for those over all tasks.
    """
    rows = verdicts[verdicts["task"] == task].sort_values("claim")
    body = "".join(_row(row) for row in rows.itertuples())
    return (
        '<table class="dataframe verdicts"><thead><tr><th>Claim</th><th>Verdict</th><th>Effect</th><th>n</th>'
        f"<th>Decided by</th></tr></thead><tbody>{body}</tbody></table>"
    )


def effect_text(effect: float, low: float, high: float, unit: str) -> str:
    """A number with its 95% interval and unit; a dash where it is not known."""
    if pd.isna(effect):
        return "–"
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{low:.2f}, {high:.2f}]"
    return f"{effect:.2f}{interval} {unit}"


def _row(row: object) -> str:
    kind = row.verdict.replace(" ", "-")
    page, effect = f"{row.chapter}.html", effect_text(row.effect, row.low, row.high, row.unit)
    return (
        f"<tr><td><strong>{row.claim}</strong> {escape(CLAIMS.get(row.claim, ''))}</td>"
        f'<td><span class="verdict {kind}">{escape(row.verdict)}</span></td>'
        f"<td>{escape(effect)}<br><small>{escape(row.quantity)}</small></td>"
        f"<td>{row.n} {escape(row.n_of)}</td>"
        f"<td><details><summary>the rule</summary>{escape(row.rule)}</details>"
        f"<details><summary>the counts</summary>{escape(row.detail)}</details>"
        f'<a href="{page}">chapter</a>, table <code>{escape(row.table)}</code></td></tr>'
    )
