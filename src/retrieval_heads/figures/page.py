"""What stands around the figures of a page, as HTML: the box at its head, examples, tables, and links to the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from retrieval_heads import paths
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ResultError
from retrieval_heads.figures.style import words
from retrieval_heads.figures.verdicts import CLAIMS, PAGE, anchor, badge
from retrieval_heads.keys import study_grid, table_path
from retrieval_heads.manifest import read_manifest
from retrieval_heads.settings import Profile
from retrieval_heads.store import find_committed, load_table
from retrieval_heads.wording import plural, with_minus

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

REPORT = "report"
"""The profile whose verdicts count."""

_GAP = re.compile(r"\n\n(?=Document \d+:|Question:)")
_WORD = re.compile(r"[A-Z]\w+")
Piece = tuple[int, int]
"""Character offsets `(start, end)` in the prompt, end exclusive."""


def takeaway(profile: Profile, sentences: Sequence[str], claims: Sequence[str] = (), small: str | None = None) -> HTML:
    """The box at the head of a chapter: what was found, the report's verdict, whether this page is of a small run.

    Of the sentences (with `**` and backticks as in Markdown) the most important comes first. `small` says why the page
    shows little, as HTML: `small_run` when None, and nothing when empty.
    """
    first, *others = (_inline(sentence) for sentence in sentences)
    items = "".join(f"<li>{sentence}</li>" for sentence in others)
    parts = [f"<p><strong>{first}</strong></p>", f"<ul>{items}</ul>" if items else "", *map(_verdict, claims)]
    if small is None:
        small = "" if profile.name == REPORT else small_run(profile)
    banner, title = (f'<p class="small-run">{small}</p>', "Takeaway of this small run") if small else ("", "Takeaway")
    return _shown(f'<div class="takeaway"><p class="takeaway-title">{title}</p>{banner}{"".join(parts)}</div>')


def small_run(profile: Profile) -> str:
    """That a profile other than the report's is small, in one sentence, as HTML."""
    seeds, bases = plural(len(profile.seeds), "seed"), plural(len(profile.bases), "base model")
    size = f"{len(study_grid(profile))} runs, {seeds}, {bases}"
    return (f"Profile <code>{escape(profile.name)}</code> ({size}): these numbers show how the study works and decide "
            "nothing. Verdicts are those of the report.")


def _verdict(claim: str) -> str:
    """A claim and its verdict in the report; empty where the report's table is not here."""
    if find_committed(REPORT, "verdicts") is None:
        return ""
    rows = load_table(REPORT, "verdicts")
    return "".join(f"<p><strong>{claim}</strong> {escape(CLAIMS[claim])}: {badge(one)} (report)</p>"
                   for one in rows[(rows.claim == claim) & (rows.task == ALL)].verdict)


def prose(text: str) -> Markdown | None:
    """Sentences as Markdown that were made from tables; None, which shows nothing, where there is none."""
    from IPython.display import Markdown  # there wherever a notebook is

    return Markdown(with_minus(text)) if text.strip() else None


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(with_minus(text), quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _shown(html: str) -> HTML:
    from IPython.display import HTML  # there wherever a notebook is

    return HTML(html)


def data_line(profile: str, *tables: str, rows: str = "") -> HTML:
    """One line: the files that a figure is drawn from, and for tables a link to the page that says what made them.

    It is not part of the figure's own cell, of which each output would become a figure of that name. A link starts at
    the folder of the notebook, so that it works in a notebook server; a page of the book gets its own copy of the file,
    at the same place below the site.

    Args:
        tables: names of tables of the profile, or files of the repository such as `models/base/train_log.json`.
        rows: which of their rows are drawn, where not all are.
    """
    def link(path: str) -> str:
        return f'<a href="../{path}" download><code>{escape(Path(path).name)}</code></a>'

    files = ", ".join(
        link(table) if "/" in table else
        f'{link(table_file(profile, table))} (<a href="{PAGE}#{anchor(profile, table)}">how it was made</a>)'
        for table in tables)
    which = f" Drawn: {escape(rows)}." if rows else ""
    return _shown(f'<p class="figure-data">Data: {files}.{which}</p>')


def table_file(profile: str, table: str) -> str:
    """Where a table lies, relative to the checkout: below `results/` where the repository has these rows, else `runs/`.

    Raises:
        ResultError: there is no such table.
    """
    live, committed = table_path(profile, table), find_committed(profile, table)
    if committed is not None and (not live.is_file() or _digest(live) == _digest(committed)):
        return f"results/{profile}/{committed.name}"
    if live.is_file():
        return f"runs/{profile}/tables/{live.name}"
    raise ResultError("no such table", where=paths.shown(live), remedy="Run the chapter's first cells: they make it.")


def _digest(path: Path) -> str | None:
    made = read_manifest(path.parent / f"{path.name.split('.')[0]}.json")
    return made and made["sha256"]


def table_html(frame: pd.DataFrame, digits: int = 2, names: dict[str, str] | None = None) -> str:
    """A table as HTML without its index; empty cells are dashes. A column `base` stands only for several base models.

    Floats have so many digits after the point, and none where all of a column are whole; `names` are other headings.
    """
    # a name of the columns, as a pivot leaves it, would be taken for a heading of its own
    shown = frame.rename(columns=names or {}).rename_axis(columns=None)
    if "base" in shown and shown["base"].nunique() <= 1:
        shown = shown.drop(columns="base")
    places = {name: 0 if (column.dropna() % 1 == 0).all() else digits for name, column in shown.items()
              if pd.api.types.is_float_dtype(column)}
    formats = {name: lambda value, places=places: with_minus(f"{value:,.{places}f}") for name, places in places.items()}
    return shown.to_html(index=False, border=0, na_rep="–", formatters=formats, classes="dataframe", justify="left")


def folded_table(summary: str, frame: pd.DataFrame, digits: int = 2) -> str:
    """A table as `table_html` gives it, under a line that unfolds it; that line alone where there are no rows."""
    if frame.empty:
        return f"<p>{escape(summary)}: none.</p>"
    return f"<details><summary>{escape(summary)}</summary>{table_html(frame, digits)}</details>"


def folded_examples(examples: Mapping[str, Example]) -> str:
    """Examples as HTML, each under its name, which unfolds it."""
    return "".join(f"<details><summary>{escape(name)}</summary>{example_html(one)}</details>"
                   for name, one in examples.items())


def side_by_side(examples: Mapping[str, Example], names: Sequence[str]) -> str:
    """Some of the examples in columns, each under its name in words; below each other where there is no room."""
    columns = (f"<div><h4>{escape(words(name))} (<code>{escape(name)}</code>)</h4>{example_html(examples[name])}</div>"
               for name in names)
    return f'<div class="side-by-side">{"".join(columns)}</div>'


def example_html(example: Example, longest: int = 600) -> str:
    """An example as HTML: the documents with needles, the likest of the others, the question and the answer.

    The needles are inside `<mark>`. What is left out is named (how many documents) or leaves an ellipsis, as does a
    document of more than so many characters.
    """
    cuts = [match.start() for match in _GAP.finditer(example.prompt)]
    *documents, question = zip([0, *(cut + 2 for cut in cuts)], [*cuts, len(example.prompt)], strict=True)
    kept = _kept(example, documents, question)
    lines, skipped = [], 0
    for place, piece in enumerate(documents):
        if place in kept:
            lines += [_left_out(skipped), f"<p>{_document(example, piece, longest)}</p>"]
        skipped = 0 if place in kept else skipped + 1
    asked = _marked(example, question).removesuffix("\nAnswer:")
    answer = f"<p><strong>{asked}</strong><br>Answer: <strong>{escape(example.answer)}</strong></p>"
    return f'<div class="example">{"".join([*lines, _left_out(skipped), answer])}</div>'


def _kept(example: Example, documents: Sequence[Piece], question: Piece) -> set[int]:
    """The documents with needles, and one without, that with most names of the question."""
    gold = {place for place, (start, end) in enumerate(documents)
            if any(start <= needle < end for needle, _ in example.needles)}
    asked = set(_WORD.findall(example.prompt[slice(*question)]))
    alike = {place: len(asked & set(_WORD.findall(example.prompt[slice(*piece)])))
             for place, piece in enumerate(documents) if place not in gold}
    return gold | ({max(alike, key=lambda place: (alike[place], -place))} if alike else set())


def _document(example: Example, piece: Piece, longest: int) -> str:
    """A document with its heading in bold, shortened around its needles where it is long."""
    start, end = piece
    break_at = example.prompt.find("\n", start, end)
    body = start if break_at < 0 else break_at + 1
    heading = "" if break_at < 0 else f"<strong>{escape(example.prompt[start:break_at])}</strong><br>"
    first, last = body, end
    if end - body > longest:
        inside = [needle for needle in example.needles if body <= needle[0] < end] or [(body, body)]
        wanted = (min(inside)[0], max(inside)[1])
        room = max(0, longest - (wanted[1] - wanted[0])) // 2
        first, last = max(body, wanted[0] - room), min(end, wanted[1] + room)
    before, after = "… " if first > body else "", " …" if last < end else ""
    return f"{heading}{before}{_marked(example, (first, last))}{after}"


def _marked(example: Example, piece: Piece) -> str:
    start, end = piece
    parts, at = [], start
    for needle_start, needle_end in example.needles:
        if start <= needle_start and needle_end <= end:
            parts += [escape(example.prompt[at:needle_start]),
                      f"<mark>{escape(example.prompt[needle_start:needle_end])}</mark>"]
            at = needle_end
    return "".join([*parts, escape(example.prompt[at:end])])


def _left_out(documents: int) -> str:
    return f"<p><em>… {plural(documents, 'more document')} …</em></p>" if documents else ""
