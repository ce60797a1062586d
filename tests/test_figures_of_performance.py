"""Figures and tables of performance: what they draw of made-up tidy tables, with few runs and with many."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from drawing import drawn
from matplotlib.container import ErrorbarContainer

from retrieval_heads.claims.axes import CELLS
from retrieval_heads.figures import performance, style, training
from retrieval_heads.figures.common import condition_rows
from retrieval_heads.figures.interval_tables import answers_table, by_condition, scores_table, with_range
from retrieval_heads.figures.style import few, group, has_sizes


def scores(conditions=("real", "symbolic"), seeds=(1, 2), bases=("a", "b"), at=(2048,)) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": seed, "base": base, "eval_length": length,
         "metric": metric, "value": 0.5 + 0.1 * seed * (condition == "real"), "low": 0.4, "high": 0.8, "n": 160}
        for condition in conditions for seed in seeds for base in bases for length in at
        for metric in ("exact_match", "f1", "forced_exact_match")
    ])


def shortfalls(conditions=CELLS) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "metric": "exact_match", "value": 0.01 * place, "n": 160,
         "low": 0.01 * place - 0.035, "high": 0.01 * place + 0.02, "n_seeds": 2, "n_bases": 2,
         "same_sign": condition != "low_low"}
        for place, condition in enumerate(conditions)
    ])


def means(ax) -> list[float]:
    return [one.lines[0].get_xdata()[0] for one in ax.containers if isinstance(one, ErrorbarContainer)]


def test_the_groups_of_conditions() -> None:
    order = ["base", "real", "real_limited", "high_high", "symbolic", "high_high-symbolic", "real_short", "real_4x"]
    assert [group(name) for name in order] == [0, 1, 1, 2, 2, 3, 4, 5]
    ax = plt.figure().subplots()
    condition_rows(ax, order)
    assert [line.get_ydata()[0] for line in ax.lines] == [0.5, 2.5, 4.5, 5.5, 6.5]
    assert has_sizes(order)
    assert not has_sizes(order[:-1])
    assert few(["symbolic", "mid_mid", "real"], ["real"]) == ["real", "mid_mid", "symbolic"]
    assert few(order * 2, ["symbolic", "real"], most=3) == ["real", "symbolic"]


def test_performance_is_the_mean_over_runs_at_the_longest_length_with_single_runs() -> None:
    order = ["real", "mid_mid", "symbolic"]
    ax = drawn(performance.plot_performance, scores(at=(512, 2048)), "exact_match", order=order)
    assert means(ax) == pytest.approx([0.65, 0.5])
    singles = [line for line in ax.get_lines() if line.get_markersize() == 3.5 and len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in singles] == [2] * 4
    assert {line.get_markerfacecolor() == "white" for line in singles} == {True, False}
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert shown == [style.words(name) for name in ("real", "mid_mid", "symbolic")]
    assert "n = 160 examples" in ax.get_xlabel()
    assert "4 runs each" in ax.get_xlabel()
    single = scores(seeds=(0,), bases=("a",))
    one = drawn(performance.plot_performance, single, "exact_match", order=["real", "symbolic"])
    assert not [line for line in one.get_lines() if line.get_markersize() == 3.5 and len(line.get_xdata())]
    assert "1 run each" in one.get_xlabel()
    assert performance.deciding_metric("mdqa") == "exact_match"
    assert performance.deciding_metric("summhay") == "citation_f1"


def test_the_shortfall_has_a_row_for_each_condition_and_room_for_all_intervals() -> None:
    table = shortfalls()
    ax = drawn(performance.plot_shortfall, table, "exact_match", order=["real_limited", *CELLS])
    assert len(means(ax)) == 9
    assert "2 seeds x 2 base models" in ax.get_xlabel().replace("\n", " ")
    low, high = ax.get_xlim()
    assert low <= table.low.min()
    assert high >= table.high.max()


def test_the_map_shows_needles_from_above_and_haystacks_from_the_left_and_stars_what_counts() -> None:
    ax = drawn(performance.plot_axis_map, shortfalls(), "exact_match", top=0.1)
    assert [text.get_text() for text in ax.texts] == [
        "0.00", "0.01", "0.02", "0.03", "0.04*", "0.05*", "0.06*", "0.07*", "0.08"]
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert shown == [style.words(name) for name in ("high", "mid", "low")]
    assert "haystack" in ax.get_xlabel()
    some = drawn(performance.plot_axis_map, shortfalls(("high_high", "symbolic")), "exact_match", top=0.1)
    assert [text.get_text() for text in some.texts] == ["0.00", *"–" * 8]
    assert performance.has_nine([*CELLS, "real"])
    assert not performance.has_nine(CELLS[1:])
    none = pd.DataFrame(columns=["task", "scale", "effect", "value", "low", "high", "n", "n_seeds", "n_bases",
                                 "same_sign", "reason"])
    assert performance.axis_text(none, ["mdqa"]) == performance.MISSING


def test_a_map_without_any_of_the_nine_can_be_drawn() -> None:
    table = shortfalls(("symbolic",))
    ax = drawn(performance.plot_axis_map, table, "exact_match", top=performance.map_top(table))
    assert [text.get_text() for text in ax.texts] == ["–"] * 9


def test_the_training_length_is_of_the_same_runs() -> None:
    table = pd.concat([scores(("real",), seeds=(1,), at=(512, 2048)), scores(("rope",), (0,), at=(512,))])
    table.loc[table.eval_length == 2048, "value"] = 0.0
    base = scores(("base", "rope"), at=(512, 2048)).drop(columns="seed").drop_duplicates()
    joined = training.with_training_length(table, scores(("real", "symbolic")), base)
    assert set(joined.condition) == {"real", "rope"}
    real = joined[(joined.condition == "real") & (joined.metric == "f1")]
    assert real.groupby("eval_length").size().to_dict() == {512: 2, 2048: 2}
    assert real[real.eval_length == 2048].value.tolist() == [0.6, 0.6]
    ax = drawn(training.plot_lengths, joined, "f1", trained=2048)
    assert [one.get_label() for one in ax.containers] == [style.words(name) for name in ["rope", "real"]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["512", "2,048"]


def test_sizes_have_a_line_for_each_condition() -> None:
    table = pd.DataFrame([
        {"task": "mdqa", "condition": condition, "scale": scale, "metric": "exact_match", "value": 0.5, "low": 0.4,
         "high": 0.6, "n": 160} for condition in ("real", "low_low") for scale in (0.25, 1.0, 4.0)])
    ax = drawn(training.plot_sizes, table, 200)
    assert [one.get_label() for one in ax.containers] == [style.words(name) for name in ["real", "low_low"]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["50", "200", "800"]
    assert drawn(training.plot_sizes, table.iloc[:0], 200).containers == []


def test_losses_over_powers_of_ten_have_labels_that_can_be_read() -> None:
    style.use_style()
    steps = [{"tokens": 1e6 * step, "answer_loss": 10.0**-step} for step in range(5)]
    ax = drawn(training.plot_answer_loss, pd.DataFrame(steps))
    ax.figure.canvas.draw()
    assert {"0.001", "0.01", "0.1", "1"} <= {label.get_text() for label in ax.get_yticklabels()}
    assert not any(label.get_text() for label in ax.get_yticklabels(minor=True))


def test_many_runs_are_put_together_by_condition() -> None:
    table = scores()
    names = {"mdqa": ("exact_match", "f1")}
    by_run = scores_table(table, names)
    assert len(by_run) == 8
    assert list(by_run.columns[-2:]) == ["exact_match", "f1"]
    assert by_run.loc[0, "exact_match"] == "0.60 [0.40, 0.80]"
    summary = scores_table(table, names, many=4)
    assert summary["runs a task"].tolist() == ["4", "4"]
    assert summary["mdqa, exact match"].tolist() == ["0.65 (0.60 to 0.70)", "0.50"]
    heads = by_condition(table[table.metric == "f1"], {"high": "score", "n": "examples"}, 1)
    assert heads.loc[0].tolist() == ["real", "4", "0.8", "160.0"]
    assert list(heads.columns[2:]) == ["mdqa, score", "mdqa, examples"]
    assert with_range(pd.Series([np.nan])) == "–"


def test_answers_stand_in_a_row_for_each_condition() -> None:
    table = pd.DataFrame([
        {"condition": condition, "example": example, "reference": "Ada", "prediction": None if example else "Bo"}
        for condition in ("symbolic", "real") for example in (0, 1)])
    shown = answers_table(table)
    assert list(shown.columns) == ["condition", "1. Ada", "2. Ada"]
    assert shown.values.tolist() == [["real", "Bo", "–"], ["symbolic", "Bo", "–"]]
