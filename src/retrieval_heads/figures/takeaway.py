"""The box at the head of a chapter: what was found, the report's verdict, and whether this page is of a small run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures.verdict_table import CLAIMS, badge
from retrieval_heads.keys import study_grid
from retrieval_heads.settings import Profile
from retrieval_heads.store import find_committed, load_table

if TYPE_CHECKING:
    from IPython.display import HTML

REPORT = "report"
"""The profile whose verdicts count."""


def takeaway(profile: Profile, sentences: Sequence[str], claims: Sequence[str] = (), small: str | None = None) -> HTML:
    """The box of `takeaway_html`, for a cell of a notebook."""
    from IPython.display import HTML  # there wherever a notebook is

    return HTML(takeaway_html(profile, sentences, claims, small))


def takeaway_html(
    profile: Profile, sentences: Sequence[str], claims: Sequence[str] = (), small: str | None = None,
) -> str:
    """What was found, as HTML.

    Args:
        profile: of the tables that the sentences were made from.
        sentences: the most important first; `**` and backticks as in Markdown.
        claims: whose verdicts in the report are named.
        small: why the page shows little, as HTML; `small_run` when None, and nothing when empty.
    """
    first, *others = (_inline(sentence) for sentence in sentences)
    items = "".join(f"<li>{sentence}</li>" for sentence in others)
    parts = [f"<p><strong>{first}</strong></p>", f"<ul>{items}</ul>" if items else "", *map(_verdict, claims)]
    if small is None:
        small = "" if profile.name == REPORT else small_run(profile)
    banner, title = (f'<p class="small-run">{small}</p>', "Takeaway of this small run") if small else ("", "Takeaway")
    return f'<div class="takeaway"><p class="takeaway-title">{title}</p>{banner}{"".join(parts)}</div>'


def small_run(profile: Profile) -> str:
    """That a profile other than the report's is small, in one sentence, as HTML."""
    n, seeds, bases = len(study_grid(profile)), len(profile.seeds), len(profile.bases)
    size = f"{n} runs, {seeds} {'seed' if seeds == 1 else 'seeds'}, {bases} base {'model' if bases == 1 else 'models'}"
    return (f"Profile <code>{escape(profile.name)}</code> ({size}): these numbers show how the study works and decide "
            "nothing. Verdicts are those of the report.")


def _verdict(claim: str) -> str:
    """A claim and its verdict in the report; empty where the report's table is not here."""
    if find_committed(REPORT, "verdicts") is None:
        return ""
    rows = load_table(REPORT, "verdicts")
    found = rows[(rows.claim == claim) & (rows.task == ALL)]
    return "".join(f"<p><strong>{claim}</strong> {escape(CLAIMS[claim])}: {badge(one)} (report)</p>"
                   for one in found.verdict)


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
