"""Figures and words of chapter 09: where needles stand, scores by that place, what was found, the report in a frame.

A `result` is what `diagnose` returns, a `diagnose.compare.Result`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retrieval_heads.data.example import Example
from retrieval_heads.figures.common import named_rows, points
from retrieval_heads.figures.interval_tables import DASH, with_interval
from retrieval_heads.figures.style import axis, colour, marker, metric_label
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stats.resample import Interval, bootstrap_crossed


def places(examples: Sequence[Example]) -> np.ndarray:
    """Where the first needle of each example begins, as a fraction of the prompt's characters: float64 `[n]`."""
    return np.array([example.needles[0][0] / len(example.prompt) for example in examples])


def plot_places(sets: Mapping[str, Sequence[Example]], ax: Axes | None = None) -> Axes:
    """A row for each set of examples with needles, from the top: a stroke where each first needle begins."""
    ax, looks = axis(ax), _looks(sets)
    for row, (name, examples) in enumerate(sets.items()):
        ax.vlines(places(examples), row - 0.3, row + 0.3, color=looks[name][0], linewidth=1.4)
    named_rows(ax, [f"{name} ({len(examples)})" for name, examples in sets.items()], size=None)
    ax.set(xlim=(0, 1), xlabel="where the needle begins (fraction of the prompt)")
    return ax


def by_place(result: Any) -> pd.DataFrame:
    """The score by the place of the needle, one row per condition and place: the table `by_place`, with `part`."""
    table = result.tables["by_place"]
    return table[table["measure"] == "score"].rename(columns={"place": "part"}).reset_index(drop=True)


def plot_by_place(table: pd.DataFrame, metric: str, ax: Axes | None = None) -> Axes:
    """Points with intervals for each place of the needle, side by side for the conditions."""
    ax = axis(ax)
    parts = list(dict.fromkeys(table["part"]))
    looks = _looks(table["condition"].unique())
    for number, (name, (tone, shape)) in enumerate(looks.items()):
        own = table[table["condition"] == name].set_index("part").reindex(parts)
        points(ax, np.arange(len(parts)) + 0.14 * (number - (len(looks) - 1) / 2), own, color=tone, marker=shape,
               linestyle="", capsize=3, label=name)
    sizes = table.drop_duplicates("part").set_index("part")["n"]
    ax.set_xticks(range(len(parts)), [f"{part}\n({sizes[part]} examples)" for part in parts])
    ax.set(ylim=(-0.03, 1.03), ylabel=f"{metric_label(metric)} (0 to 1)", xlabel="where the needle stands")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def score_table(result: Any, losses: Mapping[str, float]) -> pd.DataFrame:
    """One row per condition: score, difference to no fine-tuning, recall of the real run's heads and its chance level.

    `losses`, in nats per token, are means over all steps of its fine-tunings.
    """
    rows = []
    for condition in result.inputs.conditions:
        score, over, recall = (result.of(condition, name) for name in ("score", "over_untuned", "recall_of_real"))
        rows.append({
            "trained on": condition, metric_label(result.metric): _told(score), "over no fine-tuning": _told(over),
            "loss in training": losses.get(condition, np.nan), "heads": np.mean(result.n_heads(condition)),
            "recall of real heads": _told(recall), "chance": np.nan if recall is None else recall["chance"],
        })
    return pd.DataFrame(rows)


def difference(result: Any, one: str, other: str) -> Interval:
    """How much better one set's model answers the same examples than another's, with its 95% bootstrap interval."""
    ours, theirs = (result.tables["answers"].query("condition == @name").pivot(
        index="seed", columns="example", values=result.metric).to_numpy(dtype=float) for name in (one, other))
    return bootstrap_crossed(ours - theirs)


def finding(result: Any, sound: str, flawed: str) -> list[str]:
    """What the tables say of two sets, the second of which has a known flaw: short sentences, the finding first.

    They are worded by the intervals.
    """
    scores = {name: _told(result.of(name, "score")) for name in result.inputs.conditions}
    gap, n = difference(result, sound, flawed), len(result.inputs.test)
    told = f"{gap.estimate:.2f} (alike on all examples)" if gap.high == gap.low else with_interval(*gap)
    ahead = f"`{sound}` is ahead by {told} on the same {n} real examples"
    if gap.low > 0:
        first = f"The flawed set teaches less: {ahead}."
    elif gap.high < 0:
        first = f"Against what one expects, the flawed set teaches more: {ahead}."
    else:
        first = f"That the flawed set teaches less **is not shown** here: {ahead}, which are too few."
    return [
        first,
        f"Scores ({metric_label(result.metric)}): `{sound}` {scores[sound]}, `{flawed}` {scores[flawed]}, "
        f"real examples {scores[REFERENCE]}, no fine-tuning {scores[UNTUNED]}.",
        *_heads(result, sound, flawed, gap.low > 0),
    ]


def _heads(result: Any, sound: str, flawed: str, apart: bool) -> list[str]:
    """Which share of the real run's heads each set has, beside chance; `apart`: whether scores tell the sets apart."""
    found = {name: result.of(name, "recall_of_real") for name in (sound, flawed, UNTUNED)}
    if any(row is None for row in found.values()):
        return ["The real run has no retrieval head here, so nothing can be said of heads."]
    shares = {name: f"{_told(row)} (chance {row['chance']:.2f})" for name, row in found.items()}
    less = found[flawed]["high"] < found[sound]["low"]
    not_shown = "That the flawed set misses more of these heads is not shown" + (
        ": here scores tell the sets apart, not heads." if apart else ".")
    return [
        f"Share of the real run's {found[sound]['n']} retrieval heads: `{sound}` {shares[sound]}, `{flawed}` "
        f"{shares[flawed]}, no fine-tuning {shares[UNTUNED]}.",
        "The flawed set misses more of these heads." if less else not_shown,
    ]


def framed(report: str, title: str) -> str:
    """A whole HTML report as a part of a page: in a frame of its own, which runs no script and is scrolled."""
    # IPython warns of HTML that begins with a frame, so it stands in a block
    return (f'<div class="framed-report"><iframe title="{escape(title)}" sandbox loading="lazy" '
            f'style="width: 100%; height: 38rem; border: 1px solid #8888; border-radius: 6px" '
            f'srcdoc="{escape(report)}"></iframe></div>')


def _told(row: pd.Series | None) -> str:
    return DASH if row is None else with_interval(row["value"], row["low"], row["high"])


def _looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by name: those of the study's untrained and real models, and others for sets of one's own."""
    like = {UNTUNED: "base", REFERENCE: REFERENCE, "real_train": REFERENCE, "real_eval": "base"}
    own = cycle(("high_high", "high_low", "low_high", "low_low", "symbolic"))
    alike = {name: like.get(name) or next(own) for name in names}
    return {name: (colour(condition), marker(condition)) for name, condition in alike.items()}
