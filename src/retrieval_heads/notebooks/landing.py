"""The upper half of the first page, made from tables whenever the book is built.

The report's numbers stand there whatever was run; after a small run a banner says so, and its verdicts stand beside the
report's. Tables of the pretrained study, where they are in `results/pretrained`, get a column of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from retrieval_heads.claims.verdict import ALL
from retrieval_heads.config import load_profile
from retrieval_heads.errors import StudyError
from retrieval_heads.figures import correlation, knockout, prediction, style
from retrieval_heads.figures.paper import PAPER
from retrieval_heads.figures.takeaway import small_run
from retrieval_heads.figures.verdict_table import CLAIMS, badge, effect_text
from retrieval_heads.notebooks.layout import REPORT_PROFILE, Layout
from retrieval_heads.store import load_table
from retrieval_heads.takeaways.landing import NEEDED, advice, answer, claim_sentences

PRETRAINED = "pretrained"
"""The profile of the study on a pretrained model."""

PANELS = {
    "knockout": ("Knock-out", "Exact match as more heads are silenced, models trained on real data (mdqa). Retrieval "
                 "heads carry the answers; random ones do not."),
    "recall": ("Recall and score", "One point for each kind of training data (mdqa): how many of the "
               "real-data heads it has, and how well it does."),
    "regret": ("Choosing a training set", "How much worse the set is that each quantity chooses than the best one; "
               "dashed: at random."),
}
"""Title and caption of each panel."""

_PAGES = {"C1": "02_lora_finetuning", "C2": "03_head_detection", "C3": "06_correlation", "C4": "04_knockout",
          "C5": "05_patching"}
_SHOWN = ("probe_loss", "ngram_overlap", "recall_few", "cosine_few", "training_loss")


def landing(layout: Layout, profiles: Iterable[str]) -> str:
    """The Markdown that the first page includes; its pictures are written beside the chapters.

    Args:
        layout: the checkout.
        profiles: of the chapters, as they are in the book.
    """
    report = load_profile(REPORT_PROFILE)
    tables = {name: load_table(REPORT_PROFILE, name) for name in NEEDED}
    small = sorted({profile for profile in profiles if profile != REPORT_PROFILE})
    parts = [_banner(one) for one in small]
    parts += [" ".join(answer(tables, report.detect.threshold)), _figure(layout.pages, tables, report.detect.threshold)]
    parts += ["## The five claims", _rows(tables, report.detect.threshold, small)]
    parts += ["## Which data should I use?", *(f"{number}. {line}" for number, line in enumerate(
        advice(tables, report.n_train), 1))]
    return "\n\n".join(parts) + "\n"


def paper_rows(claims: Iterable[str] = tuple(CLAIMS)) -> str:
    """The numbers of the paper and of this study side by side, as HTML: one row for each of the five claims."""
    here = _by_claim(REPORT_PROFILE)
    body = "".join(
        f"<tr><td><strong>{claim}</strong> {escape(CLAIMS[claim])}</td><td>{escape(PAPER[claim])}</td>"
        f"<td>{_effect(here[claim])}<br><small>{escape(here[claim].quantity)}</small></td>"
        f"<td>{badge(here[claim].verdict)}</td></tr>" for claim in claims if claim in PAPER)
    return _table(("Claim", "The paper, second hand", "Here", "Verdict here"), body)


def _banner(profile: str) -> str:
    text = re.sub(r"Verdicts are those.*", "The report's verdicts stand below, those of this run beside them.",
                  small_run(load_profile(profile)))
    return f'<div class="takeaway"><p class="small-run"><strong>This book shows a small run.</strong> {text}</p></div>'


def _figure(folder: Path, tables: Mapping[str, pd.DataFrame], threshold: float) -> str:
    """Three panels in a grid: side by side, and one above the other on a phone."""
    style.use_style()
    cards = []
    for name, (title, caption) in PANELS.items():
        figure = Figure(figsize=(2.9, 2.7))
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        _draw(name, tables, threshold, ax)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"landing_{name}.svg", metadata={"Date": None, "Creator": None})
        picture = f"![{title}: {caption}](chapters/landing_{name}.svg)"
        cards.append(f":::{{grid-item}}\n**{title}**\n\n{picture}\n\n{caption}\n:::")
    return "::::{grid} 1 1 3 3\n:gutter: 2\n:class-container: three-panels\n\n" + "\n\n".join(cards) + "\n::::"


def _draw(name: str, tables: Mapping[str, pd.DataFrame], threshold: float, ax: object) -> None:
    if name == "knockout":
        rows = tables["knockout"].query("task == 'mdqa' and mode in ('zero', 'none') and condition == 'real'")
        [(_, rows)] = knockout.knockout_panels(rows, ["real"])
        knockout.plot_knockout(rows, ax=ax)
        ax.set_xlabel("heads knocked out")
        ax.set_ylabel("exact match", fontsize="small")
        short = {"retrieval": "retrieval", "random": "random", "bottom": "lowest scores"}
        handles, _ = ax.get_legend_handles_labels()
        ax.legend(handles, list(short.values())[: len(handles)], fontsize="x-small", loc="lower left")
    elif name == "recall":
        found = correlation.recall_rows(tables["correlation_runs"], threshold).get("mdqa")
        correlation.plot_runs(tables["run_predictors"].query("task == 'mdqa'"), found, ax)
        ax.set(xlabel="recall of the real-data heads", ylabel="exact match")
        entries = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))  # each once
        ax.figure.legend(entries.values(), entries, fontsize="xx-small", loc="outside lower center", ncols=2)
    else:
        rows = tables["choice"]
        rows = rows[(rows.task == ALL) & (rows.candidates == "synthetic") & rows.predictor.isin(_SHOWN)]
        prediction.plot_regret(rows, ax=ax)
        ax.set_xlabel("regret")


def _rows(tables: Mapping[str, pd.DataFrame], threshold: float, small: Iterable[str]) -> str:
    """One row for each claim: the paper, here, the verdicts, one sentence."""
    said = claim_sentences(tables, threshold)
    others = {f"This run ({name})": _by_claim(name) for name in small} | {"Pretrained model": _by_claim(PRETRAINED)}
    others = {name: found for name, found in others.items() if found}
    here, body = _by_claim(REPORT_PROFILE), ""
    for claim, page in _PAGES.items():
        cells = [f'<a href="chapters/{page}.html"><strong>{claim}</strong></a> {escape(CLAIMS[claim])}',
                 escape(PAPER[claim]), f"{_effect(here[claim])}<br>{badge(here[claim].verdict)}"]
        for found in others.values():
            cells.append(f"{_effect(found[claim])}<br>{badge(found[claim].verdict)}" if claim in found else "–")
        cells.append(escape(said[claim]).replace("`", ""))
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    heads = ("Claim", "The paper, second hand", f"Here ({_runs()} runs)", *others, "In one sentence")
    return _table(heads, body)


def _runs() -> int:
    return len(load_table(REPORT_PROFILE, "training"))


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
    return escape(effect_text(row.effect, row.low, row.high, row.unit))


def _table(heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<table class="dataframe verdicts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
