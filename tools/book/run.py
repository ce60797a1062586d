"""Reading a notebook's source, running it through papermill in a process of its own, and cleaning what comes out."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from nbformat import NotebookNode

from tools.book import NotebookError
from tools.book.check import cell_name, error_line, numbered_code, page_problems
from tools.book.kernels import Job, run_notebook
from tools.book.layout import Layout, duration

_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# the filters of `notebooks/jupytext.toml`, which jupytext writes into each notebook that it synchronises
_METADATA = {
    "jupytext": {"cell_metadata_filter": "tags,mystnb,-all", "notebook_metadata_filter": "kernelspec,-all"},
    "kernelspec": _KERNELSPEC,
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python",
                      "pygments_lexer": "ipython3"},
}

USUAL = {
    "00_base_model": 39.0, "01_data_synthesis": 5.0, "02_lora_finetuning": 156.0, "03_head_detection": 27.0,
    "04_knockout": 28.0, "05_patching": 22.0, "06_correlation": 6.0, "07_verdicts": 7.0, "08_costs": 6.0,
    "09_bring_your_own": 53.0, "10_pretrained": 9.0,
}
"""Seconds of each chapter with the profile `quick` on a slow machine of two cores; their ratios are what counts."""

BUILD, OTHER = 26.0, 30.0
"""The same of building the book, and of a chapter that is not listed."""


class Pace:
    """The expected seconds of the chapters that are left, by what they took earlier and how fast this machine is."""

    def __init__(self, chapters: Sequence[str], earlier: Mapping[str, float] | None = None) -> None:
        self._left = {name: (earlier or {}).get(name) or USUAL.get(name, OTHER) for name in chapters}
        self._spent = self._expected = 0.0

    def done(self, chapter: str, seconds: float) -> None:
        self._spent += seconds
        self._expected += self._left.pop(chapter)

    def left(self, running: str | None = None, seconds: float = 0.0) -> float:
        """Seconds to go, with `running` under way for so many; the book is built at the end."""
        speed = self._spent / self._expected if self._expected else 1.0
        return speed * BUILD + sum(max(0.0, speed * usual - (seconds if name == running else 0))
                                   for name, usual in self._left.items())

    def text(self, running: str | None = None, seconds: float = 0.0) -> str:
        return f"about {duration(self.left(running, seconds))} left"


def read_source(path: Path) -> NotebookNode:
    """Read a percent script as a notebook without outputs, with cell ids that stay the same each time."""
    notebook = nbformat.from_dict(jupytext.read(path, fmt="py:percent"))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    # a bare percent file names no kernel, and papermill then finds no language
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNELSPEC})
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem}-{index:02d}"
    return notebook


def differences(source: NotebookNode, executed: NotebookNode) -> list[str]:
    """What tells an executed notebook from its source, as sentences; empty when only outputs differ."""
    old, new = ([cell for cell in one.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
                for one in (source, executed))
    if len(old) != len(new):
        return [f"the source has {len(old)} cells, the executed notebook {len(new)}"]
    return [f"cell {index} differs from the source" for index, (one, other) in enumerate(zip(old, new, strict=True))
            if (one.cell_type, one.source.strip()) != (other.cell_type, other.source.strip())]


def parameter_values(notebook: NotebookNode, path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the converted notebook at `path` with the value it will run with.

    papermill only warns of an unknown parameter and goes on with the defaults, so names are compared here first. All
    values are handed on, not the given ones alone, so that the injected cell shows everything the page was made with.
    """
    if not any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells):
        raise NotebookError("no cell has the tag `parameters`", where=path.stem,
                            remedy="Mark one with # %% tags=[\"parameters\"].")
    defaults = {}
    for name, parameter in papermill.inspect_notebook(str(path)).items():
        try:
            defaults[name] = ast.literal_eval(parameter["default"])
        except (SyntaxError, ValueError) as error:
            raise NotebookError(
                f"the default of the parameter `{name}` is not a literal on one line", where=path.stem,
                value=parameter["default"], remedy="Write it as a plain string, number, list or dictionary.",
            ) from error
    if unknown := [name for name in given if name not in defaults]:
        raise NotebookError("unknown parameter", where=path.stem, value=unknown[0],
                            remedy=f"The parameters of this notebook are: {', '.join(defaults) or '(none)'}.")
    return defaults | dict(given)


def execute(
    layout: Layout, chapter: str, given: Mapping[str, Any], timeout: int, waiting: Callable[[float], None]
) -> tuple[NotebookNode, float]:
    """Run one chapter and hand back the cleaned page and the seconds it took.

    Args:
        layout: the checkout.
        chapter: the name of a source, without its ending.
        given: parameters that differ from the defaults; with none, no cell is injected.
        timeout: seconds that one cell may take.
        waiting: called about once a second with the seconds so far.

    Raises:
        NotebookError: an unknown parameter, a cell that failed (with the chapter, the cell and the last line of the
            error), a kernel that died, or an outcome that would not be a complete page.
    """
    layout.work.mkdir(parents=True, exist_ok=True)
    converted, executed = layout.work / f"{chapter}.ipynb", layout.work / f"{chapter}.executed.ipynb"
    notebook = read_source(layout.sources / f"{chapter}.py")
    nbformat.write(notebook, converted)
    executed.unlink(missing_ok=True)
    values = parameter_values(notebook, converted, given)
    log = layout.work / f"{chapter}.log"
    log.unlink(missing_ok=True)
    job = Job(converted, executed, values if given else {}, timeout, layout.sources, quiet_environment(), log,
              layout.work / f"{chapter}.kernel.json")
    start = time.perf_counter()
    done = run_notebook(job, _on_cpu(layout, values.get("profile")), lambda: waiting(time.perf_counter() - start))
    seconds = time.perf_counter() - start
    page = nbformat.read(executed, as_version=4) if executed.exists() else None
    shown = executed.relative_to(layout.root)
    if not done or page is None:
        kept = f" The notebook up to there is {shown}." if page is not None else ""
        raise NotebookError(_failure(page, log.read_text(encoding="utf-8")), where=chapter,
                            remedy=f"Mend it and run the chapter again.{kept}")
    if problems := page_problems(clean(page), layout.root):
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise NotebookError(f"{problems[0]}{more}", where=chapter, remedy=f"Mend the source; the page is {shown}.")
    for path in (converted, executed, log):
        path.unlink()
    return page, seconds


def _on_cpu(layout: Layout, profile: str | None) -> bool:
    """Whether a profile computes on the CPU, wherever it runs."""
    path = layout.root / "configs" / f"{profile}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return (settings or {}).get("device", "cpu") == "cpu"


def quiet_environment() -> dict[str, str]:
    """The environment of a kernel: no progress bars, no network, and pictures from the notebook's own backend."""
    environment = os.environ | {
        "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    # any backend set from outside leaves the page with the text of a figure and without its picture
    environment.pop("MPLBACKEND", None)
    return environment


def _failure(page: NotebookNode | None, log: str) -> str:
    """Why a run failed: the first cell with an error, else the last line that papermill wrote."""
    for number, cell in numbered_code(page) if page is not None else ():
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{cell_name(cell, number)} stopped with {error_line(output)}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"papermill stopped with {lines[-1]}" if lines else "papermill stopped without a message"


def clean(notebook: NotebookNode) -> NotebookNode:
    """Keep what a page needs and nothing that differs between two equal runs; changes and returns `notebook`."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    _show_one_parameters_cell(notebook)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)})
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)
    return notebook


def _show_one_parameters_cell(notebook: NotebookNode) -> None:
    """Let the page show the values that were used, in the way the source shows the defaults, and not the latter.

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


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a kernel cuts its output in pieces is a matter of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        output.pop("execution", None)
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and last.name == output.name:
            last["text"] += output.text
        else:
            merged.append(output)
    return merged
