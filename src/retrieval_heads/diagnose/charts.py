"""The figures of a diagnosis, each with a caption and a text that stands in for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads import figures
from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.sentences import ABLE
from retrieval_heads.figures.style import interval_bars, metric_label, panels, use_style
from retrieval_heads.settings import REFERENCE, UNTUNED

RIGHT, LOSS = "forced_exact_match", "nll"
"""What heads are judged by: right answers, or the loss of the gold answer where hardly one is right."""


@dataclass(frozen=True)
class Chart:
    """One figure as it stands in the report.

    Attributes:
        title: its heading.
        image: PNG in base64.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
    """

    title: str
    image: str
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
    table = result.tables["by_place"]
    measure = "subspan" if (table["measure"] == "subspan").any() else "score"
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
            _nothing(ax)
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
        f"{name}: " + ", ".join(f"{row['set']} {row['value']:.2f}" for _, row in own.groupby("set")["value"].mean()
                                .reset_index().iterrows())
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
    untouched = table[table["set"].isin(["none", "source"]) & (table["metric"] == RIGHT)]["value"]
    return RIGHT if untouched.max() >= ABLE else LOSS


def _scale(metric: str) -> dict[str, Any]:
    if metric == LOSS:
        return {"ylabel": "loss of the gold answer (nats a token)"}
    return {"ylim": (-0.03, 1.03), "ylabel": "right answers (fraction)"}


def _nothing(ax: Axes) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no retrieval head", ha="center", va="center")


def _chart(title: str, figure: Figure, alt: str, caption: str) -> Chart:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return Chart(title, base64.b64encode(content.getvalue()).decode(), alt, caption)
