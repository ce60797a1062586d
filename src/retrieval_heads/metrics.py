"""By which metrics the answers to a task are scored; `data.task` says how."""

from __future__ import annotations

from retrieval_heads.data.example import task_of


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task; a task of the user's own is scored as a question with a short answer."""
    return task_of(task).metrics


def main_metric(task: str) -> str:
    """The metric by which the study compares runs: F1 of the tokens, or of the citations for `summhay`."""
    return task_of(task).main_metric
