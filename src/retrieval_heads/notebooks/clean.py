"""Making an executed notebook fit to be stored: no timings, no chance ids, one parameters cell on the page."""

from __future__ import annotations

import nbformat
from nbformat import NotebookNode

from retrieval_heads.notebooks.source import KERNELSPEC

PAIRING = {"cell_metadata_filter": "tags,mystnb,-all", "notebook_metadata_filter": "kernelspec,-all"}
"""The filters of `notebooks/jupytext.toml`: jupytext writes them into each notebook that it synchronises."""

LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}


def clean(notebook: NotebookNode) -> NotebookNode:
    """Keep what a page needs and nothing that differs between two equal runs; changes and returns `notebook`."""
    notebook.metadata = nbformat.from_dict({
        "jupytext": dict(PAIRING), "kernelspec": dict(KERNELSPEC), "language_info": dict(LANGUAGE),
    })
    show_one_parameters_cell(notebook)
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    return notebook


def show_one_parameters_cell(notebook: NotebookNode) -> None:
    """Let the injected parameters look as the author wanted the parameters to look, and hide the defaults.

    papermill tags its cell `injected-parameters` and nothing else, so that a hidden cell would show again with other
    values (papermill issue 731); and a reader who saw both would not know which held.
    """
    marked = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    original, injected = marked.get("parameters"), marked.get("injected-parameters")
    if original is None or injected is None:
        return
    looks = [tag for tag in original.metadata.tags if tag != "parameters"]
    injected.metadata["tags"] = ["injected-parameters", *looks]
    injected["id"] = "parameters"
    original.metadata["tags"] = ["parameters", *(tag for tag in looks if tag != "remove-cell"), "remove-cell"]


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a kernel cuts its output in pieces is a matter of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        output.pop("execution", None)
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" and last.output_type == "stream" and last.name == output.name:
            last["text"] += output.text
        else:
            merged.append(output)
    return merged
