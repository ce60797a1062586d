"""Figure, tables and words of chapter 08: what the code costs at full size, from the committed measurements."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads import paths
from retrieval_heads.errors import ResultError
from retrieval_heads.training.lora_settings import floor_tflop
from retrieval_heads.wording import span

NAMES = {
    "plain": "plain forward pass", "detection": "detection, 1 question", "wu": "procedure of Wu et al., 1 question",
    "detection_many": "detection, {questions} questions on one haystack", "knockout": "100 head sets knocked out",
}
"""What `benchmarks/full_size.py` times, in words."""

VARIANTS = {
    "default": "default of the Trainer", "answer_rows": "logits at the answer only",
    "keep_attention": "and attention outputs kept", "ours": "and projections kept: ours",
}
"""The variants of `benchmarks/lora_step.py`, in words."""

LEAST_GAIN, MOST_GB = 1.3, 80
"""Targets of the LoRA step: so many times faster than the default, at no more than so many GB."""

_BAR, _FLOOR, _PASS = "#56b4e9", "#d55e00", "#000000"


def benchmark_table(name: str, folder: Path | None = None) -> pd.DataFrame:
    """A table of measurements, a file of `results/benchmarks` or another folder; `ResultError` where there is none."""
    path = (folder or paths.results_folder("benchmarks")) / f"{name}.csv"
    if not path.is_file():
        raise ResultError("no such table of measurements", where=path,
                          remedy="Take it from the repository, or make it as results/benchmarks/README.md says.")
    return pd.read_csv(path)


def names_of(summary: pd.DataFrame) -> list[str]:
    """What was timed, in words, for each row of the table `full_size`."""
    return [NAMES[row.what].format(questions=row.questions) for row in summary.itertuples()]


def plot_seconds(summary: pd.DataFrame, passes: pd.DataFrame, ax: Axes) -> None:
    """Median seconds (table `full_size`) as bars, each round (table `passes`) as a point, and the floor as a stroke."""
    rows = summary.iloc[::-1].reset_index(drop=True)
    ax.barh(rows.index, rows.seconds, color=_BAR, height=0.6, label="median")
    for place, row in rows.iterrows():
        each = passes[passes.what == row.what].seconds
        ax.plot(each, [place] * len(each), ".", color=_PASS, markersize=4, label="a round" if place == 0 else None)
        ax.annotate(f"{row.seconds:.2f} s", (each.max(), place), (6, 0), textcoords="offset points", va="center",
                    fontsize="small")
    ax.vlines(rows.floor_seconds, rows.index - 0.38, rows.index + 0.38, color=_FLOOR, linewidth=2.5, label="floor")
    ax.set_yticks(rows.index, names_of(rows))
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, 1.15 * passes.seconds.max())
    ax.set_xlabel(f"seconds (n = {span(summary.repeats)} rounds)")


def lora_table(steps: pd.DataFrame) -> pd.DataFrame:
    """From the table `lora_step`, one row per variant: `variant`, `steps`, `seconds` (median), `peak_gb`,
    `times_faster` than the default, `share` of the floor.
    """
    by = steps.groupby("variant", sort=False)
    shape = next(steps.itertuples())
    floor = sum(floor_tflop(shape).values()) / shape.tflops
    table = pd.DataFrame({"steps": by.size(), "seconds": by.seconds.median(), "peak_gb": by.memory_gb.max()})
    table["times_faster"] = table.seconds["default"] / table.seconds
    table["share"] = floor / table.seconds
    return table.reset_index()


def speed_table(targets: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Every target with what was reached: `target`, `limit`, `reached`, `met` (yes, no), `missed_by` (fraction of the
    limit; empty where met); from the tables `targets` and `lora_step`.
    """
    ours = lora_table(steps).set_index("variant").loc["ours"]
    lora = pd.DataFrame([
        ("LoRA step, times faster than the Trainer's default", f"at least {LEAST_GAIN}", ours.times_faster,
         ours.times_faster >= LEAST_GAIN),
        ("LoRA step, GB", f"at most {MOST_GB}", ours.peak_gb, ours.peak_gb <= MOST_GB),
    ], columns=["target", "limit", "reached", "met"])
    table = pd.concat([targets[list(lora)], lora], ignore_index=True)
    limit = table.limit.str.split().str[-1].astype(float)
    return table.assign(met=table.met.map({True: "yes", False: "no"}),
                        missed_by=(table.reached / limit - 1).abs().where(~table.met.astype(bool)))


def shown_targets(table: pd.DataFrame) -> pd.DataFrame:
    """`speed_table` for a page, with percents."""
    return table.assign(missed_by=[f"{one:.0%}" if one == one else "–" for one in table.missed_by]).rename(
        columns={"missed_by": "missed by"})


def targets_text(table: pd.DataFrame) -> str:
    """Which targets of a `speed_table` were met and which not, by how much, in words."""
    missed = table[table.met == "no"]
    text = f"{len(table) - len(missed)} of {len(table)} targets are met."
    if len(missed):
        parts = [f"{row.target} ({row.reached:.2f}, {row.limit}: missed by {row.missed_by:.0%})"
                 for row in missed.itertuples()]
        text += f" **Not met: {'; '.join(parts)}.**"
    return text
