"""What a page must have and must not have, found without running it.

Each rule has let a faulty page through in some published book: an error that did not fail the build, a figure that was
only its caption, a progress bar, a path of the author's machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

MAX_BYTES = 2**20
"""Largest notebook that is stored; more is a sign of vector graphics or printed data."""

_WIDGET = "application/vnd.jupyter.widget-view+json"
_PATHS = re.compile(r"(?<![\w/:.])/(?:home|root|Users|tmp|work|mnt|private/var)/[\w.~+-]+")
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def page_problems(notebook: NotebookNode, root: Path) -> list[str]:
    """Everything that keeps an executed notebook from being a page of the book, as sentences; empty when it is one."""
    problems = [f"{cell_name(cell, number)}: {problem}" for number, cell in numbered_code(notebook)
                for problem in (*_output_problems(cell, root), *_figure_problems(cell))]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if None in counts:
        problems.append("not every code cell was run")
    elif counts != list(range(1, len(counts) + 1)):
        problems.append("the code cells were not run once each, from first to last")
    names = Counter(figure["name"] for figure in figures(notebook) if figure.get("name"))
    problems += [f"the figure name `{name}` is used {times} times" for name, times in names.items() if times > 1]
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        problems.append(f"{size} bytes are more than the {MAX_BYTES} allowed: show less data or smaller pictures")
    return problems


def _output_problems(cell: NotebookNode, root: Path) -> Iterator[str]:
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "error":
            yield f"stopped with {error_line(output)}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"wrote to standard error: {output.text.strip()[:160]!r}"
        if _WIDGET in data:
            yield "shows a widget, which is nothing without a kernel"
        texts = [output.text] if "text" in output else []
        texts += [text for kind, text in data.items() if kind.startswith("text/") and isinstance(text, str)]
        for text in texts:
            here = [path for path in (str(root), str(Path.home())) if f"{path}/" in text]
            for found in sorted({*_PATHS.findall(text), *here}):
                yield f"shows a path of this machine: {found}"
            if _ADDRESS.search(text):
                yield f"shows a memory address: {_ADDRESS.search(text).group()}"
    for found in sorted(set(_PATHS.findall(cell.source))):
        yield f"names a path of one machine: {found}"


def _figure_problems(cell: NotebookNode) -> Iterator[str]:
    """Whether a cell that says it is a figure is a complete one, and whether every picture is such a figure."""
    pictures = sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in cell.outputs)
    mystnb = cell.metadata.get("mystnb", {})
    if "figure" not in mystnb:
        if pictures:
            yield "shows a picture without a caption: give the cell mystnb figure and image metadata"
        return
    if pictures != 1:
        yield f"is a figure, but shows {pictures} pictures"
    for part, key in (("figure", "name"), ("figure", "caption"), ("image", "alt")):
        if not str(mystnb.get(part, {}).get(key, "")).strip():
            yield f"is a figure without mystnb {part}.{key}"


def figures(notebook: NotebookNode) -> list[NotebookNode]:
    """The figure metadata of every cell that has any, in order."""
    return [cell.metadata.mystnb.figure for cell in notebook.cells if "figure" in cell.metadata.get("mystnb", {})]


def error_line(output: NotebookNode) -> str:
    """The last line of an error output: its class, and the last line of its message."""
    message = [line for line in output.evalue.splitlines() if line.strip()]
    return f"{output.ename}: {message[-1].strip()}" if message else output.ename


def numbered_code(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """The code cells with their numbers in the source, where the cell that papermill puts in has none of its own."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            number += "injected-parameters" not in cell.metadata.get("tags", ())
            yield number, cell


def cell_name(cell: NotebookNode, number: int) -> str:
    """How messages name a cell: its place among the code cells, and its first line."""
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "(empty)")
    return f"code cell {number} ({first[:60]})"
