"""Two things to play with in chapters 03 and 10: a map of heads, and a text coloured by where a head looks.

Both need no request to another place. Where scripts are off, or the page is read outside the book, a picture of the
map's first state stands there, and the text is coloured by one of a few heads (radio buttons and CSS).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from retrieval_heads import paths
from retrieval_heads.data.example import task_of
from retrieval_heads.figures.style import in_order, words
from retrieval_heads.models.layout import Head
from retrieval_heads.settings import REFERENCE

SCRIPT = "vega.js"
"""The name of the script among the static files of the book."""

LEVELS = 9
"""Shades of a token; each is the square root of the attention, so that weak attention can be seen."""

_LEAST = 0.02
"""Attention below which a token is not coloured."""

_LOADER = """<script>(function () {
  const box = document.currentScript.parentElement, place = box.querySelector(".vega-place");
  const spec = JSON.parse(box.querySelector("[type='application/json']").textContent);
  const draw = () => window.vegaEmbed(place, spec, {actions: false, renderer: "svg"}).then(
    () => { box.querySelector(".vega-fixed").hidden = true; });
  if (window.vegaEmbed) { draw(); return; }
  const script = document.createElement("script");
  script.src = "../../_static/vega.js"; script.onload = draw; document.head.append(script);
})();</script>"""

_SCRIPT = """<script>(function () {
  const box = document.currentScript.parentElement;
  const data = JSON.parse(box.querySelector("[type='application/json']").textContent);
  const text = box.querySelector(".tokens"), name = box.querySelector("select"), map = box.querySelector(".head-grid");
  const heads = data.heads, said = box.querySelector("output");
  const spans = data.tokens.map((token, place) => {
    const span = document.createElement(data.needle[place] ? "u" : "span");
    span.textContent = token; text.append(span); return span;
  });
  let chosen = data.first;
  const cells = [...Array(data.layers * heads).keys()].map(at => {
    const cell = document.createElement("button"); cell.type = "button";
    const row = data.layers - 1 - Math.floor(at / heads), head = at % heads;
    cell.onclick = () => { chosen = row * heads + head; show(); };
    cell.dataset.at = row * heads + head; map.append(cell); return cell;
  });
  function show() {
    const model = data.models[name.value], row = model.rows[chosen];
    spans.forEach(span => span.style.background = "");
    for (let i = 0; i < row.length; i += 3)
      spans[parseInt(row.slice(i, i + 2), 36)].style.background = `rgba(230, 110, 0, ${row[i + 2] / 9})`;
    cells.forEach(cell => {
      const at = +cell.dataset.at, score = model.scores[at] / 100;
      cell.title = `layer ${Math.floor(at / heads)}, head ${at % heads}: score ${score.toFixed(2)}`;
      cell.setAttribute("aria-label", cell.title);
      cell.style.background = `rgba(1, 80, 140, ${0.06 + 0.94 * score / data.darkest})`;
      cell.classList.toggle("chosen", at === chosen);
      if (at === chosen) said.textContent = cell.title;
    });
  }
  name.onchange = show; box.classList.add("live"); show();
})();</script>"""


@cache  # it takes two seconds to be made
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, as the pinned vl-convert has them.

    Its names stay its own: a page of the book has another `_`.
    """
    return f"(() => {{\n{vl_convert.javascript_bundle()}\n}})();\n"


def head_chart(scores: pd.DataFrame, threshold: float, tasks: Sequence[str], darkest: float = 1.0) -> alt.LayerChart:
    """A map of heads with a slider for the threshold and menus for task and training data, as a chart of Vega-Lite.

    From rows of the table `head_scores` of one kind per task and one mode; runs of a condition are averaged. The scale
    of colours and the slider end at `darkest`.
    """
    heads = int(scores["head"].max()) + 1
    mean = scores.groupby(["task", "condition", "layer", "head"]).score.mean()
    order = in_order(scores.condition)
    values = [
        {"task": task, "data": words(condition), "score": mean[task, condition].round(2).tolist()}
        for task in tasks for condition in order if (task, condition) in mean.index
    ]
    names = list(dict.fromkeys(words(name) for name in order))
    task = alt.param(name="task_", value=tasks[0], bind=alt.binding_select(options=list(tasks), name="Task: "))
    first = "real" if "real" in names else names[0]
    data = alt.param(name="data_", value=first, bind=alt.binding_select(options=names, name="Trained on: "))
    slider = alt.param(name="threshold", value=threshold, bind=alt.binding_range(
        min=0, max=round(darkest, 2), step=0.01, name="Threshold of the score: "))
    base = alt.Chart(alt.Data(values=values)).transform_filter("datum.task == task_ && datum.data == data_")
    base = base.transform_flatten(["score"]).transform_window(row="row_number()").transform_calculate(
        layer=f"floor((datum.row - 1) / {heads})", head=f"(datum.row - 1) % {heads}")
    place = {"x": alt.X("head:O", axis=alt.Axis(labelAngle=0)), "y": alt.Y("layer:O", sort="descending")}
    tips = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("score:Q", format=".2f", title="mean score")]
    ends = "score" if darkest == 1 else f"score (darkest: {darkest:.2f}, the largest)"
    shade = alt.Color("score:Q", scale=alt.Scale(domain=[0, round(darkest, 2)], scheme="blues"), title=ends)
    cells = base.mark_rect(cursor="crosshair").encode(**place, tooltip=tips, color=shade)
    frames = base.transform_filter("datum.score > threshold").mark_rect(
        filled=False, stroke="#d55e00", strokeWidth=2).encode(**place, tooltip=tips)
    count = base.transform_filter("datum.score > threshold").transform_aggregate(n="count()").transform_calculate(
        text="datum.n + ' heads above the threshold'").mark_text(
        align="left", baseline="bottom", fontWeight="bold", fontSize=12).encode(
        x=alt.value(0), y=alt.value(-6), text="text:N")
    return (cells + frames + count).add_params(task, data, slider).properties(
        width=alt.Step(16), height=alt.Step(16), background="white")


def explorer_html(
    scores: pd.DataFrame, threshold: float, tasks: Sequence[str], darkest: float = 1.0, caption: str = "",
) -> str:
    """The chart of `head_chart` as HTML, with a picture of its first state for where scripts are off.

    A caption, if any, stands below it.
    """
    text = head_chart(scores, threshold, tasks, darkest).to_json(indent=None)
    below = f'<p class="figure-data">{escape(caption)}</p>' if caption else ""
    return (
        '<div class="vega"><div class="vega-place"></div><div class="vega-fixed" role="img" '
        f'aria-label="Map of the scores of all heads">{vl_convert.vegalite_to_svg(text)}</div>'
        f'<script type="application/json">{_unended(text)}</script>{_LOADER}</div>{below}'
    )


def text_html(
    models: Mapping[str, tuple[np.ndarray, np.ndarray]], tokens: Sequence[str], needle: Sequence[int], answer: str,
    heads: Sequence[Head],
) -> str:
    """A prompt as HTML, its needles underlined, its tokens coloured by the attention of a chosen head.

    Args:
        models: by name, the attention as `answer_attention` gives it, and the scores `[n_layers, n_heads]`.
        tokens: of the prompt, as text.
        needle: 1 for each of them that lies in a needle, else 0.
        answer: what is read along.
        heads: those that can be chosen without scripts, of the first model; the first is shown at the start.
    """
    first_name, (first, scores) = next(iter(models.items()))
    layers, n_heads = scores.shape
    data = {
        "tokens": tokens, "needle": needle, "layers": layers, "heads": n_heads,
        "first": heads[0][0] * n_heads + heads[0][1],
        "models": {name: {"rows": [_sparse(row) for row in attention.reshape(layers * n_heads, -1)],
                          "scores": [round(100 * float(one)) for one in found.ravel()]}
                   for name, (attention, found) in models.items()},
    }
    # what all models have most of is darkest: where heads are weak, nothing would be seen otherwise
    data["darkest"] = max(max(model["scores"]) for model in data["models"].values()) / 100 or 1.0
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in models)
    radios, copies, chosen = "", "", ""
    for place, (layer, head) in enumerate(heads, 1):
        label = f"layer {layer}, head {head} (score {scores[layer, head]:.2f})"
        radios += f'<label><input type="radio" name="attention-head"{" checked" * (place == 1)}> {label}</label>'
        copies += f'<div class="copy">{_coloured(tokens, needle, first[layer, head])}</div>'
        chosen += (f".attention-text .fixed label:nth-of-type({place}):has(:checked) ~ .copy:nth-of-type({place})"
                   "{display:block}")
    read = f"<p>Answer read along: <strong>{escape(answer)}</strong>. Underlined: the needle.</p>"
    return (
        f'<div class="attention-text"><style>{chosen}</style>'
        f'<div class="fixed"><p>Model: {escape(first_name)}. Head:</p>{radios}{copies}</div>'
        f'<div class="free"><p><label>Model: <select>{options}</select></label> Head: choose a square '
        "(one row is one layer, the first at the bottom; the darker, the higher its score; darkest: "
        f"{data['darkest']:.2f}). <output></output></p>"
        f'<div class="head-grid" style="grid-template-columns: repeat({n_heads}, 1fr)"></div><div class="tokens"></div>'
        f'</div>{read}<script type="application/json">{_unended(json.dumps(data, separators=(",", ":")))}</script>'
        f'{_SCRIPT}</div>'
    )


def _levels(row: np.ndarray) -> np.ndarray:
    return np.where(row < _LEAST, 0, np.clip(np.rint(LEVELS * np.sqrt(row)), 1, LEVELS)).astype(int)


def _sparse(row: np.ndarray) -> str:
    """Three characters for each coloured token: its place in base 36, and its level."""
    levels = _levels(row)
    return "".join(np.base_repr(place, 36).lower().zfill(2) + str(levels[place]) for place in np.flatnonzero(levels))


def _coloured(tokens: Sequence[str], needle: Sequence[int], row: np.ndarray) -> str:
    parts = []
    for token, inside, level in zip(tokens, needle, _levels(row), strict=True):
        text = escape(token)
        text = f'<span style="background:rgba(230,110,0,{level / LEVELS:.2f})">{text}</span>' if level else text
        parts.append(f"<u>{text}</u>" if inside else text)
    return "".join(parts).replace("</u><u>", "")


def _unended(text: str) -> str:
    """JSON that no text in it can end early."""
    return text.replace("<", "\\u003c")


def shipped_adapters_html(task: str) -> str:
    """`text_html` of the adapters of a task that come with the repository, on one real probe example."""
    from retrieval_heads.data import make_examples
    from retrieval_heads.heads.readout import answer_attention, tokens_of
    from retrieval_heads.heads.scores import retrieval_scores
    from retrieval_heads.heads.select import bottom_heads, top_heads
    from retrieval_heads.models.load import load_model, swap_adapter

    folders = sorted((paths.needed_checkout() / "models" / "adapters").glob(f"{task}__*"))
    named = {folder.name.split("__")[1]: folder for folder in folders}
    [example] = make_examples(task=task, condition=REFERENCE, length=256, n=1, seed=0, split="probe")
    model, tokenizer = load_model(paths.needed_checkout() / "models" / "base", adapter=named[REFERENCE])
    models = {}
    for condition in in_order(named):
        swap_adapter(model, named[condition])
        found = retrieval_scores(model, tokenizer, [example], task_of(task).head_score)
        models[words(condition)] = answer_attention(model, tokenizer, example), found.scores
    scores = models[words(REFERENCE)][1]
    heads = top_heads(scores, 4) + bottom_heads(scores, 2)
    return text_html(models, *tokens_of(tokenizer, example), example.answer, heads)
