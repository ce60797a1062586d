"""Figures and the table of chapter 10, on the pretrained model; an empty panel says what is not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval_heads import ten_questions
from retrieval_heads.claims.pretrained.loading import LEAST_SEEDS
from retrieval_heads.claims.runs import where
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.figures import explorers
from retrieval_heads.figures.common import points, write_empty
from retrieval_heads.figures.heads import plot_head_map
from retrieval_heads.figures.performance import ROW, plot_performance
from retrieval_heads.figures.style import WIDTH, colour, in_order, marker, panels, words
from retrieval_heads.figures.verdicts import CLAIMS, PAPER, badge, effect_text, labelled_table
from retrieval_heads.heads.select import bottom_heads, select_heads
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.takeaways.pretrained import THETA, copy_scores
from retrieval_heads.wording import with_minus

NOT_YET = "not there yet"
FEW, WHO = "few relations", "who-questions"
"""What `real_limited` is in the small study, and what it came to be here: the most frequent kind of question."""
CONTROLS = {"retrieval": ("strongest heads", "#d55e00", "o"), "random_layer": ("random, same layers", "#0173b2", "s"),
            "random_group": ("random, as many groups", "#029e73", "^"), "random_zero": ("score 0", "#777777", "v"),
            "all": ("all heads", "#000000", "D")}
"""Name, colour and marker of each set of heads."""


def performance_figure(tables: Mapping[str, pd.DataFrame], profile: Profile) -> Figure:
    """F1 by training set, each planned one with a row; those without runs stay empty."""
    order = in_order([THETA, *profile.conditions])
    figure, [ax] = panels([f"{profile.tasks[0]}, {profile.train_length:,} tokens"], columns=1,
                          height=1.2 + ROW * len(order), width=7.2)
    if "performance" not in tables:
        write_empty(ax, NOT_YET)
        return figure
    rows = pd.concat([tables[name] for name in ("base", "performance") if name in tables], ignore_index=True)
    rows = rows[(rows.eval_length == profile.train_length) & (rows.task == profile.tasks[0])]
    rows = rows[rows.condition.isin(order)]
    plot_performance(rows.assign(seed=rows.seed.fillna(0)), "f1", ax, order)
    ax.set_yticks(ax.get_yticks(), [label.get_text().replace(FEW, WHO) for label in ax.get_yticklabels()])
    ax.set_xlim(-0.01, 1.3 * rows[rows.metric == "f1"].high.max())
    return figure


def maps_figure(tables: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Maps of the mean copy score of all heads: without training, after `real` and after `low_low`."""
    if "head_scores" not in tables:
        figure, [ax] = panels(["heads"], columns=1)
        write_empty(ax, NOT_YET)
        return figure
    table = copy_scores(tables["head_scores"])
    shown = [name for name in ("base", THETA, "real", "low_low") if name in set(table.condition)]
    means = table.groupby(["condition", "layer", "head"], as_index=False).score.mean()
    darkest = means[means.condition.isin(shown)].score.max()
    titles = [words(name).replace(", ", ",\n") for name in shown]  # four in a row have no room for long ones
    figure, axes = panels(titles, columns=4, height=4.2)
    for name, ax in zip(shown, axes, strict=True):
        plot_head_map(means[means.condition == name], threshold, ax=ax, bar=False, darkest=darkest)
        ax.label_outer()
    figure.colorbar(axes[0].images[0], ax=axes, label=f"copy score (fraction; darkest: {darkest:.2f}, the largest)",
                    shrink=0.6, aspect=30)
    return figure


def explorer_html(tables: Mapping[str, pd.DataFrame], profile: Profile) -> str:
    """The map of heads to play with, or what is not there yet, as HTML."""
    if "head_scores" not in tables:
        return f"<p>Scores of heads are {NOT_YET}.</p>"
    table = copy_scores(tables["head_scores"])
    darkest = table.groupby(["task", "condition", "layer", "head"]).score.mean().max()
    return explorers.explorer_html(table, profile.detect.threshold, profile.tasks, darkest, (
        "The same maps to play with: the copy score of every head by training data, mean over seeds. Move the "
        f"threshold, and point at a head to read its score. The darkest shade stands for {darkest:.2f}, the largest."))


def recall_figure(tables: Mapping[str, pd.DataFrame], profile: Profile) -> Figure:
    """A named point for each training set: recall of the real runs' heads against F1; hollow with few seeds.

    Bars reach from the lowest to the highest seed.
    """
    figure, [ax] = panels(["recall and performance"], columns=1, height=4.4, width=WIDTH)
    rows = tables.get("set_points", pd.DataFrame(columns=["recall"])).dropna(subset=["recall"])
    if rows.empty:
        write_empty(ax, NOT_YET)
        return figure
    runs = where(tables["performance"], metric="f1", eval_length=profile.train_length)
    ends = runs.groupby("condition").value.agg(["min", "max"])
    width, height = rows.recall.max() - rows.recall.min(), rows.f1.max() - rows.f1.min()
    for row in rows.itertuples():
        shade = colour(row.condition)
        ax.vlines(row.recall, *ends.loc[row.condition], color=shade, linewidth=1, alpha=0.6)
        ax.plot(row.recall, row.f1, marker(row.condition), color=shade,
                markerfacecolor=shade if row.n_seeds >= LEAST_SEEDS else "white")
        # names stand on the left where there is more room, but not on a point of the same height
        beside = (rows[(rows.f1 - row.f1).abs() < 0.03 * height].recall - row.recall) / width
        left = beside[beside > 0].min() < 0.5 if (beside > 0).any() else (
            not (beside < 0).any() and row.recall > rows.recall.min() + 0.6 * width)
        ax.annotate(words(row.condition).replace(FEW, WHO), (row.recall, row.f1), (-7 if left else 7, 0),
                    textcoords="offset points", ha="right" if left else "left", va="center", fontsize="x-small")
    ax.margins(0.06)
    ax.set(xlabel=f"strength-weighted recall (fraction), {len(rows)} training sets", ylabel="token F1 (fraction)")
    return figure


def effects_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of the gain from context that a knock-out takes, and share of the gap that patching closes, over k."""
    figure, axes = panels(["Knock-out, runs on real data", "Patching, synthetic sets"], columns=2, height=3.2)
    _plot_effects(tables, "knockout", "real", "share_lost", "share of the gain lost (fraction)", axes[0])
    _plot_effects(tables, "patching", ALL, "share_closed", "share of the gap closed (fraction)", axes[1])
    return figure


def _plot_effects(
    tables: Mapping[str, pd.DataFrame], intervention: str, condition: str, effect: str, label: str, ax: Axes,
) -> None:
    rows = tables.get("loss_effects", pd.DataFrame(columns=["intervention", "condition", "effect", "value"]))
    rows = where(rows, intervention=intervention, condition=condition, effect=effect).dropna(subset=["value"])
    if rows.empty:
        write_empty(ax, NOT_YET)
        return
    for control, own in rows.groupby("control"):
        name, tone, form = CONTROLS.get(control, (control, "#555555", "."))
        own = own.sort_values("k")
        points(ax, own.k, own, fmt=f"{form}-", color=tone, label=name, markersize=4, capsize=2)
    ax.axhline(0, color="#333333", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xticks(sorted(rows.k.unique()), [f"{k:.0f}" for k in sorted(rows.k.unique())])
    ax.minorticks_off()
    ax.set(xlabel="heads (number)", ylabel=label)
    ax.legend(fontsize="x-small")


def question_html() -> str:
    """The text of a short real question coloured by the attention of heads, for two adapters."""
    read = ten_questions.attention()
    models = {words(run): (read["runs"][run], ten_questions.scores(run)) for run in ten_questions.COMPARED}
    scores = ten_questions.scores(REFERENCE)
    heads = select_heads(scores, k=4) + bottom_heads(scores, 2)
    return explorers.text_html(models, read["tokens"], read["needle"], read["answer"], heads)


def origin_line() -> str:
    """Where the numbers of the ten questions come from, as Markdown."""
    if ten_questions.at_hand():
        return "Computed on this machine, with the model in `models/smollm2`."
    return ("From the tables in `examples/pretrained`. To compute it here, get the model: "
            "`python -m retrieval_heads fetch smollm2 --to models`.")


def three_studies_html(report: pd.DataFrame, pretrained: pd.DataFrame) -> str:
    """One row a claim: the paper's numbers (second hand), the small models' verdict, the pretrained model's, and why.

    Args:
        report, pretrained: the tables `verdicts`; an empty one has dashes.
    """
    small, large = ({row.claim: row for row in rows.itertuples() if row.task == ALL} for rows in (report, pretrained))
    counts = {row.claim: with_minus(row.detail.replace("`", "")) for row in pretrained.itertuples() if row.task != ALL}
    body = []
    for claim, said in PAPER.items():
        found = (f"{badge(row.verdict)}<br><small>{escape(effect_text(row))}</small>" if row else "–"
                 for row in (small.get(claim), large.get(claim)))
        why = f"<details><summary>the counts</summary>{escape(counts[claim])}</details>" if counts.get(claim) else "–"
        body.append((f"<strong>{claim}</strong> {escape(CLAIMS[claim])}", escape(said), *found, why))
    return labelled_table(
        ("Claim", "The paper, second hand", "Small models", "Pretrained model", "What decided"), body)
