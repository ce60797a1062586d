"""Running one notebook through papermill, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from retrieval_heads.notebooks import NotebookError
from retrieval_heads.notebooks.check import cell_name, error_line, numbered_code, page_problems
from retrieval_heads.notebooks.clean import clean
from retrieval_heads.notebooks.layout import Layout
from retrieval_heads.notebooks.source import parameter_values, read_source


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
    start = time.perf_counter()
    returncode, log = run_papermill(converted, executed, values if given else {}, layout.sources, timeout, waiting)
    seconds = time.perf_counter() - start
    page = nbformat.read(executed, as_version=4) if executed.exists() else None
    if returncode or page is None:
        kept = f" The notebook up to there is {executed.relative_to(layout.root)}." if page is not None else ""
        raise NotebookError(failure(page, log), where=chapter, remedy=f"Mend it and run the chapter again.{kept}")
    problems = page_problems(clean(page), layout.root)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise NotebookError(
            f"{problems[0]}{more}", where=chapter,
            remedy=f"Mend the source; the page is {executed.relative_to(layout.root)}.",
        )
    converted.unlink()
    executed.unlink()
    return page, seconds


def run_papermill(
    source: Path, target: Path, values: Mapping[str, Any], folder: Path, timeout: int, waiting: Callable[[float], None]
) -> tuple[int, str]:
    """Execute a converted notebook; the exit code and what papermill wrote.

    A process of its own for each notebook, so that the memory of the last one is free, also on a GPU.
    """
    command = [
        sys.executable, "-m", "papermill", str(source), str(target), "--kernel", "python3", "--cwd", str(folder),
        "--no-progress-bar", "--log-level", "WARNING", "--execution-timeout", str(timeout),
    ]
    if values:
        command += ["--parameters_yaml", yaml.safe_dump(dict(values))]
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=quiet_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:
        while True:
            try:
                log, _ = process.communicate(timeout=1)
                return process.returncode, log
            except subprocess.TimeoutExpired:
                waiting(time.perf_counter() - start)


def quiet_environment() -> dict[str, str]:
    """The environment of a kernel: no progress bars, no network, and pictures from the notebook's own backend."""
    environment = os.environ | {
        "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error", "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    # any backend set from outside leaves the page with the text of a figure and without its picture
    environment.pop("MPLBACKEND", None)
    return environment


def failure(page: NotebookNode | None, log: str) -> str:
    """Why a run failed: the first cell with an error, else the last line that papermill wrote."""
    for number, cell in numbered_code(page) if page is not None else ():
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{cell_name(cell, number)} stopped with {error_line(output)}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"papermill stopped with {lines[-1]}" if lines else "papermill stopped without a message"
