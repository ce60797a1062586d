"""The report of a diagnosis: its figures, and its tables and sentences in the page `report.html.jinja`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from retrieval_heads import figures
from retrieval_heads.diagnose import verdict
from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.limits import warnings
from retrieval_heads.figures.style import interval_bars, metric_label, panels, use_style
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.wording import with_minus

SHOWN = 3
"""Test examples whose answers are shown."""

RIGHT, LOSS = "forced_exact_match", "nll"
"""What heads are judged by: right answers, or the loss of the gold answer where hardly one is right."""

PAGE = Path(__file__).with_name("report.html.jinja")

Table = tuple[Iterable[str], Iterable[Iterable[str]]]
"""The head and the rows of a table on the page."""


def report(result: Result, charts: Iterable[Chart]) -> str:
    """The whole file as text. All that comes from data is escaped: a prompt that contains HTML is shown, not run."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters["minus"] = with_minus
    template = environment.from_string(PAGE.read_text(encoding="utf-8"))
    tables, inputs, metric = result.tables, result.inputs, metric_label(result.metric)
    told = (verdict.performance, verdict.heads, verdict.patching, verdict.knockout)
    answers = []
    for place, example in enumerate(inputs.test[:SHOWN]):
        own = tables["answers"][tables["answers"]["example"] == place].drop_duplicates("condition")
        rows = [(row["condition"], row["prediction"], f"{row[result.metric]:.2f}") for _, row in own.iterrows()]
        answers.append((example.prompt[-200:], example.answer, rows))
    return template.render(
        inputs=inputs, request=inputs.request, metric=metric, glance=_glance(result), places=_places(result),
        sets={name: [part(result, name) for part in told] for name in inputs.request.names},
        warnings=warnings(result), numbers=_numbers(result), charts=charts, answers=answers,
        training=[(one.condition, one.seed, one.steps, f"{one.first_loss:.2f}", f"{one.final_loss:.2f}")
                  for one in tables["training"].itertuples()],
    )


def _glance(result: Result) -> Table:
    """One row per model: the numbers that most look for, with their intervals where they have any width."""
    real = result.inputs.request.has_real
    columns = {
        metric_label(result.metric): ("score", ".2f"), "best-subspan": ("subspan", ".2f"),
        "loss of the gold answer": ("answer_loss", ".2f"), "gain from context": ("context_gain", ".2f"),
        "short of real": ("below_real", ".2f"),
        f"heads of {'real' if real else 'untuned'}": (f"recall_of_{'real' if real else UNTUNED}", ".0%"),
        "gap closed by those it misses": ("closed_complement", ".0%"),
    }
    names = result.inputs.conditions
    cells = {label: [_cell(result.of(name, measure), form) for name in names]
             for label, (measure, form) in columns.items()}
    kinds = ["" if name == UNTUNED else verdict.verdict(result, name).kind for name in names]
    known = {label: own for label, own in cells.items() if any(own)}
    return ("trained on", "verdict", *known), zip(names, kinds, *known.values(), strict=True)


def _cell(row: pd.Series | None, form: str) -> str:
    if row is None:
        return ""
    varies = row["high"] - row["low"] > verdict.NO_WIDTH
    return with_minus(
        f"{row['value']:{form}}" + (f" ({row['low']:{form}} to {row['high']:{form}})" if varies else ""))


def _places(result: Result) -> Table | None:
    """Best-subspan (or the score) and the loss of the gold answer by the place of the needle, one row per model."""
    table = result.tables["by_place"]
    if table.empty:
        return None
    measure, label = _by_place_measure(result)
    sizes = table.drop_duplicates("place").set_index("place")["n"]
    value = table.set_index(["measure", "condition", "place"])["value"]
    rows = [(what, condition, *(with_minus(f"{value.get((name, condition, place), np.nan):.2f}")
                                for place in sizes.index))
            for name, what in ((measure, label), ("answer_loss", "loss of the gold answer"))
            for condition in result.inputs.conditions]
    return ("what", "trained on", *(f"{place} (n {n})" for place, n in sizes.items())), rows


def _by_place_measure(result: Result) -> tuple[str, str]:
    """What is told by place, best-subspan or the score, and its name."""
    found = (result.tables["by_place"]["measure"] == "subspan").any()
    return ("subspan", "best-subspan") if found else ("score", metric_label(result.metric))


_THE_SAME = "the same, over no fine-tuning"
_NUMBERS = {
    "over_untuned": _THE_SAME, "below_real": "the same, short of real",
    "subspan": "best-subspan", "subspan_over_untuned": _THE_SAME,
    "answer_loss": "loss of the gold answer (nats a token)", "answer_loss_over_untuned": _THE_SAME,
    "context_gain": "gain from context (nats a token)", "context_gain_over_untuned": _THE_SAME,
    "end_loss": "loss of the end after the answer (nats)", "words": "words of an answer",
    "recall_of_real": "recall of the real run's heads", "precision_of_real": "its heads that the real run has",
    "recall_of_untuned": "recall of the untuned model's heads",
    "gap": "gap to real (right answers)",
    "gain_complement": "gain by the missing heads", "gain_random_complement": "gain by as many random heads",
    "gain_complement_over_random": "the first gain less the second", "closed_complement": "share of the gap closed",
    "loss_without_retrieval": "loss without its heads", "loss_without_random": "loss without random heads",
    "loss_without_retrieval_over_random": "the first loss less the second",
    "nll_gap": "gap to real (nats a token)", "nll_gain_complement": "nats gained by the missing heads",
    "nll_gain_random_complement": "nats gained by as many random heads",
    "nll_loss_without_retrieval": "nats lost without its heads",
    "nll_loss_without_random": "nats lost without random heads",
}
"""What the measures of the table `summary` are called, in the order in which they are shown."""


def _numbers(result: Result) -> Iterator[tuple[str, ...]]:
    """One row per model and measure."""
    probe = sum(bool(example.needles) for example in result.inputs.probe)
    names = {"score": f"score ({metric_label(result.metric)})", **_NUMBERS}
    if result.inputs.request.has_real:
        del names["recall_of_untuned"]
    for condition in result.inputs.conditions:
        for measure, name in names.items():
            if (row := result.of(condition, measure)) is not None:
                heads = f"{row['n']} heads, {probe}" if measure.startswith(("recall", "precision")) else f"{row['n']}"
                yield (condition, name, with_minus(f"{row['value']:.2f}"),
                       "" if pd.isna(row["low"]) else with_minus(f"{row['low']:.2f} to {row['high']:.2f}"),
                       "" if pd.isna(row["chance"]) else f"{row['chance']:.2f}",
                       f"{heads} examples, {row['n_seeds']} {'seeds' if row['n_seeds'] > 1 else 'seed'}")


@dataclass(frozen=True)
class Chart:
    """One figure as it stands in the report, with a text that stands in for it."""

    title: str
    image: str  # PNG in base64
    alt: str
    caption: str


def charts(result: Result) -> Iterator[Chart]:
    """The figures that the tables allow: performance always, the others where heads were looked for."""
    backend = plt.get_backend()
    plt.switch_backend("agg")
    try:
        with plt.rc_context():
            use_style()
            yield _performance(result)
            if len(result.tables["by_place"]):
                yield _by_place(result)
            if len(result.tables["head_scores"]):
                yield _maps(result)
                yield _overlap(result)
                yield _knockout(result)
            if len(result.tables["patching"]):
                yield _patching(result)
    finally:
        plt.switch_backend(backend)


def _performance(result: Result) -> Chart:
    table = result.tables["summary"]
    rows = table[table["measure"] == "score"].iloc[::-1]
    figure, ax = plt.subplots(figsize=(6, 0.8 + 0.4 * len(rows)))
    places = np.arange(len(rows))
    ax.errorbar(rows["value"], places, xerr=interval_bars(rows["value"], rows["low"], rows["high"]), fmt="o",
                color="#0173b2", capsize=3)
    ax.set_yticks(places, rows["condition"])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.4), xlabel=metric_label(result.metric))
    told = "; ".join(f"{row.condition} {row.value:.2f}" for row in rows.iloc[::-1].itertuples())
    return _chart("What each set teaches", figure, f"Score of each model: {told}.",
                  f"Score on {len(result.inputs.test)} real test examples, with 95% intervals.")


def _by_place(result: Result) -> Chart:
    table, (measure, _) = result.tables["by_place"], _by_place_measure(result)
    rows = table[table["measure"] == measure].rename(columns={"place": "part"})
    metric = "best_subspan_em" if measure == "subspan" else result.metric
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    figures.diagnosis.plot_by_place(rows, metric, ax)
    told = "; ".join(f"{condition}: " + ", ".join(f"{row.part} {row.value:.2f}" for row in own.itertuples())
                     for condition, own in rows.groupby("condition", sort=False))
    return _chart("Where the needle stands", figure, f"{metric_label(metric)} by the place of the needle. {told}.",
                  "Score on the test examples whose first needle stands at each place, with 95% intervals.")


def _maps(result: Result) -> Chart:
    names, table = result.inputs.conditions, result.tables["head_scores"]
    figure, axes = panels(names, columns=2, height=2.8)
    for name, ax in zip(names, axes, strict=True):
        own = table[table["condition"] == name]
        figures.head_map(own[own["seed"] == own["seed"].min()], result.inputs.request.threshold, ax)
    told = "; ".join(f"{name} {', '.join(map(str, result.n_heads(name)))}" for name in names)
    return _chart("Retrieval heads", figure, f"Maps of the score of every head. Retrieval heads of each run: {told}.",
                  f"Retrieval score ({result.inputs.kind}) of every head on the probe examples, first seed; framed: "
                  f"above {result.inputs.request.threshold:g}.")


def _overlap(result: Result) -> Chart:
    reference = REFERENCE if result.inputs.request.has_real else UNTUNED
    table = result.tables["overlap"]
    rows = table[(table["reference"] == reference) & table["value"].notna()]
    at = rows[(rows["threshold"] == result.inputs.request.threshold) & (rows["measure"] == "recall")]
    told = "; ".join(f"{name} {value:.2f}" for name, value in at.groupby("condition")["value"].mean().items())
    figure, axes = panels(["recall", "precision"], columns=2)
    for measure, ax in zip(("recall", "precision"), axes, strict=True):
        if (rows["measure"] == measure).any():
            # in the looks of the study's untrained model, which no set has
            figures.head_overlap(rows.replace({"condition": {UNTUNED: "base"}}), measure, ax)
            handles, labels = ax.get_legend_handles_labels()
            ax.set_ylim(-0.04, 1.4)  # room for the legend above the lines
            ax.set_yticks(np.linspace(0, 1, 6))
            ax.legend(handles, [UNTUNED if label == "base" else label for label in labels], loc="upper left", ncols=2,
                      fontsize="small")
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "no retrieval head", ha="center", va="center")
    whose = "the real run" if reference == REFERENCE else "the untuned model"
    return _chart("Heads in common", figure,
                  f"Overlap of heads with {whose} over thresholds. Recall at the chosen threshold: {told or 'none'}.",
                  f"Recall: share of the heads of {whose} that a run has. Precision: share of a run's heads that "
                  f"{whose} has. Dotted, with a band: 95% of random heads of the same layers.")


def _knockout(result: Result) -> Chart:
    names, table = result.inputs.conditions, result.tables["knockout"]
    metric = _metric(table)
    figure, axes = panels(names, columns=2, height=2.8, sharey=True)
    for name, ax in zip(names, axes, strict=True):
        # a number of heads that only some seeds have would make a jump
        own = table[(table["condition"] == name) & (table["metric"] == metric)]
        figures.knockout_curve(own[own["seed"] == own["seed"].min()], ax, metric)
        ax.set(**_scale(metric), xlabel="heads out (number)")
    return _chart("Without heads", figure,
                  f"{_scale(metric)['ylabel']} against the number of heads that are set to zero, for the strongest"
                  " retrieval heads, random heads and the weakest heads of each run.",
                  "Heads are set to zero where the answer is written; teacher-forced answers, first seed, 95% "
                  "intervals.")


def _patching(result: Result) -> Chart:
    figure, ax = plt.subplots(figsize=(7.2, 3.8))
    table = result.tables["patching"]
    metric = _metric(table)
    figures.patching_bars(table, ax, metric)
    ax.set(**_scale(metric), xlabel="patched run: trained on")
    told = "; ".join(
        f"{name}: " + ", ".join(f"{heads} {mean:.2f}" for heads, mean in own.groupby("set")["value"].mean().items())
        for name, own in table[(table["metric"] == metric) & (table["draw"] == 0)].groupby("condition")
    )
    return _chart("With heads of the real run", figure,
                  f"{_scale(metric)['ylabel']} with heads patched from the real run. {told}.",
                  "Outputs of heads are taken from the real run where the answer is written. complement: the real "
                  "run's retrieval heads that the run lacks; intersection: those of both; random: as many others of "
                  "the same layers; intersection_equal: the strongest of the intersection, as many as the complement "
                  "has; source: the real run itself.")


def _metric(table: pd.DataFrame) -> str:
    """Right answers where some model has enough of them, else the loss."""
    return RIGHT if verdict.able(table) else LOSS


def _scale(metric: str) -> dict[str, Any]:
    if metric == LOSS:
        return {"ylabel": "loss of the gold answer (nats a token)"}
    return {"ylim": (-0.03, 1.03), "ylabel": "right answers (fraction)"}


def _chart(title: str, figure: Figure, alt: str, caption: str) -> Chart:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return Chart(title, base64.b64encode(content.getvalue()).decode(), alt, caption)
