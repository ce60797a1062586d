"""Examples and tables as HTML for a page: needles marked, documents that say nothing of the answer left out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape

import pandas as pd

from retrieval_heads.data.example import Example
from retrieval_heads.figures.style import words

_GAP = re.compile(r"\n\n(?=Document \d+:|Question:)")
_WORD = re.compile(r"[A-Z]\w+")
Piece = tuple[int, int]
"""Character offsets `(start, end)` in the prompt, end exclusive."""


def example_html(example: Example, distractors: int = 1, longest: int = 600) -> str:
    """An example as HTML: the documents with needles, some others, the question and the answer.

    The needles are inside `<mark>`. What is left out is named (how many documents) or leaves an ellipsis.

    Args:
        example: of a task with the layout of `write_prompt`.
        distractors: how many documents without a needle are shown: those with most names of the question.
        longest: characters of a document that are shown; the part with the needles is.
    """
    *documents, question = _pieces(example.prompt)
    kept = _kept(example, documents, question, distractors)
    lines, skipped = [], 0
    for place, piece in enumerate(documents):
        if place in kept:
            lines += [_left_out(skipped), f"<p>{_document(example, piece, longest)}</p>"]
        skipped = 0 if place in kept else skipped + 1
    asked = _marked(example, question).removesuffix("\nAnswer:")
    lines += [
        _left_out(skipped), f"<p><strong>{asked}</strong><br>Answer: <strong>{escape(example.answer)}</strong></p>",
    ]
    return f'<div class="example">{"".join(lines)}</div>'


def folded_examples(examples: Mapping[str, Example], opened: Collection[str] = ()) -> str:
    """Examples as HTML, each under its name, which unfolds it; those in `opened` are unfolded from the start."""
    def one(name: str) -> str:
        summary = f"<summary>{escape(name)}</summary>"
        return f"<details{' open' if name in opened else ''}>{summary}{example_html(examples[name])}</details>"

    return "".join(map(one, examples))


def table_html(frame: pd.DataFrame, digits: int = 2, names: dict[str, str] | None = None) -> str:
    """A table as HTML without its index; empty cells are dashes. A column `base` stands only for several base models.

    Args:
        frame: what to show.
        digits: after the point, of columns of floats; one whose values are all whole gets none.
        names: other headings, by column.
    """
    # a name of the columns, as a pivot leaves it, would be taken for a heading of its own
    shown = frame.rename(columns=names or {}).rename_axis(columns=None)
    if "base" in shown and shown["base"].nunique() <= 1:
        shown = shown.drop(columns="base")
    formats = {
        name: f"{{:,.{0 if (column.dropna() % 1 == 0).all() else digits}f}}".format
        for name, column in shown.items() if pd.api.types.is_float_dtype(column)
    }
    return shown.to_html(index=False, border=0, na_rep="–", formatters=formats, classes="dataframe", justify="left")


def side_by_side(examples: Mapping[str, Example], names: Sequence[str]) -> str:
    """Some of the examples in columns, each under its name in words; below each other where there is no room."""
    columns = (f"<div><h4>{escape(words(name))} (<code>{escape(name)}</code>)</h4>{example_html(examples[name])}</div>"
               for name in names)
    return f'<div class="side-by-side">{"".join(columns)}</div>'


def folded_table(summary: str, frame: pd.DataFrame, digits: int = 2) -> str:
    """A table as `table_html` gives it, under a line that unfolds it; that line alone where there are no rows."""
    if frame.empty:
        return f"<p>{escape(summary)}: none.</p>"
    return f"<details><summary>{escape(summary)}</summary>{table_html(frame, digits)}</details>"


def _pieces(prompt: str) -> list[Piece]:
    cuts = [match.start() for match in _GAP.finditer(prompt)]
    return list(zip([0, *(cut + 2 for cut in cuts)], [*cuts, len(prompt)], strict=True))


def _kept(example: Example, documents: Sequence[Piece], question: Piece, distractors: int) -> set[int]:
    gold = {
        place for place, (start, end) in enumerate(documents)
        if any(start <= needle < end for needle, _ in example.needles)
    }
    asked = set(_WORD.findall(example.prompt[slice(*question)]))
    alike = {
        place: len(asked & set(_WORD.findall(example.prompt[slice(*piece)])))
        for place, piece in enumerate(documents) if place not in gold
    }
    return gold | set(sorted(alike, key=lambda place: (-alike[place], place))[:distractors])


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
    if not documents:
        return ""
    return f"<p><em>… {documents} more {'document' if documents == 1 else 'documents'} …</em></p>"
