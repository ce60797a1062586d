"""Reading a notebook's source, and the values that its parameters get."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbformat import NotebookNode

from retrieval_heads.notebooks import NotebookError

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read_source(path: Path) -> NotebookNode:
    """Read a percent script as a notebook without outputs, with cell ids that stay the same each time."""
    notebook = nbformat.from_dict(jupytext.read(path, fmt="py:percent"))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    # a bare percent file names no kernel, and papermill then finds no language
    notebook.metadata = nbformat.from_dict({"kernelspec": dict(KERNELSPEC)})
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem}-{index:02d}"
    return notebook


def parameter_values(notebook: NotebookNode, path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a converted notebook with the value it will run with.

    papermill only warns of an unknown parameter and goes on with the defaults, so names are compared here first. All
    values are handed on, not the given ones alone, so that the injected cell shows everything the page was made with.

    Args:
        notebook: the notebook that `path` holds.
        path: the converted notebook, as JSON.
        given: values that replace defaults.

    Raises:
        NotebookError: no cell tagged `parameters`, a default that is not a literal, or an unknown name in `given`.
    """
    if not any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells):
        raise NotebookError(
            "no cell has the tag `parameters`", where=path.stem, remedy="Mark one with # %% tags=[\"parameters\"].",
        )
    defaults = {}
    for name, parameter in papermill.inspect_notebook(str(path)).items():
        try:
            defaults[name] = ast.literal_eval(parameter["default"])
        except (SyntaxError, ValueError) as error:
            raise NotebookError(
                f"the default of the parameter `{name}` is not a literal on one line", where=path.stem,
                value=parameter["default"], remedy="Write it as a plain string, number, list or dictionary.",
            ) from error
    for name in given:
        if name not in defaults:
            raise NotebookError(
                "unknown parameter", where=path.stem, value=name,
                remedy=f"The parameters of this notebook are: {', '.join(defaults) or '(none)'}.",
            )
    return defaults | dict(given)


def without_injected(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that the source has: all but those that papermill put in."""
    return [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", ())]


def differences(source: NotebookNode, executed: NotebookNode) -> list[str]:
    """What tells an executed notebook from its source, as sentences; empty when only outputs differ."""
    old, new = without_injected(source), without_injected(executed)
    if len(old) != len(new):
        return [f"the source has {len(old)} cells, the executed notebook {len(new)}"]
    return [
        f"cell {index} differs from the source"
        for index, (one, other) in enumerate(zip(old, new, strict=True))
        if (one.cell_type, one.source.strip()) != (other.cell_type, other.source.strip())
    ]
