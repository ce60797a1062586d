"""The figures of one's own tables: on a given axis or a new one, of small tables with free names, and their errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from retrieval_heads import figures
from retrieval_heads.errors import DataError


def scores() -> pd.DataFrame:
    return pd.DataFrame([(layer, head, 0.1 * layer + 0.05 * head) for layer in range(3) for head in range(4)],
                        columns=["layer", "head", "score"])


def overlap() -> pd.DataFrame:
    return pd.DataFrame([
        {"condition": name, "seed": seed, "threshold": at, "value": 0.8 - at - 0.1 * seed, "chance": 0.2,
         "chance_low": 0.1, "chance_high": 0.3}
        for name in ("mine", "yours") for seed in (0, 1) for at in (0.1, 0.2)
    ])


def performance() -> pd.DataFrame:
    rows = [("mine", 0.9, 0.8), ("yours", 0.5, 0.4), ("yours", 0.7, 0.6), ("none", np.nan, 0.1)]
    return pd.DataFrame(rows, columns=["condition", "recall", "performance"])


def knockout() -> pd.DataFrame:
    rows = [("none", 0, 0.9), ("mine", 1, 0.6), ("mine", 4, 0.2), ("random", 1, 0.9), ("random", 4, 0.8)]
    return pd.DataFrame(rows, columns=["set", "k", "value"])


def patching() -> pd.DataFrame:
    rows = [("mine", "none", 0.3), ("mine", "all", 0.7), ("mine", "extra", 0.5), ("yours", "none", 0.2),
            ("yours", "all", 0.6), ("mine", "source", 0.8), ("yours", "source", 0.8)]
    return pd.DataFrame(rows, columns=["condition", "set", "value"])


FIGURES: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "head_map": (scores, ("layer", "head", "score")),
    "head_overlap": (overlap, ("condition", "threshold", "value")),
    "recall_against_performance": (performance, ("condition", "recall", "performance")),
    "knockout_curve": (knockout, ("set", "k", "value")),
    "patching_bars": (patching, ("condition", "set", "value")),
}


def labels(ax: plt.Axes) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def test_these_are_the_public_ones():
    assert sorted(FIGURES) == figures.__all__ == dir(figures)
    with pytest.raises(AttributeError, match="no attribute 'plot_map'"):
        figures.plot_map  # noqa: B018


def test_matplotlib_is_imported_by_the_figures_alone():
    code = "import sys, retrieval_heads.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", FIGURES)
def test_a_new_axis_is_made_where_none_is_given(name: str):
    made, _ = FIGURES[name]
    ax = getattr(figures, name)(made())
    assert plt.get_fignums() == [ax.figure.number]
    assert ax.has_data()
    assert ax.get_xlabel()
    assert ax.get_ylabel()


@pytest.mark.parametrize("name", FIGURES)
def test_a_given_axis_is_drawn_on_and_no_other(name: str):
    made, _ = FIGURES[name]
    figure, (left, right) = plt.subplots(1, 2)
    table = made()
    before = table.copy()
    assert getattr(figures, name)(table, ax=right) is right
    assert plt.get_fignums() == [figure.number]
    assert right.has_data()
    assert not left.has_data()
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(("name", "column"), [(name, one) for name, (_, needed) in FIGURES.items() for one in needed])
def test_a_missing_column_is_named(name: str, column: str):
    made, needed = FIGURES[name]
    with pytest.raises(DataError) as caught:
        getattr(figures, name)(made().drop(columns=column))
    assert f"{name}: the table has no column {column} (got [" in str(caught.value)
    assert all(one in caught.value.remedy for one in needed)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_needed_columns_are_in_the_docstring_and_a_table_without_rows_is_refused(name: str):
    made, needed = FIGURES[name]
    function = getattr(figures, name)
    assert all(f"`{column}`" in function.__doc__ for column in needed)
    with pytest.raises(DataError, match=f"{name}: the table has no row"):
        function(made().iloc[:0])
    assert plt.get_fignums() == []


def test_head_map_takes_arrays_and_frames_the_heads_above_the_threshold():
    table = scores()
    ax = figures.head_map(table.score.to_numpy().reshape(3, 4), threshold=0.2, bar=False)
    assert len(ax.patches) == (table.score > 0.2).sum()
    grid = ax.images[0].get_array().reshape(3, 4)
    assert np.allclose(grid[::-1], table.score.to_numpy().reshape(3, 4))  # the first layer is at the bottom
    with pytest.raises(DataError, match=r"head_map: no table of layers by heads \(got 'an array of shape \(3,\)'\)"):
        figures.head_map(np.zeros(3))
    with pytest.raises(DataError, match=r"several rows of one head \(got 'layer 1, head 2'\)"):
        figures.head_map(pd.concat([table, table[(table.layer == 1) & (table["head"] == 2)]]))


def test_head_overlap_averages_runs_and_shows_chance_where_it_is_known():
    ax = figures.head_overlap(overlap(), measure="Jaccard")
    assert labels(ax) == ["mine", "yours"]
    lines = {line.get_label(): line for line in ax.lines}
    assert np.allclose(lines["mine"].get_ydata(), [0.65, 0.55])
    assert lines["mine"].get_color() != lines["yours"].get_color()
    assert len(ax.lines) == 4
    assert len(ax.collections) == 2
    assert ax.get_ylabel() == "Jaccard of heads (fraction)"
    bare = figures.head_overlap(overlap()[["condition", "threshold", "value"]])
    assert (len(bare.lines), len(bare.collections)) == (2, 0)


def test_head_overlap_takes_the_rows_of_one_measure():
    table = pd.concat([overlap().assign(measure="recall"), overlap().assign(measure="precision", value=0.05)])
    ax = figures.head_overlap(table, measure="precision")
    assert np.allclose([line.get_ydata() for line in ax.lines if line.get_label() == "mine"], 0.05)
    with pytest.raises(DataError, match=r"one measure is to be chosen \(got 'cosine'\).*one of recall, precision"):
        figures.head_overlap(table, measure="cosine")


def test_recall_against_performance_has_a_point_for_each_condition_with_both():
    ax = figures.recall_against_performance(performance())
    assert labels(ax) == ["mine", "yours"]
    points = {container.get_label(): container.lines[0].get_xydata()[0] for container in ax.containers}
    assert np.allclose(points["yours"], (0.6, 0.5))
    bars = {c.get_label(): [segment for lines in c.lines[2] for segment in lines.get_segments()] for c in ax.containers}
    assert np.allclose(bars["yours"], [[(0.5, 0.5), (0.7, 0.5)], [(0.6, 0.4), (0.6, 0.6)]])
    renamed = performance().rename(columns={"recall": "cosine", "performance": "f1"}).iloc[:1]
    ax = figures.recall_against_performance(renamed.assign(f1_low=0.7, f1_high=0.85), recall="cosine", performance="f1")
    assert ax.get_ylabel() == "f1 (fraction)"
    assert np.allclose(ax.containers[0].lines[2][1].get_segments()[0], [(0.9, 0.7), (0.9, 0.85)])


def test_knockout_curve_begins_at_the_unaltered_model_and_shows_draws():
    drawn = pd.concat([knockout().assign(draw=0), knockout().iloc[3:].assign(draw=1, value=0.5)], ignore_index=True)
    ax = figures.knockout_curve(drawn.assign(low=0.0, high=1.0))
    assert labels(ax) == ["mine", "random"]
    lines = {c.get_label(): c.lines[0].get_xydata() for c in ax.containers}
    assert np.allclose(lines["mine"], [(0, 0.9), (1, 0.6), (4, 0.2)])
    assert np.allclose(lines["random"], [(0, 0.9), (1, 0.9), (4, 0.8)])
    assert any(np.allclose(line.get_xydata(), [(1, 0.5), (4, 0.5)]) for line in ax.lines if len(line.get_xdata()) == 2)


def test_patching_bars_group_sets_by_condition_beside_the_source():
    ax = figures.patching_bars(patching().assign(low=0.1, high=0.9))
    assert labels(ax) == ["source", "none", "all", "extra"]
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers if hasattr(c, "patches")}
    assert heights["all"] == [0.7, 0.6]
    assert heights["extra"][0] == 0.5
    assert np.isnan(heights["extra"][1])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["mine", "yours"]
    assert {tuple(line.get_ydata()) for line in ax.lines if line.get_label() == "source"} == {(0.8, 0.8)}


@pytest.mark.parametrize("name", ["knockout_curve", "patching_bars"])
def test_of_several_metrics_one_has_to_be_chosen(name: str):
    made, _ = FIGURES[name]
    table = pd.concat([made().assign(metric="f1"), made().assign(metric="nll", value=3.0)])
    with pytest.raises(DataError, match=rf"{name}: one metric is to be chosen \(got None\).*one of f1, nll"):
        getattr(figures, name)(table)
    assert getattr(figures, name)(table, metric="f1").get_ylabel() == "f1"
