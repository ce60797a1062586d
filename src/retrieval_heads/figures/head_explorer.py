"""A map of heads to play with: hover for a score, a slider for the threshold, menus for task and training data.

Drawn by Vega-Lite from one script beside the book (`vega_bundle`), without a request to another place. Where scripts
are off, or the page is read outside the book, a picture of its first state stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd
import vl_convert

from retrieval_heads.figures.style import in_order, words

SCRIPT = "vega.js"
"""The name of the script among the static files of the book."""

_LOADER = """<script>(function () {
  const box = document.currentScript.parentElement, place = box.querySelector(".vega-place");
  const spec = JSON.parse(box.querySelector("[type='application/json']").textContent);
  const draw = () => window.vegaEmbed(place, spec, {actions: false, renderer: "svg"}).then(
    () => { box.querySelector(".vega-fixed").hidden = true; });
  if (window.vegaEmbed) { draw(); return; }
  const script = document.createElement("script");
  script.src = "../../_static/vega.js"; script.onload = draw; document.head.append(script);
})();</script>"""


def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, as the pinned vl-convert has them."""
    return vl_convert.javascript_bundle()


def head_chart(scores: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> alt.LayerChart:
    """The map as a chart of Vega-Lite.

    Args:
        scores: rows of the table `head_scores` of one kind per task and one mode; runs of a condition are averaged.
        threshold: at the start.
        tasks: in the order of the menu.
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
        min=0, max=1, step=0.01, name="Threshold of the score: "))
    base = alt.Chart(alt.Data(values=values)).transform_filter("datum.task == task_ && datum.data == data_")
    base = base.transform_flatten(["score"]).transform_window(row="row_number()").transform_calculate(
        layer=f"floor((datum.row - 1) / {heads})", head=f"(datum.row - 1) % {heads}")
    place = {"x": alt.X("head:O", axis=alt.Axis(labelAngle=0)), "y": alt.Y("layer:O", sort="descending")}
    tips = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("score:Q", format=".2f", title="mean score")]
    shade = alt.Color("score:Q", scale=alt.Scale(domain=[0, 1], scheme="blues"), title="score")
    cells = base.mark_rect(cursor="crosshair").encode(**place, tooltip=tips, color=shade)
    frames = base.transform_filter("datum.score > threshold").mark_rect(
        filled=False, stroke="#d55e00", strokeWidth=2).encode(**place, tooltip=tips)
    count = base.transform_filter("datum.score > threshold").transform_aggregate(n="count()").transform_calculate(
        text="datum.n + ' heads above the threshold'").mark_text(
        align="left", baseline="bottom", fontWeight="bold", fontSize=12).encode(
        x=alt.value(0), y=alt.value(-6), text="text:N")
    return (cells + frames + count).add_params(task, data, slider).properties(
        width=alt.Step(16), height=alt.Step(16), background="white")


def explorer_html(scores: pd.DataFrame, threshold: float, tasks: Sequence[str]) -> str:
    """The chart as HTML, with a picture of its first state for where scripts are off; arguments as of `head_chart`."""
    chart = head_chart(scores, threshold, tasks)
    text = chart.to_json(indent=None)
    picture = vl_convert.vegalite_to_svg(text)
    return (
        '<div class="vega"><div class="vega-place"></div>'
        f'<div class="vega-fixed" role="img" aria-label="Map of the scores of all heads">{picture}</div>'
        f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>{_LOADER}</div>'
    )
