"""A text coloured by where a head looks while the answer is written; any head of several models to choose from.

Without scripts a reader chooses among a few heads (radio buttons and CSS); with scripts among all heads of all models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval_heads import paths
from retrieval_heads.data.encode import encode
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.figures.style import in_order, words
from retrieval_heads.models.layout import Head
from retrieval_heads.settings import REFERENCE

LEVELS = 9
"""Shades of a token; each is the square root of the attention, so that weak attention can be seen."""

_LEAST = 0.02
"""Attention below which a token is not coloured."""

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
      cell.style.background = `rgba(1, 80, 140, ${0.06 + 0.94 * score})`;
      cell.classList.toggle("chosen", at === chosen);
      if (at === chosen) said.textContent = cell.title;
    });
  }
  name.onchange = show; box.classList.add("live"); show();
})();</script>"""


@torch.no_grad()
def answer_attention(model: nn.Module, tokenizer: Any, example: Example) -> np.ndarray:
    """The largest attention that any answer position pays to each token of the prompt.

    Returns:
        float `[n_layers, n_heads, prompt tokens]`, in [0, 1].
    """
    one, before = encode(example, tokenizer), model.config._attn_implementation
    model.set_attn_implementation("eager")  # which alone hands out its weights; the text is short
    try:
        read = model(input_ids=torch.tensor([one.ids]), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    rows = torch.cat(read)[:, :, list(one.query_rows), : one.prompt_length]
    return rows.amax(2).numpy()


def attention_html(
    models: Mapping[str, tuple[np.ndarray, np.ndarray]], tokenizer: Any, example: Example, heads: Sequence[Head],
) -> str:
    """The prompt as HTML, its needles underlined, its tokens coloured by the attention of a chosen head.

    Args:
        models: by name, the attention as `answer_attention` gives it, and the scores `[n_layers, n_heads]`.
        tokenizer: of all the models.
        example: what was read; its prompt is shown whole.
        heads: those that can be chosen without scripts, of the first model; the first is shown at the start.
    """
    return text_html(models, *tokens_of(tokenizer, example), example.answer, heads)


def text_html(
    models: Mapping[str, tuple[np.ndarray, np.ndarray]], tokens: Sequence[str], needle: Sequence[int], answer: str,
    heads: Sequence[Head],
) -> str:
    """`attention_html` of a text that is cut into tokens already.

    Args:
        models: as there.
        tokens: of the prompt, as text.
        needle: 1 for each of them that lies in a needle, else 0.
        answer: what is read along.
        heads: as there.
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
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in models)
    radios, copies = [], []
    for place, (layer, head) in enumerate(heads):
        label = f"layer {layer}, head {head} (score {scores[layer, head]:.2f})"
        checked = "" if place else " checked"
        radios.append(f'<label><input type="radio" name="attention-head"{checked}> {label}</label>')
        copies.append(f'<div class="copy">{_coloured(tokens, needle, first[layer, head])}</div>')
    chosen = "".join(f".attention-text .fixed label:nth-of-type({n + 1}):has(:checked) ~ .copy:nth-of-type({n + 1})"
                     "{display:block}" for n in range(len(heads)))
    read = f"<p>Answer read along: <strong>{escape(answer)}</strong>. Underlined: the needle.</p>"
    return (
        f'<div class="attention-text"><style>{chosen}</style>'
        f'<div class="fixed"><p>Model: {escape(first_name)}. Head:</p>{"".join(radios)}{"".join(copies)}</div>'
        f'<div class="free"><p><label>Model: <select>{options}</select></label> Head: choose a square '
        "(one row is one layer, the first at the bottom; darker: higher score). <output></output></p>"
        f'<div class="head-grid" style="grid-template-columns: repeat({n_heads}, 1fr)"></div><div class="tokens"></div>'
        f'</div>{read}<script type="application/json">{_json(data)}</script>{_SCRIPT}</div>'
    )


def tokens_of(tokenizer: Any, example: Example) -> tuple[list[str], list[int]]:
    """The prompt cut at its tokens, and 1 for each of them that lies in a needle, else 0."""
    one = encode(example, tokenizer)
    offsets = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"][: one.prompt_length]
    starts = [start for start, _ in offsets] + [len(example.prompt)]
    inside = one.needle_mask()[: one.prompt_length]
    return [example.prompt[a:b] for a, b in pairwise(starts)], inside.astype(int).tolist()


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


def _json(data: Any) -> str:
    """JSON that no text in it can end early."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def shipped_adapters_html(task: str, length: int = 256, shown: int = 4) -> str:
    """`attention_html` of the adapters of a task that come with the repository, on one real probe example.

    Args:
        task: whose adapters.
        length: of the example, in tokens.
        shown: how many of the strongest heads can be chosen without scripts, beside as many of the weakest.
    """
    from retrieval_heads.data import make_examples
    from retrieval_heads.heads.scores import retrieval_scores
    from retrieval_heads.heads.select import bottom_heads, select_heads
    from retrieval_heads.models.load import load_model, swap_adapter

    folders = sorted((paths.needed_checkout() / "models" / "adapters").glob(f"{task}__*"))
    named = {folder.name.split("__")[1]: folder for folder in folders}
    [example] = make_examples(task=task, condition=REFERENCE, length=length, n=1, seed=0, split="probe")
    model, tokenizer = load_model(paths.needed_checkout() / "models" / "base", adapter=named[REFERENCE])
    models = {}
    for condition in in_order(named):
        swap_adapter(model, named[condition])
        found = retrieval_scores(model, tokenizer, [example], task_of(task).head_score)
        models[words(condition)] = answer_attention(model, tokenizer, example), found.scores
    scores = models[words(REFERENCE)][1]
    return attention_html(models, tokenizer, example, select_heads(scores, k=shown) + bottom_heads(scores, shown // 2))
