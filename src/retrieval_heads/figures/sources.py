"""Below a figure: a link to the rows that it is drawn from, and to what made them.

    data_line(profile, "shortfall", rows="the metric on the axis")

A link starts at the folder of the notebook, so that it works in a notebook server; a page of the book gets its own copy
of the file, at the same place below the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.keys import table_path
from retrieval_heads.manifest import read_manifest
from retrieval_heads.store import find_committed

if TYPE_CHECKING:
    from IPython.display import HTML

PAGE = "data.html"
"""The page that says of each table what it holds, what it was made from, and by which command."""


def data_line(profile: str, *tables: str, rows: str = "") -> HTML:
    """The line of `data_html`, for the cell that follows a figure's.

    It is not part of the figure's own cell, of which each output would become a figure of that name.
    """
    from IPython.display import HTML  # there wherever a notebook is

    return HTML(data_html(profile, tables, rows))


def data_html(profile: str, tables: Sequence[str], rows: str = "") -> str:
    """One line: the files to download, and for tables a link to the page that says what made them.

    Args:
        profile: whose tables.
        tables: names of tables, or files of the repository such as `models/base/train_log.json`.
        rows: which of their rows are drawn, where not all are.

    Raises:
        ResultError: a table is not there.
    """
    files = ", ".join(_file(table) if "/" in table else _table(profile, table) for table in tables)
    which = f" Drawn: {escape(rows)}." if rows else ""
    return f'<p class="figure-data">Data: {files}.{which}</p>'


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


def anchor(profile: str, table: str) -> str:
    """Where the page of the data speaks of a table; of measurements there is one section."""
    return "made-benchmarks" if profile == "benchmarks" else f"made-{table.replace('_', '-')}"


def _table(profile: str, table: str) -> str:
    return f'{_file(table_file(profile, table))} (<a href="{PAGE}#{anchor(profile, table)}">how it was made</a>)'


def _file(path: str) -> str:
    return f'<a href="../{path}" download><code>{escape(Path(path).name)}</code></a>'


def _digest(path: Path) -> str | None:
    made = read_manifest(path.parent / f"{path.name.split('.')[0]}.json")
    return made and made["sha256"]
