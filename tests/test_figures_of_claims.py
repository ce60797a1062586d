"""Figures and tables of the claims: what they draw of made-up tidy tables, with many runs and with next to none."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from drawing import drawn

from retrieval_heads.claims.patching import judge_patching
from retrieval_heads.claims.verdict import VERDICTS, Verdict
from retrieval_heads.config import load_profile
from retrieval_heads.figures.correlation import (
    CHOSEN,
    NAMED,
    NOTHING,
    OTHERS,
    has_claims,
    overlap_figure,
    plot_over_thresholds,
    plot_runs,
    recall_rows,
    thresholds_table,
)
from retrieval_heads.figures.heads import subsets_figure, thresholds_figure
from retrieval_heads.figures.patching import (
    against_table,
    closed_figure,
    equal_table,
    patching_figure,
    patching_html,
    plot_gains,
)
from retrieval_heads.figures.style import words
from retrieval_heads.figures.verdicts import (
    AGAINST,
    CLAIMS,
    badge,
    errors_table,
    list_height,
    plot_predictors,
    plot_regret,
    task_verdicts_html,
    verdict_text,
    verdicts_html,
)

NAN = float("nan")


def verdicts_of(claims=("C1", "Q4"), tasks=("all", "mdqa")) -> pd.DataFrame:
    return pd.DataFrame([
        {"claim": claim, "task": task, "verdict": "not supported", "quantity": "an <area>", "effect": -0.001,
         "low": -0.2, "high": 0.1, "unit": "fraction", "n": 1, "n_of": "tasks", "rule": "A rule.", "detail": "1 & 2.",
         "chapter": "02_lora_finetuning", "table": "shortfall"}
        for claim in claims for task in tasks
    ])


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def said(ax) -> str:
    return " ".join(text.get_text() for text in ax.texts)


def test_every_claim_says_what_counts_against_it():
    assert set(AGAINST) == set(CLAIMS)


def test_claims_stand_before_questions_and_text_is_escaped():
    html = verdicts_html(verdicts_of(("Q4", "C1")))
    assert html.index("C1") < html.index("Further questions") < html.index("Q4")
    assert "an &lt;area&gt;; n = 1 task<" in html
    assert "0.00 [−0.20, 0.10]<br>" in html
    assert "Further questions" not in verdicts_html(verdicts_of(("C1",)))


def test_tasks_have_their_own_verdicts():
    html = task_verdicts_html(verdicts_of(("C1",)), ["mdqa", "summhay"])
    assert html.count('class="verdict not-supported"') == 1
    assert "<td>–</td>" in html
    assert "1 &amp; 2." in html
    assert "No claim" in task_verdicts_html(verdicts_of(("C3",), ("all",)), ["mdqa"])


def test_every_verdict_has_a_colour_in_the_style_sheet(request):
    css = (request.config.rootpath / "book/_static/book.css").read_text()
    for verdict in VERDICTS[:3]:
        name = verdict.replace(" ", "-")
        assert f".verdict.{name} {{" in css
        assert f'class="verdict {name}"' in badge(verdict)


def correlations() -> pd.DataFrame:
    return pd.DataFrame({
        "predictor": ["recall", "probe_loss", "n_heads"], "estimate": [0.5, -0.9, 0.1], "low": [0.1, -1, NAN],
        "high": [0.8, -0.6, NAN], "n_conditions": [14, 14, 5],
    })


def test_predictors_are_in_order_of_strength_and_losses_are_marked():
    ax = drawn(plot_predictors, correlations())
    assert labels(ax) == ["number of heads", "recall of heads", "loss on the probe examples (low is good)"]
    assert "n = 5 to 14 conditions" in ax.get_xlabel()
    assert len(ax.get_legend_handles_labels()[1]) == 3


def test_errors_are_in_order():
    errors = pd.DataFrame({
        "predictor": ["recall", "training_loss"], "error": [0.05, 0.02], "error_low": [0.03, 0.01],
        "error_high": [0.07, 0.03], "reference_error": [0.06, 0.06], "gain": [0.01, 0.04], "gain_low": [-0.01, 0.02],
        "gain_high": [0.03, 0.06], "n_conditions": [14, 14], "finding": ["not shown to be better", "better"],
    })
    assert list(errors_table(errors)["finding"]) == ["better", "not shown to be better"]


def test_nothing_to_draw_is_said():
    empty = correlations().assign(estimate=NAN)
    assert "no rank correlation" in said(drawn(plot_predictors, empty))
    assert list_height(empty, "estimate") < list_height(correlations(), "estimate")
    nothing = {name: [np.nan] for name in ("regret", "regret_low", "regret_high")}
    choice = pd.DataFrame({"predictor": ["recall"], **nothing})
    assert "no choice" in said(drawn(plot_regret, choice))


MANY = ("real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")


def patching_of(conditions=MANY, seeds=(1, 2, 3), gap=0.6) -> pd.DataFrame:
    """Runs in which the intersection closes half of the gap, all heads the whole of it, and random heads nothing."""
    gains = {"none": 0.0, "random": 0.0, "intersection": gap / 2, "complement": 0.0, "all": gap, "source": gap}
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "seed": seed, "base": base, "set": name, "draw": 0,
         "metric": "forced_exact_match", "n_heads": {"intersection": 5, "random": 5, "all": 192}.get(name, 0),
         "value": 0.3 + gain, "low": 0.2, "high": 0.9, "n": 24, "moved": 0.0, "change": gain, "change_low": gain - 0.1,
         "change_high": gain + 0.1, "reason": None,
         **{f"closed{end}": NAN if name in ("none", "source") or not gap else gain / gap
            for end in ("", "_low", "_high")},
         **{f"over_random{end}": gap / 2 if name == "intersection" else NAN for end in ("", "_low", "_high")}}
        for condition in conditions for seed in seeds for base in ("a", "b") for name, gain in gains.items()
    ])


def judged_of(patching: pd.DataFrame):
    return judge_patching(patching, n_resamples=50)


def test_many_conditions_are_compared_over_all_of_them():
    patching = patching_of()
    judged = judged_of(patching)
    shares = judged.tables["sufficiency"]
    ax = drawn(plot_gains, shares)
    means = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert sorted(means) == pytest.approx([0, 0, 0.3, 0.6])
    assert "n = 30 runs" in ax.get_xlabel()
    assert patching_figure(patching, shares, ["mdqa"]).axes[0].get_ylabel() == ""
    few = patching[patching.condition.isin(MANY[:2])]
    assert "exact match" in patching_figure(few, shares, ["mdqa"]).axes[0].get_ylabel()
    assert "Not decided: 5 synthetic conditions are there" in verdict_text(judged.verdicts)


def test_share_of_the_gap_has_a_row_for_each_condition_with_one():
    shares = judged_of(patching_of())
    ax = closed_figure(shares.tables["sufficiency"], ["mdqa"]).axes[0]
    assert set(labels(ax)) == set(map(words, MANY))
    assert said(ax).split() == ["6"] * 6
    height = closed_figure(shares.tables["sufficiency"], ["mdqa"]).get_figheight()
    assert height <= 7
    html = patching_html(patching_of(seeds=range(1, 9)), shares.tables["sufficiency"])
    assert html.count("<tr") == len(MANY) + 2


def test_runs_without_a_gap_have_no_share():
    judged = judged_of(patching_of(gap=0.0))
    shares = judged.tables["sufficiency"]
    assert "no run has a gap" in said(drawn(plot_gains, shares))
    assert "no run has a gap" in said(closed_figure(shares, ["mdqa"]).axes[0])
    assert patching_html(patching_of(seeds=range(1, 9), gap=0.0), shares) == "<p>No run has a gap.</p>"
    assert equal_table(judged.tables["sufficiency_equal"]).empty
    assert against_table(judged.tables["sufficiency_against"]).empty
    assert "not decided" in verdict_text(judged.verdicts)
    assert verdict_text(()) == "There are no runs to decide it."


def subsets_of(n_real=20.0, precision=0.9) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": "mdqa", "condition": condition, "heads": heads, "threshold": threshold,
         "precision": precision if heads == "all" else NAN, "low": NAN, "high": NAN, "chance_high": 0.4,
         "ceiling": 0.95, "n_heads": n_real if heads == "all" else 0.0}
        for condition in ("real", *MANY) for heads in ("all", "gained") for threshold in (0.05, 0.1)
    ])


def test_precision_stands_beside_chance_ceiling_and_numbers_of_heads():
    ax = subsets_figure(subsets_of(), 0.1, ["mdqa"]).axes[0]
    assert set(labels(ax)) == set(map(words, MANY))
    assert [text.get_text() for text in ax.texts] == ["20, 0.0"] * len(MANY)
    assert "real beside real, all heads" in ax.get_legend_handles_labels()[1]
    assert "real beside real, gained heads" not in ax.get_legend_handles_labels()[1]
    assert subsets_figure(subsets_of(), 0.1, ["mdqa", "musique"]).get_figheight() <= 7


def test_precision_over_thresholds_is_a_mean_of_the_synthetic_conditions():
    rows = subsets_of()
    rows.loc[(rows.condition == "real_limited") & (rows.heads == "all"), "precision"] = 0.1
    ax = thresholds_figure(rows, 0.1, ["mdqa"]).axes[0]
    line = next(line for line in ax.lines if line.get_label() == "all heads")
    assert list(line.get_ydata()) == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize(("rows", "why"), [
    (subsets_of(n_real=0.5), "less than"), (subsets_of(precision=NAN), "several seeds"), (subsets_of()[:0], "several"),
])
def test_subsets_of_nothing_say_why(rows, why):
    assert why in said(subsets_figure(rows, 0.1, ["mdqa"]).axes[0])
    assert why in said(thresholds_figure(rows, 0.1, ["mdqa"]).axes[0])


def test_points_of_runs_leave_out_real_and_controls():
    runs = pd.DataFrame([
        {"task": "mdqa", "condition": condition, "recall": 0.1 * seed, "performance": 0.5}
        for condition in ("real", "real_short", *MANY) for seed in (1, 3)
    ])
    table = pd.DataFrame({
        "predictor": "recall", "method": "spearman", "base": "all", "conditions": "all", "threshold": [0.1, 0.2, 0.1],
        "given": "nothing", "task": ["mdqa", "mdqa", "all"], "estimate": [0.5, NAN, 0.4], "low": [0.1, NAN, 0.1],
        "high": [0.9, NAN, 0.6], "p": [0.01, NAN, 0.02], "n_conditions": 6, "n_runs": 12,
    })
    ax = drawn(plot_runs, runs, recall_rows(table, 0.1)["mdqa"])
    named = {words(name) for name in MANY if name in NAMED}
    assert set(ax.get_legend_handles_labels()[1]) == named | {OTHERS}
    assert said(ax) == "Spearman 0.50 [0.10, 0.90],\np = 0.010; 6 conditions, 12 runs"
    small = recall_rows(table.assign(p=1e-4), 0.1)["mdqa"]
    assert "p < 0.001" in said(drawn(plot_runs, runs, small)), "a p-value is never nought"
    assert "no run beside" in said(drawn(plot_runs, runs.assign(recall=NAN), None))
    wide = thresholds_table(table).fillna("–")
    assert list(wide) == ["threshold", "mdqa", "tasks with heads"]
    assert list(wide["tasks with heads"]) == ["0.40 [0.10, 0.60]", "–"]


def test_recall_over_thresholds_shows_each_base_model_and_says_when_there_is_nothing():
    rows = pd.DataFrame([
        {"predictor": "recall", "method": "spearman", "conditions": "all", "task": "all", "base": base, "p": 0.1,
         "threshold": at, "estimate": 0.5, "low": 0.1, "high": 0.8, "given": "nothing"}
        for base, at in (("all", 0.05), ("all", 0.1), ("a", 0.1), ("b", 0.1))
    ])
    ax = drawn(plot_over_thresholds, rows, 0.1)
    assert ax.get_legend_handles_labels()[1] == ["all base models", "a", "b"]
    assert list(ax.containers[0].lines[0].get_xdata()) == [0.05, 0.1]
    assert "no rank correlation" in said(drawn(plot_over_thresholds, NOTHING, 0.1))


def test_many_conditions_have_lines_for_some():
    rows = pd.DataFrame([
        {"task": task, "condition": condition, "seed": 1, "base": "a", "threshold": threshold, "measure": measure,
         "value": 0.8, "layer_chance": 0.3, "layer_chance_low": 0.1, "layer_chance_high": 0.5, "n_reference": 18}
        for task in ("mdqa", "musique", "summhay") for condition in (*CHOSEN, "mid_mid") for threshold in (0.05, 0.1)
        for measure in ("recall", "precision")
    ])
    figure = overlap_figure(rows, 0.1, ["mdqa", "musique", "summhay"])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(map(words, CHOSEN))
    assert figure.get_figheight() <= 7
    few = overlap_figure(rows[rows.condition.isin(["mid_mid"])], 0.1, ["mdqa"])
    assert [text.get_text() for text in few.legends[0].get_texts()] == [words("mid_mid")]


def test_one_seed_has_no_claims_to_read():
    assert not has_claims(load_profile("smoke"))
    whole = [Verdict(**row) for row in verdicts_of(("C1",)).to_dict("records")]
    assert "C1 is **not supported**: an <area> 0.00 [−0.20, 0.10] (n = " in verdict_text(whole)
