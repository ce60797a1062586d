"""The upper half of the first page, made from tables whenever the book is built: the answer, the claims, what to use.

The report's numbers stand there whatever was run; after a small run a banner says so, and its verdicts stand beside the
report's. Tables of the pretrained study, where they are in `results/pretrained`, get a column of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from retrieval_heads.claims.pretrained import DERIVED
from retrieval_heads.claims.verdict import ALL
from retrieval_heads.config import load_profile
from retrieval_heads.errors import StudyError
from retrieval_heads.figures import correlation, knockout, style
from retrieval_heads.figures.interval_tables import with_interval
from retrieval_heads.figures.page import small_run
from retrieval_heads.figures.verdicts import CLAIMS, PAPER, badge, effect_text, labelled_table, plot_regret
from retrieval_heads.store import load_table
from retrieval_heads.takeaways import pretrained as second_study
from retrieval_heads.takeaways.heads import PREDICTORS, of_synthetic_heads, patching_takeaway, synthetic_choice
from retrieval_heads.takeaways.synthetic import KINDS, short_of_real
from retrieval_heads.wording import listed, with_minus
from tools.book.layout import REPORT_PROFILE, Layout

Tables = Mapping[str, pd.DataFrame]
NEEDED = ("verdicts", "necessity", "mean_shortfall", "shortfall", "subsets", "sufficiency", "choice", "axis_effects",
          "size_effects", "correlation_runs", "run_predictors", "knockout")
"""The tables of the report that the page is made from."""

PANELS = {
    "knockout": ("Knock-out", "Exact match as more heads are silenced, models trained on real data (mdqa). Retrieval "
                 "heads carry the answers; random ones do not."),
    "recall": ("Recall and score", "One point for each kind of training data (mdqa; needles / haystack): "
               "how many of the real-data heads it has, and how well it does."),
    "regret": ("Choosing a training set", "How much worse the set is that each quantity chooses than the best one; "
               "dashed: at random."),
}
"""Title and caption of each panel."""

_PAGES = {"C1": "02_lora_finetuning", "C2": "03_head_detection", "C3": "06_correlation", "C4": "04_knockout",
          "C5": "05_patching"}
_CHOICES = ("probe_loss", "ngram_overlap", "recall_few", "cosine_few", "training_loss")


def landing(layout: Layout, profiles: Iterable[str]) -> str:
    """The Markdown that the first page includes; its pictures are written beside the chapters, of these profiles."""
    report = load_profile(REPORT_PROFILE)
    tables, at = {name: load_table(REPORT_PROFILE, name) for name in NEEDED}, report.detect.threshold
    small = sorted({profile for profile in profiles if profile != REPORT_PROFILE})
    pretrained = second_study.present(load_profile("pretrained"), (*DERIVED, "verdicts"))
    lines = [*advice(tables, report.n_train), *pretrained_advice(pretrained)]
    use = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    parts = [*map(_banner, small), " ".join(answer(tables, at)), pretrained_answer(pretrained),
             _figure(layout.pages, tables, at),
             "## The five claims", _rows(tables, at, small), "## Which data should I use?", *use]
    return "\n\n".join(parts) + "\n"


def answer(tables: Tables, threshold: float) -> list[str]:
    """What was found, in three sentences as Markdown."""
    necessary, short = _first(tables["necessity"], condition=ALL), _first(tables["mean_shortfall"])
    same, runs = _shared(tables, threshold), tables["run_predictors"]
    base = runs[runs.task.isin(same.task)].base_overlap.mean()
    closed = tables["sufficiency"].query("task == 'all' and condition == 'all'").set_index("set").closed
    regret = _regret(tables["choice"])
    better = "better" if regret["probe_loss"] < regret["recall_few"] else "no better"
    return [
        f"**Retrieval heads carry the answers.** Without them the models lose {necessary.share_retrieval:.0%} of their "
        f"right answers; without as many random heads of the same layers, {necessary.share_random:.0%}.",
        "**They are only a part of why synthetic data do worse** "
        f"(by {short.value:.2f} on average, of a score up to 1): {same.precision.mean():.0%} of the heads that "
        f"retrieve after synthetic training do so after real training, too, and {base:.0%} of the base model's heads "
        "are still among them. Patching the shared heads in from a real-data model closes "
        f"{closed['intersection']:.0%} of the gap where there is one, so what heads read differs more than "
        "which heads they are.",
        f"**To choose training data, the loss on a few dozen real examples works {better}** than heads: the chosen set "
        f"is {regret['probe_loss']:.3f} worse than the best one, by heads {regret['recall_few']:.3f}, at random "
        f"{regret['random']:.3f}.",
    ]


def pretrained_answer(tables: Tables) -> str:
    """What the second study says of the five claims, of knocked-out heads and of patched ones, as Markdown."""
    effects = [text for text in (short_of_real(tables), second_study.recall(tables),
                                 second_study.knockout(tables), second_study.patching(tables))
               if second_study.NOT_YET not in text]
    found = second_study.verdicts(tables).replace("On the pretrained model", "**On a pretrained model**")
    return with_minus(" ".join([found, *effects]) + " {doc}`More in chapter 10 <chapters/10_pretrained>`.")


def pretrained_advice(tables: Tables) -> list[str]:
    """How far synthetic sets fall short of real data on the pretrained model, as Markdown; empty without its tables."""
    if "contrasts" not in tables:
        return []
    rows = tables["contrasts"].query("outcome == 'f1'").set_index("condition")
    rows = rows.loc[[name for name in KINDS if name in rows.index and name != "symbolic"]]
    # an interval that holds 0 shows no shortfall, whatever its middle is
    shown, unknown = ([(KINDS[row.Index], with_interval(row.value, row.low, row.high))
                       for row in rows.itertuples() if (row.low > 0) == wanted] for wanted in (True, False))
    lower = listed([f"{value} after {kind}" for kind, value in shown])
    said = [f"F1 is lower than after real data by {lower}"] if shown else []
    said += [f"after {kind}, no shortfall is shown ({value})" for kind, value in unknown]
    return [f"**On the pretrained model**, {'; '.join(said)}."] if said else []


def claim_sentences(tables: Tables, threshold: float) -> dict[str, str]:
    """One sentence for each of the five claims."""
    recall = correlation.recall_over_conditions(tables["correlation_runs"])
    over = recall[(recall.task == ALL) & recall.estimate.notna()].groupby("threshold").estimate.first()
    same, necessary = _shared(tables, threshold), _first(tables["necessity"], condition=ALL)
    by_task = tables["mean_shortfall"].query("task != 'all'")
    short = listed([f"{row.value:.2f} on {row.task}" for row in by_task.itertuples()])
    return {
        "C1": f"Synthetic sets score lower by {short}.",
        "C2": f"{same.precision.mean():.0%} of the heads after synthetic training are heads of a real run, too; random "
              f"sets of the same layers reach {same.chance_high.mean():.0%} or less.",
        "C3": f"The correlation depends on the threshold: {over.min():.2f} to {over.max():.2f}.",
        "C4": f"All retrieval heads take {necessary.share_retrieval:.0%} of the right answers with them, as many "
              f"random ones {necessary.share_random:.0%}; the ten strongest alone {necessary.ten_retrieval:.0%}.",
        "C5": patching_takeaway(tables["sufficiency"])[0],
    }


def advice(tables: Tables, n_train: int) -> list[str]:
    """Which data to use, in three sentences as Markdown; `n_train` is the study's number of training examples."""
    sizes = tables["size_effects"].pivot(index=["task", "condition"], columns="scale", values="value").dropna()
    few, many = sizes.columns.min(), sizes.columns.max()
    task = sizes.index[0][0]
    real, high, low = (sizes.loc[task, name] for name in ("real", "high_high", "low_low"))
    axes = tables["axis_effects"]
    cost = axes[(axes.task == task) & (axes.scale == "difference")].set_index("effect").value
    regret = _regret(tables["choice"])
    order = sorted((name for name in ("ngram_overlap", "probe_loss", "recall_few") if name in regret), key=regret.get)
    filler = (" Repeated filler costs most: a haystack of the least instead of the most real kind "
              f"{cost['context']:.2f}, a needle {cost['concept']:.2f}."
              if {"concept", "context"} <= set(cost.index) and cost["context"] > cost["concept"] else "")
    return [
        f"**Real examples first, even few.** On {task}, {few * n_train:.0f} real examples give {real[few]:.2f}, "
        f"{n_train} realistic synthetic ones {high[1.0]:.2f} and {n_train} real ones {real[1.0]:.2f}.",
        f"**Do not add more of a poor set.** {few * n_train:.0f} examples of `low_low` give {low[few]:.2f}, "
        f"{many * n_train:.0f} give {low[many]:.2f}.{filler}",
        "**Between synthetic sets, measure.** How much worse than the best set the chosen one is: " + listed(
            [f"{regret[name]:.3f} by {PREDICTORS[name]}" for name in order])
        + f", {regret['random']:.3f} at random.",
    ]


def _first(table: pd.DataFrame, **values: str) -> pd.Series:
    """The row over all tasks that has these values."""
    rows = table[table.task == ALL]
    return rows[(rows[list(values)] == pd.Series(values)).all(axis=1)].iloc[0]


def _shared(tables: Tables, threshold: float) -> pd.DataFrame:
    return of_synthetic_heads(tables["subsets"], threshold).query("heads == 'all'")


def _regret(choice: pd.DataFrame) -> dict[str, float]:
    """By predictor, over all tasks and synthetic candidates; `random` of a random choice."""
    rows = synthetic_choice(choice)
    return rows.set_index("predictor").regret.to_dict() | {"random": float(rows.random_regret.iloc[0])}


def paper_rows() -> str:
    """The numbers of the paper and of this study side by side, as HTML: one row for each of the five claims."""
    here, rows = _by_claim(REPORT_PROFILE), []
    for claim, said in PAPER.items():
        row = here[claim]
        rows.append((f"<strong>{claim}</strong> {escape(CLAIMS[claim])}", escape(said),
                     f"{_effect(row)}<br><small>{escape(row.quantity)}</small>", badge(row.verdict)))
    return labelled_table(("Claim", "The paper, second hand", "Here", "Verdict here"), rows)


def _banner(profile: str) -> str:
    text = re.sub(r"Verdicts are those.*", "The report's verdicts stand below, those of this run beside them.",
                  small_run(load_profile(profile)))
    return f'<div class="takeaway"><p class="small-run"><strong>This book shows a small run.</strong> {text}</p></div>'


def _figure(folder: Path, tables: Tables, threshold: float) -> str:
    """Three panels in a grid: side by side, and one above the other on a phone."""
    style.use_style()
    folder.mkdir(parents=True, exist_ok=True)
    cards = []
    for name, (title, caption) in PANELS.items():
        figure = Figure(figsize=(2.4, 2.8))
        FigureCanvasSVG(figure)
        _draw(name, tables, threshold, figure.subplots())
        figure.savefig(folder / f"landing_{name}.svg", metadata={"Date": None, "Creator": None})
        picture = f"![{title}: {caption}](chapters/landing_{name}.svg)"
        cards.append(f":::{{grid-item}}\n**{title}**\n\n{picture}\n\n{caption}\n:::")
    return "::::{grid} 1 1 3 3\n:gutter: 2\n:class-container: three-panels\n\n" + "\n\n".join(cards) + "\n::::"


def _draw(name: str, tables: Tables, threshold: float, ax: Axes) -> None:
    if name == "knockout":
        rows = tables["knockout"].query("task == 'mdqa' and mode in ('zero', 'none') and condition == 'real'")
        [(_, rows)] = knockout.knockout_panels(rows, ["real"])
        knockout.plot_knockout(rows, ax=ax)
        ax.set_xlabel("heads knocked out")
        ax.set_ylabel("exact match", fontsize="small")
        handles, _ = ax.get_legend_handles_labels()
        ax.legend(handles, ["retrieval", "random", "lowest scores"][: len(handles)], fontsize="x-small",
                  loc="lower left")
    elif name == "recall":
        found = correlation.recall_rows(tables["correlation_runs"], threshold).get("mdqa")
        correlation.plot_runs(tables["run_predictors"].query("task == 'mdqa'"), found, ax)
        ax.set(title="", xlabel="recall of the real-data heads", ylabel="exact match")
        entries = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))  # each once
        names = [name.replace(" needles, ", " / ").replace(" haystack", "") for name in entries]
        ax.figure.legend(entries.values(), names, fontsize="x-small", loc="outside lower center", ncols=2,
                         columnspacing=0.8, handletextpad=0.2)
    else:
        rows = synthetic_choice(tables["choice"])
        plot_regret(rows[rows.predictor.isin(_CHOICES)], ax=ax)
        ax.set_xlabel("regret")
        ax.set_yticks(ax.get_yticks(), [fill(label.get_text(), 16) for label in ax.get_yticklabels()])


def _rows(tables: Tables, threshold: float, small: Iterable[str]) -> str:
    """One row for each claim: the paper, here, the verdicts, one sentence."""
    said, here, rows = claim_sentences(tables, threshold), _by_claim(REPORT_PROFILE), []
    others = {f"This run ({name})": _by_claim(name) for name in small} | {"Pretrained model": _by_claim("pretrained")}
    others = {name: found for name, found in others.items() if found}
    for claim, page in _PAGES.items():
        cells = [f'<a href="chapters/{page}.html"><strong>{claim}</strong></a> {escape(CLAIMS[claim])}',
                 escape(PAPER[claim])]
        for found in (here, *others.values()):
            cells.append(_found(found[claim]) if claim in found else "–")
        rows.append([*cells, escape(said[claim]).replace("`", "")])
    runs = len(load_table(REPORT_PROFILE, "training"))
    return labelled_table(("Claim", "The paper, second hand", f"Here ({runs} runs)", *others, "In one sentence"), rows)


def _found(row: pd.Series) -> str:
    """The verdict, below the effect where there is one."""
    return badge(row.verdict) if pd.isna(row.effect) else f"{_effect(row)}<br>{badge(row.verdict)}"


def _by_claim(profile: str) -> dict[str, pd.Series]:
    """The verdicts of a profile over all tasks, by claim; of a study of one task, those of that task; empty without."""
    try:
        rows = load_table(profile, "verdicts")
    except (StudyError, OSError):
        return {}
    found: dict[str, pd.Series] = {}
    for _, row in rows.iterrows():
        if row.task == ALL or row.claim not in found:
            found[row.claim] = row
    return found


def _effect(row: pd.Series) -> str:
    return escape(effect_text(row))
