"""Figures of knock-out, patching, overlap and correlation: what they draw of made-up tidy tables."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from drawing import drawn

from retrieval_heads.figures import knockout, patching
from retrieval_heads.figures.common import over_runs, shared_legend
from retrieval_heads.figures.correlation import plot_correlation, plot_overlap
from retrieval_heads.figures.explorers import vega_bundle
from retrieval_heads.figures.interval_tables import (
    counts_table,
    effects_table,
    patching_table,
    with_interval,
)
from retrieval_heads.figures.style import colour, words
from retrieval_heads.wording import span

METRICS = ("forced_exact_match", "token_accuracy", "nll")
CONDITIONS = ("symbolic", "high_high", "real_limited")
ORDER = CONDITIONS[::-1]


def knockout_table(seeds=(0,), modes=("zero",)) -> pd.DataFrame:
    run = {"task": "mdqa", "condition": "real", "low": 0.1, "high": 0.95, "n": 24, "n_retrieval": 9, "moved": 0.0,
           "groups": 1.0}
    rows = []
    for seed in seeds:
        for metric in METRICS:
            own = {**run, "seed": seed, "base": "tiny", "metric": metric}
            rows.append({**own, "mode": "none", "scope": "none", "set": "none", "draw": 0, "k": 0, "value": 0.9})
            rows += [
                {**own, "mode": mode, "scope": "answer", "set": name, "draw": draw, "k": k,
                 "value": 0.9 - 0.05 * k * (name == "retrieval") - 0.1 * seed}
                for mode in modes for k in (1, 2, 10) for name, draws in
                (("retrieval", (0,)), ("random", (0, 1, 2)), ("random_group", (0,)), ("bottom", (0,)))
                for draw in draws
            ]
    return pd.DataFrame(rows)


def effects_of(conditions=CONDITIONS, seeds=(0,)) -> pd.DataFrame:
    values = {"retrieval": 0.6, "random": 0.1, "random_group": 0.1, "bottom": 0.0, "retrieval_over_random": 0.5,
              "retrieval_over_bottom": 0.6}
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": seed, "base": "tiny", "mode": "zero", "scope": "answer",
         "contrast": name, "k": 2, "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 24,
         "draws": 2}
        for condition in conditions for seed in seeds for name, value in values.items() for metric in METRICS
    ])


def patching_of(conditions=CONDITIONS) -> pd.DataFrame:
    values = {"none": 0.3, "random": 0.35, "intersection": 0.6, "complement": 0.3, "all": 0.8, "source": 0.9}
    rows = []
    for condition in conditions:
        for name, value in values.items():
            closed = np.nan if name in ("none", "source") else (value - 0.3) / 0.6
            over = 0.25 if name == "intersection" else np.nan
            rows += [
                {"task": "mdqa", "condition": condition, "seed": 0, "base": "tiny", "set": name, "draw": draw,
                 "metric": metric, "n_heads": {"intersection": 5, "random": 5, "all": 192}.get(name, 0), "value": value,
                 "low": value - 0.1, "high": value + 0.1, "n": 24, "moved": 0.0, "change": value - 0.3,
                 "change_low": value - 0.4, "change_high": value - 0.2, "closed": closed, "closed_low": closed - 0.1,
                 "closed_high": closed + 0.1, "over_random": over, "over_random_low": over, "over_random_high": over,
                 "reason": None}
                for metric in METRICS for draw in ((0, 1) if name == "random" else (0,))
            ]
    return pd.DataFrame(rows)


def overlap_of(conditions=("base", *CONDITIONS)) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": 0, "base": "tiny", "threshold": threshold, "measure": measure,
         "value": np.nan if threshold == 0.5 else 0.8, "layer_chance": 0.3, "layer_chance_low": 0.1,
         "layer_chance_high": 0.5, "n_reference": 18, "n_heads": 12, "n_common": 10}
        for condition in conditions for threshold in (0.05, 0.1, 0.5) for measure in ("recall", "precision")
    ])


def conditions_of() -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "recall": 0.2 + 0.2 * place, "n_heads": 10 + place,
         "f1": 0.3 * place, "f1_low": 0.3 * place - 0.05, "f1_high": 0.3 * place + 0.05}
        for place, condition in enumerate(CONDITIONS)
    ])


def bars_of(ax) -> list[float]:
    """Heights of all intervals that are drawn."""
    containers = [one for one in ax.containers if isinstance(one, matplotlib.container.ErrorbarContainer)]
    return [abs(segment[1][1] - segment[0][1]) for one in containers for segment in one.lines[2][0].get_segments()]


def test_the_curves_start_at_the_unaltered_run_and_show_intervals_and_draws() -> None:
    ax = drawn(knockout.plot_knockout, knockout_table())
    lines = {one.get_label(): one for one in ax.containers}
    assert list(lines) == [label for label, *_ in knockout.SETS.values()]
    for one in lines.values():
        assert one.lines[0].get_ydata()[0] == 0.9
        assert len(one.lines[0].get_ydata()) == 4
    assert lines["retrieval heads, strongest first"].lines[0].get_ydata()[-1] == pytest.approx(0.4)
    assert bars_of(ax) == pytest.approx([0.85] * 16)
    draws = [line for line in ax.get_lines() if line.get_alpha() == 0.35]
    assert sum(len(line.get_xdata()) for line in draws) == 6
    assert "n = 24 examples" in ax.get_xlabel()
    assert ax.get_ylabel().endswith("(fraction)")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2", "10"]


def test_several_seeds_are_averaged_and_shown_singly() -> None:
    ax = drawn(knockout.plot_knockout, knockout_table(seeds=(0, 1)))
    retrieval = ax.containers[0].lines[0].get_ydata()
    assert retrieval[-1] == pytest.approx(0.35)
    singles = [line for line in ax.get_lines() if line.get_alpha() == 0.35]
    assert len(singles[0].get_xdata()) == 6


def test_panels_hold_one_task_mode_and_scope_with_the_unaltered_run() -> None:
    table = knockout_table(modes=("zero", "mean"))
    parts = knockout.knockout_panels(table, ["real"])
    assert [title for title, _ in parts] == ["mdqa, zero", "mdqa, mean"]
    for title, rows in parts:
        assert set(rows["mode"]) == {"none", title.split(", ")[1]}
    assert knockout.knockout_panels(table, ["symbolic"]) == []


def test_effects_are_drawn_for_each_condition_in_the_common_order() -> None:
    ax = drawn(knockout.plot_effects, effects_of(seeds=(0, 1)), 2, order=ORDER)
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert shown == [words(name) for name in ("real_limited", "high_high", "symbolic")]
    widths = [abs(segment[1][0] - segment[0][0]) for one in ax.containers
              for segment in one.lines[2][0].get_segments()]
    assert widths == pytest.approx([0.2] * 12)
    assert len(ax.containers) == 4
    assert {one.get_label() for one in ax.containers} == {label for label, *_ in knockout.SETS.values()}
    assert "n = 24 examples,\n2 runs each" in ax.get_xlabel()


def test_numbers_of_heads_that_only_some_runs_have_are_left_out() -> None:
    table = knockout_table(seeds=(0, 1))
    table = table[~((table.seed == 1) & (table.k == 10) & (table["set"] == "retrieval"))]
    ax = drawn(knockout.plot_knockout, table)
    assert [len(one.lines[0].get_xdata()) for one in ax.containers] == [3, 4, 4, 4]


def test_weakest_heads_of_an_earlier_version_are_marked() -> None:
    ax = drawn(knockout.plot_knockout, knockout_table().drop(columns="groups"))
    assert knockout.EARLIER in {one.get_label() for one in ax.containers}
    effects = effects_of()
    ax = drawn(knockout.plot_effects, effects[effects.contrast != "retrieval_over_bottom"], 2, order=ORDER)
    assert knockout.EARLIER in {one.get_label() for one in ax.containers}


def test_areas_have_a_row_for_each_condition_and_open_marks_without_anything_to_lose() -> None:
    table = pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": seed, "base": "tiny", "value": 0.2 + 0.1 * seed, "low": 0.1,
         "high": 0.5, "share": 0.5, "start": start, "k_max": 10, "n": 24}
        for condition, start in (("symbolic", 0.1), ("real", 0.9)) for seed in (0, 1)
    ])
    ax = drawn(knockout.plot_areas, table, order=["real", "mid_mid", "symbolic"])
    bars = [one for one in ax.containers if isinstance(one, matplotlib.container.ErrorbarContainer)]
    assert [one.lines[0].get_xdata()[0] for one in bars] == pytest.approx([0.25, 0.25])
    assert [one.lines[0].get_markerfacecolor() == "white" for one in bars] == [False, True]
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert shown == [words(name) for name in ("real", "mid_mid", "symbolic")]


def test_the_cost_on_text_and_on_answers_is_that_above_the_run_as_it_is() -> None:
    run = {"task": "mdqa", "condition": "real", "seed": 0, "base": "tiny"}
    text = pd.DataFrame([
        {**run, "set": name, "k": k, "loss": 2 + 0.1 * k * (name == "retrieval"), "draws": 1, "n": 16}
        for name, ks in (("none", (0,)), ("retrieval", (1, 2)), ("random", (1, 2))) for k in ks
    ])
    costs = knockout.specificity_costs(text, knockout_table(modes=("mean", "zero")))
    value = costs.set_index(["place", "set", "k"]).value
    assert value["text", "retrieval", 2] == pytest.approx(0.2)
    assert value["task", "retrieval", 2] == pytest.approx(-0.1)
    assert value.index.is_unique
    ax = drawn(knockout.plot_specificity, costs)
    assert [one.get_label() for one in ax.containers] == [
        "retrieval heads, answers", "retrieval heads, plain text", "random heads, answers", "random heads, plain text"]
    assert "24 answers, 16 rows of text,\n1 run" in ax.get_xlabel()


def test_a_bar_a_set_with_its_interval_its_number_of_heads_and_the_real_run() -> None:
    ax = drawn(patching.plot_patching, patching_of())
    bars = [one for one in ax.containers if isinstance(one, matplotlib.container.BarContainer)]
    assert len(bars) == 5
    assert all(len(one) == 3 for one in bars)
    assert bars[2].get_label().startswith("intersection")
    assert [patch.get_height() for patch in bars[2]] == pytest.approx([0.6] * 3)
    assert bars_of(ax) == pytest.approx([0.2] * 15)
    assert [line.get_ydata()[0] for line in ax.get_lines() if line.get_label() == "the real run itself"] == [0.9]
    numbers = [text.get_text() for text in ax.texts]
    assert sorted(numbers) == sorted(["5", "5", "0", "192"] * 3)


def test_overlap_has_a_line_and_a_chance_level_for_each_condition() -> None:
    ax = drawn(plot_overlap, overlap_of(), "recall", 0.1)
    named = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    assert [line.get_label() for line in named] == [words(name) for name in ("base", *CONDITIONS[::-1])]
    assert np.isnan(named[0].get_ydata()[-1])
    assert len([line for line in ax.get_lines() if line.get_linestyle() == ":"]) == 4
    assert len(ax.collections) == 4
    assert ax.texts[0].get_text().startswith("n = 18 heads")


def test_points_of_conditions_with_intervals() -> None:
    ax = drawn(plot_correlation, conditions_of())
    assert [one.get_label() for one in ax.containers] == [words(name) for name in CONDITIONS[::-1]]
    assert ax.containers[0].lines[0].get_color() == colour("real_limited")
    assert bars_of(ax) == pytest.approx([0.1] * 3)


def test_one_legend_names_everything_once() -> None:
    figure, axes = plt.subplots(1, 2, layout="constrained")
    for ax in axes:
        knockout.plot_effects(effects_of(), 2, ax, ORDER)
    shared_legend(figure, list(axes))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        label for label, *_ in knockout.SETS.values()]


def test_tables_for_reading_show_intervals_and_dashes() -> None:
    table = effects_table(effects_of())
    assert list(table.condition) == ["real_limited", "high_high", "symbolic"]
    assert table.loc[0, "retrieval heads"] == "0.60 [0.50, 0.70]"
    summary = effects_table(effects_of(), many=2)
    assert summary["mdqa, retrieval heads"].tolist() == ["0.60"] * 3
    patched = patching_table(patching_of())
    assert patched.loc[0, "closed by intersection"] == "0.50 [0.40, 0.60]"
    assert patched.loc[0, "closed by complement"] == "–"
    assert patched.loc[0, "gap"] == "0.60 [0.50, 0.70]"
    assert with_interval(-0.001, -0.2, 0.0) == "0.00 [−0.20, 0.00]"
    assert span(pd.Series([3, 5])) == "3 to 5"
    effects = effects_of(seeds=(0, 1))
    effects.loc[effects.seed == 1, "value"] += 0.2
    means = over_runs(effects, ["contrast", "metric"]).set_index(["contrast", "metric"]).value
    assert means["retrieval", "nll"] == pytest.approx(0.7)


def test_numbers_of_heads_have_a_short_table() -> None:
    counts = pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": seed, "base": "tiny", "heads": 10 + seed, "layers": 3,
         "beyond_chance": 10, "best": 0.9, "chance": 0.1, "n_used": 64}
        for condition in ("symbolic", "real", "base") for seed in (0, 2)
    ])
    assert list(counts_table(counts).condition[:2]) == ["base", "base"]
    short = counts_table(counts, many=2)
    assert short.loc[1].tolist() == ["real", "2", "11 (10 to 12)", "10"]


def test_the_script_of_the_map_keeps_its_names_to_itself() -> None:
    script = vega_bundle().strip()  # a page of the book has a `_` of its own
    assert script.startswith("(() => {")
    assert script.endswith("})();")
