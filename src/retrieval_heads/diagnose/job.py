"""`diagnose`: from a request to `report.html` and `tables/*.csv`; what an earlier call has made is not made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_heads.diagnose.compare import Result, result
from retrieval_heads.diagnose.inputs import Inputs, read_inputs
from retrieval_heads.diagnose.request import Request
from retrieval_heads.diagnose.work import Work, real_run
from retrieval_heads.errors import ConfigError
from retrieval_heads.files import clear_shortages, write_whole
from retrieval_heads.locks import claimed, on_record
from retrieval_heads.models.extension import fingerprint
from retrieval_heads.parallel import resolve_device
from retrieval_heads.tables import to_csv

WHAT, TOKENS = "a diagnosis", "tokens"
GROWING = ("train", "adapter", "seeds", "real_train")
"""What a later request in the same folder may add: runs are independent of one another."""


@clear_shortages()
def diagnose(request: Request, device: str = "auto") -> Result:
    """Fine-tune, evaluate, detect, compare, knock out and patch; write tables and report to the request's folder.

    Args:
        request: model, files and settings.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DataError, ConfigError, ModelError: as in `inputs.read_inputs`; matplotlib is missing.
        ResultError: the folder holds something else, or results of other arguments; another process is at work in it;
            memory or disk do not suffice.
    """
    inputs, device = read_inputs(request, on_record(request.out).get(TOKENS)), resolve_device(device)
    try:
        from retrieval_heads.diagnose.charts import charts
        from retrieval_heads.diagnose.report import report
    except ImportError as error:
        raise ConfigError("the report needs matplotlib and seaborn", where="diagnose", value=str(error),
                          remedy='Install them: pip install "retrieval-heads[book]".') from error
    with claimed(request.out, record(inputs), WHAT, GROWING):
        found = compute(inputs, Work(inputs, device, request.out))
        for name, table in found.tables.items():
            if len(table):
                write_whole(request.out / "tables" / f"{name}.csv", to_csv(table))
        write_whole(report_path(request.out), report(found, charts(found)).encode("utf-8", "replace"))
    return found


def record(inputs: Inputs) -> dict[str, Any]:
    """What the results depend on; the length, too, which a later request with other sets is not to change."""
    return inputs.request.record(fingerprint(inputs.folder)) | {TOKENS: inputs.length}


def compute(inputs: Inputs, work: Work) -> Result:
    """Every part that is missing, and what all say together."""
    keys = [key for condition in inputs.conditions for key in inputs.runs(condition)]
    measured = {key: work.measured(key) for key in keys}
    if not inputs.finds_heads:
        return result(inputs, measured, {}, {})
    knocked_out = {key: work.knocked_out(key) for key in keys}
    # runs of one seed one after the other: they are patched from one real run, which is loaded once
    patchable = sorted((key for key in keys if key.condition in inputs.request.names), key=lambda key: key.seed)
    patched = {key: work.patched(key, real) for key in patchable if (real := real_run(inputs, key)) is not None}
    return result(inputs, measured, knocked_out, patched)


def report_path(out: Path) -> Path:
    return out / "report.html"
