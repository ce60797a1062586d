"""The work of a diagnosis, run by run: fine-tune, answer, score heads, knock out, patch. What is made is kept.

    FOLDER/adapters/RUN/           an adapter, as `finetune` writes it
    FOLDER/measured/RUN.json       training, answers and head scores
    FOLDER/knockout/RUN.json       rows of the tables `knockout` and `knockout_effects`, and answers without heads
    FOLDER/patching/RUN.json       rows of the table `patching`, and the answers under each set of heads

F1 rises, too, when a model learns to answer shortly and to end. So beside it stand the loss of the answer's own tokens,
that of the end after them, and the loss without the needles: what a model gains by having them in its prompt (the gain
from context) no style can give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from retrieval_heads.data.example import Example
from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.evaluation import evaluate_each, token_losses
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep, source_answers
from retrieval_heads.keys import RunKey
from retrieval_heads.models.load import load_model
from retrieval_heads.settings import UNTUNED
from retrieval_heads.stages import knockout, patch
from retrieval_heads.stages.common import batch_size
from retrieval_heads.stages.detect import head_rows
from retrieval_heads.stages.head_sets import NONE, HeadSet, RunHeads, by_label, score_matrix
from retrieval_heads.stages.sweeps import Resamples, Scores, per_example, together
from retrieval_heads.training.finetune import finetune
from retrieval_heads.training.training_record import TRAINING_FILE
from retrieval_heads.training_sets import kept

STRONGEST = (1, 2, 5, 10, 20)
"""Numbers of heads that are knocked out, beside all retrieval heads of the run."""

DOING = {"measured": "training and scoring", "knockout": "knock-out", "patching": "patching"}

PATCHED = ("intersection", "complement", "random", "all")

LOSSES = ("answer_loss", "end_loss", "answer_loss_without")


class Work:
    """Makes the parts of one diagnosis below a folder."""

    def __init__(self, inputs: Inputs, device: str, out: Path) -> None:
        self.inputs, self.device, self.out = inputs, device, out
        self._source: tuple[RunKey, nn.Module, list[Any]] | None = None

    def adapter(self, key: RunKey) -> Path | None:
        """The folder of a run's adapter; None for the untuned model."""
        if key.condition == UNTUNED:
            return None
        return self.inputs.request.adapters.get(key.condition, self.out / "adapters" / key.name)

    def has(self, kind: str, key: RunKey) -> bool:
        """Whether a run's `adapters`, `measured`, `knockout` or `patching` is there."""
        if kind == "adapters":
            return (self.adapter(key) / TRAINING_FILE).is_file()
        return (self.out / kind / f"{key.name}.json").is_file()

    def train(self, key: RunKey) -> dict[str, Any] | None:
        """Fine-tune, unless it has been done or is not to be; the record of the training."""
        if key.condition not in self.inputs.encoded:
            return None
        return finetune(self.inputs.folder, self.inputs.encoded[key.condition], self.adapter(key),
                        self.inputs.lora(key.seed), self.device)

    def measured(self, key: RunKey) -> dict[str, Any]:
        """`training` (or None), `answers` (a row per test example), `heads` (a row per head) and `each`.

        `each` holds the scores by example, `[n_probe, n_layers, n_heads]`. Without needles it and `heads` are empty.
        """
        return self._kept("measured", key, self._measure)

    def heads(self, key: RunKey) -> RunHeads:
        """The heads of a run that is measured by then, or now."""
        rows = pd.DataFrame(self.measured(key)["heads"])
        return RunHeads(score_matrix(rows), score_matrix(rows, "mass"), self.inputs.request.threshold)

    def knocked_out(self, key: RunKey) -> dict[str, Any]:
        """`knockout` and `knockout_effects`: the strongest heads set to zero, and as many random ones of the layers.

        And `right` and `nll`: right answers and losses of the gold answer `[draws, n]` as it is, without all retrieval
        heads, and without as many random ones.
        """
        return self._kept("knockout", key, self._knock_out)

    def patched(self, key: RunKey, real: RunKey) -> dict[str, Any]:
        """`patching`, and by set of heads `right` and `nll`: right answers and losses `[draws, n]`, teacher forced."""
        return self._kept("patching", key, self._patch, real)

    def _measure(self, key: RunKey) -> dict[str, Any]:
        record, inputs = self.train(key), self.inputs
        model, tokenizer = self._load(key)
        size = batch_size(model, inputs.length)
        found = {"training": record and {
            "examples": record["examples"], "steps": record["steps"], "tokens": record["tokens_seen"],
            **average_losses([step["loss"] for step in record["loss"]]),
        }, "answers": answer_rows(model, tokenizer, inputs.test, size), "heads": [], "each": []}
        if inputs.finds_heads:
            scores = score_heads(model, tokenizer, inputs.probe, (inputs.kind,), batch_size=size)[inputs.kind]
            found |= {"heads": head_rows(key, scores), "each": scores.per_example.astype(np.float64).round(6).tolist()}
        return found

    def _knock_out(self, key: RunKey) -> dict[str, Any]:
        heads = self.heads(key)
        counts = sorted({k for k in (*STRONGEST, len(heads.retrieval)) if 0 < k <= heads.scores.size // 2})
        model, tokenizer = self._load(key)
        sets = knockout.knockout_sets(heads, counts, self.inputs.request.draws, f"{key.name}|knockout",
                                      knockout.group_size(model), ("random", "bottom"))
        every = [NONE, *sets]
        found = knockout_sweep(model, tokenizer, self.inputs.test, by_label(every),
                               sets_per_pass=knockout.sets_per_pass(self.device))
        scores = per_example(found, every, "zero")
        untouched, place = scores[NONE], {**key.columns, "mode": "zero", "scope": "answer"}
        resamples = self._resamples()
        rows = knockout.set_rows(place, NONE, untouched, heads, resamples)
        effects: list[dict[str, Any]] = []
        for k in counts:
            of_size = {one: scores[one] for one in sets if len(one.heads) == k}
            rows += knockout.knockout_rows(place, of_size, heads, resamples)
            effects += knockout.effect_rows(place, k, untouched, of_size, resamples)
        whole = {one: scores[one] for one in sets if one.name != "bottom" and len(one.heads) == len(heads.retrieval)}
        return {"knockout": rows, "knockout_effects": effects, **_each({NONE: untouched, **whole})}

    def _patch(self, key: RunKey, real: RunKey) -> dict[str, Any]:
        sets = [NONE, *patch.patching_sets(self.heads(real), self.heads(key), PATCHED, self.inputs.request.draws,
                                           key.name)]
        source, answers = self._source_of(real)
        target, tokenizer = self._load(key)
        found = patch_sweep(target, source, tokenizer, self.inputs.test, by_label(sets), answers=answers)
        scores = patch.patched_scores(found, answers, sets)
        return {"patching": patch.patching_rows(key, scores, self._resamples()), **_each(scores)}

    def _load(self, key: RunKey) -> tuple[nn.Module, Any]:
        bf16 = self.inputs.request.bf16 and self.device.startswith("cuda")
        return load_model(self.inputs.folder, self.adapter(key), self.device, torch.bfloat16 if bf16 else torch.float32,
                          self.inputs.theta, self.inputs.length)

    def _source_of(self, real: RunKey) -> tuple[nn.Module, list[Any]]:
        """The real run and what its heads do, kept while the runs that are patched from it follow one another."""
        if self._source is None or self._source[0] != real:
            self._source = None  # its memory first
            model, tokenizer = self._load(real)
            self._source = (real, model, source_answers(model, tokenizer, self.inputs.test))
        return self._source[1:]

    def _resamples(self) -> Resamples:
        return Resamples(len(self.inputs.test), self.inputs.request.bootstrap)

    def _kept(self, kind: str, key: RunKey, make: Callable[..., dict[str, Any]], *more: RunKey) -> dict[str, Any]:
        """A part that is there, or what `make` makes of the run (and of `more`)."""
        keys = self.inputs.every_run
        return kept(self.out / kind / f"{key.name}.json", partial(make, key, *more),
                    f"run {keys.index(key) + 1} of {len(keys)}", f"{key.condition}, seed {key.seed}: {DOING[kind]}")


def _each(scores: dict[HeadSet, Scores]) -> dict[str, dict[str, list[list[float]]]]:
    """`right` and `nll`: by set of heads, right answers and losses of the gold answer, `[draws, n]`."""
    by_name: dict[str, list[Scores]] = {}
    for one, found in scores.items():
        by_name.setdefault(one.name, []).append(found)
    drawn = {name: together(found) for name, found in by_name.items()}
    return {kind: {name: found[metric].tolist() for name, found in drawn.items()}
            for kind, metric in (("right", "forced_exact_match"), ("nll", "nll"))}


def average_losses(losses: Sequence[float]) -> dict[str, float]:
    """`first_loss`, `final_loss`, `mean_loss`: means over the first and the last quarter of the steps, and over all.

    One step is one batch, whose loss depends on its examples more than on what the model has learned by then.
    """
    quarter = max(1, len(losses) // 4)
    parts = {"first_loss": losses[:quarter], "final_loss": losses[-quarter:], "mean_loss": losses}
    return {name: float(np.mean(part)) for name, part in parts.items()}


def answer_rows(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], batch_size: int
) -> list[dict[str, Any]]:
    """A row per example: what `evaluate_each` gives, and `LOSSES` in nats per token.

    `end_loss` is None where the tokenizer has no end-of-sequence token, `answer_loss_without` for an example without
    needles or without any other text.
    """
    rows = evaluate_each(model, tokenizer, examples, batch_size=batch_size).to_dict("records")
    losses = token_losses(model, tokenizer, examples, batch_size=batch_size)
    bare = {place: one for place, example in enumerate(examples) if (one := without_needles(example)) is not None}
    found = token_losses(model, tokenizer, list(bare.values()), batch_size=batch_size) if bare else []
    without = {place: float(tokens.mean()) for place, (tokens, _) in zip(bare, found, strict=True)}
    for place, (row, (tokens, end)) in enumerate(zip(rows, losses, strict=True)):
        row |= dict(zip(LOSSES, (float(tokens.mean()), end, without.get(place)), strict=True))
    return rows


def without_needles(example: Example) -> Example | None:
    """The example with its needles cut out of the prompt; None where it has none, or no text remains."""
    prompt = example.prompt
    for start, end in reversed(example.needles):
        prompt = prompt[:start] + prompt[end:]
    return replace(example, prompt=prompt, needles=()) if example.needles and prompt.strip() else None
