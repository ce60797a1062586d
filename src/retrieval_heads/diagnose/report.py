"""The report: one HTML file that needs no other, readable on a phone and in the dark.

All that comes from data is escaped: a prompt that contains HTML is shown, not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from retrieval_heads.diagnose import limits, sentences
from retrieval_heads.diagnose.charts import Chart
from retrieval_heads.diagnose.compare import Result
from retrieval_heads.diagnose.told import NO_WIDTH
from retrieval_heads.diagnose.verdict import performance, verdict
from retrieval_heads.figures.style import metric_label
from retrieval_heads.settings import UNTUNED

SHOWN = 3
"""Test examples whose answers are shown."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #fdfdfc; --soft: #f0efec; --line: #cfcdc8; --note: #8a4b00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --page: #17181a; --soft: #24262a; --line: #43464c; --note: #ffb961 } }
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto;
  padding: 1rem; max-width: 48rem; overflow-wrap: break-word }
h1 { line-height: 1.2 } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) } h3 { margin-bottom: .3rem }
figure { margin: 1rem 0 } figcaption, .small { font-size: .88rem; opacity: .85 }
img { width: 100%; height: auto; background: white; border-radius: 6px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
section.set { background: var(--soft); border-radius: 6px; padding: .1rem 1rem; margin: 1rem 0 }
.warnings li { margin: .4rem 0 } .warnings { border-left: 4px solid var(--note); padding: .1rem 0 .1rem .5rem }
pre { white-space: pre-wrap; background: var(--soft); padding: .6rem; border-radius: 6px }
"""


def report(result: Result, charts: Iterable[Chart]) -> str:
    """The whole file as text."""
    names = result.inputs.request.names
    body = [
        "<h1>Which training set teaches this task, and why another does not</h1>", _setting(result),
        "<h2>At a glance</h2>", _glance(result), "<h2>The sets</h2>", *(_set(result, name) for name in names),
        "<h2>Before you believe it</h2>", '<div class="warnings"><ul>',
        *(f"<li>{escape(text)}</li>" for text in limits.warnings(result)), "</ul></div>",
        "<h2>By the place of the needle</h2>", _places(result), "<h2>Training</h2>", _training(result),
        "<h2>In numbers</h2>", _numbers(result), *map(_figure, charts),
        "<h2>Some answers</h2>", *_answers(result), "<h2>Words</h2>", _words(result),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Diagnosis of {escape(', '.join(names))}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _setting(result: Result) -> str:
    inputs, request = result.inputs, result.inputs.request
    trained = ", ".join(f"{name} {len(examples)}" for name, examples in inputs.encoded.items()) or "none"
    seeds = f"seed{'s' * (len(request.seeds) > 1)} {', '.join(map(str, request.seeds))}"
    return (
        f"<p>Model <b>{escape(inputs.folder.resolve().name)}</b>, made for {inputs.base_length:,} tokens, here at "
        f"{inputs.length:,} (RoPE theta {inputs.theta:,.0f}). Real examples: {len(inputs.probe)} to find heads by, "
        f"{len(inputs.test)} others to score on. Training examples: {escape(trained)}. LoRA rank {request.rank}, "
        f"{request.epochs} epochs, learning rate {request.lr:g}, {seeds}.</p>"
    )


def _glance(result: Result) -> str:
    """One row a model: the numbers that most look for, with their intervals where they have any width."""
    real = result.inputs.request.has_real
    columns = {
        metric_label(result.metric): ("score", ".2f"), "best-subspan": ("subspan", ".2f"),
        "loss of the gold answer": ("answer_loss", ".2f"), "gain from context": ("context_gain", ".2f"),
        **({"short of real": ("below_real", ".2f")} if real else {}),
        f"heads of {'real' if real else 'untuned'}": (f"recall_of_{'real' if real else UNTUNED}", ".0%"),
        **({"gap closed by those it misses": ("closed_complement", ".0%")} if real else {}),
    }
    cells = [[_cell(result.of(condition, name), form) for name, form in columns.values()]
             for condition in result.inputs.conditions]
    kept = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    return _table(
        ("trained on", "verdict", *(list(columns)[place] for place in kept)),
        [(condition, "" if condition == UNTUNED else verdict(result, condition).kind, *(row[place] for place in kept))
         for condition, row in zip(result.inputs.conditions, cells, strict=True)],
    )


def _cell(row: pd.Series | None, form: str) -> str:
    if row is None:
        return ""
    varies = row["high"] - row["low"] > NO_WIDTH
    ends = f" ({row['low']:{form}} to {row['high']:{form}})" if varies else ""
    return f"{row['value']:{form}}{ends}"


def _set(result: Result, name: str) -> str:
    texts = (part(result, name) for part in (performance, sentences.heads, sentences.patching,
                                             sentences.knockout))
    return f'<section class="set"><h3>{escape(name)}</h3>' + "".join(
        f"<p>{escape(text)}</p>" for text in texts if text) + "</section>"


def _numbers(result: Result) -> str:
    table = result.tables["summary"]
    names = {
        "score": f"score ({metric_label(result.metric)})",
        "over_untuned": "the same, over no fine-tuning", "below_real": "the same, short of real",
        "subspan": "best-subspan", "subspan_over_untuned": "the same, over no fine-tuning",
        "answer_loss": "loss of the gold answer (nats a token)",
        "answer_loss_over_untuned": "the same, over no fine-tuning",
        "context_gain": "gain from context (nats a token)",
        "context_gain_over_untuned": "the same, over no fine-tuning",
        "end_loss": "loss of the end after the answer (nats)", "words": "words of an answer",
        "recall_of_real": "recall of the real run's heads", "precision_of_real": "its heads that the real run has",
        **({} if result.inputs.request.has_real else {"recall_of_untuned": "recall of the untuned model's heads"}),
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
    probe = sum(bool(example.needles) for example in result.inputs.probe)
    order = list(names)
    table = table[table["measure"].isin(order)]
    table = table.sort_values("measure", key=lambda measures: measures.map(order.index), kind="stable")
    rows = [
        (row.condition, names[row.measure], f"{row.value:.2f}",
         "" if pd.isna(row.low) else f"{row.low:.2f} to {row.high:.2f}",
         "" if pd.isna(row.chance) else f"{row.chance:.2f}",
         (f"{row.n} heads, {probe}" if row.measure.startswith(("recall", "precision")) else f"{row.n}")
         + f" examples, {row.n_seeds} seed{'s' * (row.n_seeds > 1)}")
        for row in table.itertuples() if pd.notna(row.value)
    ]
    rows.sort(key=lambda row: result.inputs.conditions.index(row[0]))
    return _table(("trained on", "what", "value", "95% interval", "chance", "n"), rows) + (
        '<p class="small">Intervals are over examples and seeds together; right answers are teacher forced. Of seeds, '
        "those count in which the number is defined. All of this and more is in the folder tables beside this file.</p>"
    )


def _places(result: Result) -> str:
    """Best-subspan (or the score) and the loss of the gold answer by the place of the needle, a row a model."""
    table = result.tables["by_place"]
    if table.empty:
        return "<p>No test example has needles, so that nothing can be said of their places.</p>"
    found = "subspan" if (table["measure"] == "subspan").any() else "score"
    names = list(dict.fromkeys(table["place"]))
    sizes = table.drop_duplicates("place").set_index("place")["n"]
    rows = []
    for measure, label in ((found, "best-subspan" if found == "subspan" else metric_label(result.metric)),
                           ("answer_loss", "loss of the gold answer")):
        values = table[table["measure"] == measure].set_index(["condition", "place"])["value"]
        rows += [(label, condition, *(f"{values.get((condition, name), float('nan')):.2f}" for name in names))
                 for condition in result.inputs.conditions]
    return _table(("what", "trained on", *(f"{name} (n {sizes[name]})" for name in names)), rows) + (
        '<p class="small">Where the needle of the test example stands. A set that gains at one place only has '
        "taught to read that place. Intervals, and the gains of each set at a place and elsewhere, are in the tables "
        "by_place and place_gains.</p>")


def _training(result: Result) -> str:
    """Losses of the fine-tunings, averaged over the first and the last quarter of their steps."""
    table = result.tables["training"]
    if table.empty:
        return "<p>Nothing was trained here.</p>"
    rows = [(one.condition, one.seed, one.steps, f"{one.first_loss:.2f}", f"{one.final_loss:.2f}")
            for one in table.itertuples()]
    return _table(("trained on", "seed", "steps", "loss, first quarter", "loss, last quarter"), rows) + (
        '<p class="small">Means over steps, in nats a token of the training answers and their ends. A loss that is low '
        "from the start asks for nothing that the model cannot do.</p>")


def _figure(chart: Chart) -> str:
    return (f'<h2>{escape(chart.title)}</h2><figure><img alt="{escape(chart.alt)}" '
            f'src="data:image/png;base64,{chart.image}"><figcaption>{escape(chart.caption)}</figcaption></figure>')


def _answers(result: Result) -> list[str]:
    table, shown = result.tables["answers"], []
    for place, example in enumerate(result.inputs.test[:SHOWN]):
        own = table[table["example"] == place].drop_duplicates("condition")
        rows = [(row["condition"], row["prediction"], f"{row[result.metric]:.2f}") for _, row in own.iterrows()]
        shown.append(f"<pre>... {escape(example.prompt[-200:])} <b>{escape(example.answer)}</b></pre>"
                     + _table(("trained on", "answer", metric_label(result.metric)), rows))
    return shown


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return (f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>'
            + "".join(line(row, "td") for row in rows) + "</tbody></table></div>")


def _words(result: Result) -> str:
    threshold = f"{result.inputs.request.threshold:g}"
    score = "" if result.inputs.kind == "insight" else " that holds the answer's next token"
    return (
        "<dl><dt><b>retrieval head</b></dt><dd>an attention head whose largest attention, while the answer is written, "
        f"lies on a place in a needle{score}, for more than {threshold} of the answer's tokens on average.</dd>"
        "<dt><b>real run</b></dt><dd>the model trained on real examples.</dd>"
        "<dt><b>untuned</b></dt><dd>the model without fine-tuning, with the same RoPE theta.</dd>"
        "<dt><b>best-subspan</b></dt><dd>whether the model's answer holds an accepted one, whatever else it says; F1 "
        "counts the other words against it.</dd>"
        "<dt><b>loss of the gold answer</b></dt><dd>of its own tokens, without the end after them; low is good.</dd>"
        "<dt><b>gain from context</b></dt><dd>that loss with the needles cut out of the prompt, less it: what the "
        "model takes from them, and no style gives.</dd>"
        "<dt><b>right answer</b></dt><dd>every token of the reference answer is the model's most likely one, given "
        "those before it.</dd><dt><b>patching</b></dt><dd>the outputs of some heads are replaced by those of the real "
        "run on the same text.</dd><dt><b>chance</b></dt><dd>expected for as many random heads in each layer.</dd></dl>"
    )
