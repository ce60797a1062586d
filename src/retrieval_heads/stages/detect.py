"""Score every head of every run, and of the base models, on held-out real examples.

The runs are scored at the training length, and so is each base model with the raised RoPE theta: by it is told what a
run has gained in training, as scores of different lengths are not comparable. A base model as it is, without that, is
scored at the length that it was made for: at the other it answers nothing, and would have no retrieval heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_heads.keys import Options, RunKey
from retrieval_heads.settings import Profile
from retrieval_heads.stages import finetune
from retrieval_heads.stages.common import EVERYTHING, batch_size, held_out, load_run, runs_of, untuned_keys
from retrieval_heads.stages.provide import Made, make_tables

if TYPE_CHECKING:
    from retrieval_heads.heads.scores import HeadScores

TABLES = ("head_scores", "probe_loss")

HITS = "head_hits"
"""The scores of single examples: the bootstrap over probe examples needs them where losses are measured."""

FEW = 20
"""Probe examples of the scores that stand for what a small probe set would tell."""


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables of head scores of the runs and of the base models; their paths."""
    if profile.adapters is None:  # otherwise they are there, and nothing here needs how well they answer
        finetune.run(profile, options)
    return _detect(profile, [*untuned_keys(profile, options), *runs_of(profile, options)])


def run_base(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """The same of base models alone; the tables have whatever runs have been scored too."""
    return _detect(profile, untuned_keys(profile, options))


def _detect(profile: Profile, wanted: list[RunKey]) -> list[Path]:
    grid = [*untuned_keys(profile), *runs_of(profile)]
    return make_tables(profile, tables(profile), scores_of_run, wanted, grid, description="head detection")


def tables(profile: Profile) -> tuple[str, ...]:
    """The tables that the profile asks for."""
    return TABLES if profile.gold_loss is None else (*TABLES, HITS)


def scores_of_run(profile: Profile, key: RunKey, device: str) -> Made:
    """The scores of all heads of one run, or of a base model."""
    from retrieval_heads.evaluation import answer_losses
    from retrieval_heads.heads.scores import score_heads

    model, tokenizer = load_run(profile, key, device)
    length = profile.base_length if key.condition == "base" else profile.train_length
    examples = held_out(profile, key.task, "probe", length)
    rows, hits, used, dropped = [], [], 0, {}
    for mode in profile.detect.modes:
        found = score_heads(
            model, tokenizer, examples, profile.detect.kinds, mode, batch_size=batch_size(model, length),
        )
        for scores in found.values():
            rows += head_rows(key, scores)
            hits += hit_rows(key, scores) if profile.gold_loss is not None else []
        used += scores.n_used
        dropped |= {f"{mode}, {reason}": count for reason, count in scores.dropped.items()}
    losses = answer_losses(model, tokenizer, examples, batch_size=batch_size(model, length))
    probe_loss = {**key.columns, "loss": float(f"{losses.mean():.6g}"), "n": len(losses)}
    return Made({"head_scores": rows, "probe_loss": [probe_loss], HITS: hits}, used=used, dropped=dropped)


def head_rows(key: RunKey, scores: HeadScores) -> list[dict[str, Any]]:
    """One row per head."""
    measures = _measures(scores)
    return [
        {
            **key.columns, "kind": scores.kind, "score_mode": scores.mode, "layer": layer, "head": head,
            # the shortest decimal that gives the float32 back: no digits that mean nothing
            **{name: _short(values[layer, head]) for name, values in measures.items()}, "n_used": scores.n_used,
        }
        for layer in range(scores.shape[0]) for head in range(scores.shape[1])
    ]


def hit_rows(key: RunKey, scores: HeadScores) -> list[dict[str, Any]]:
    """One row per example and head that scores there, or by chance; most heads do neither.

    An example without room for displaced spans has the chance level 0.
    """
    chance = np.nan_to_num(scores.chance_per_example, nan=0.0)
    return [
        {
            **key.columns, "kind": scores.kind, "score_mode": scores.mode, "example": scores.used[place],
            "layer": int(layer), "head": int(head), "score": _short(scores.per_example[place, layer, head]),
            "chance": _short(chance[place, layer, head]),
        }
        for place, layer, head in zip(*np.nonzero((scores.per_example > 0) | (chance > 0)), strict=True)
    ]


def _measures(scores: HeadScores) -> dict[str, np.ndarray]:
    """Columns of the table `head_scores`, each `[n_layers, n_heads]`; NaN for a half without examples."""
    each = scores.per_example
    parts = {"score_even": each[::2], "score_odd": each[1::2], "score_few": each[:FEW]}
    nothing = np.full(scores.shape, np.nan)
    return {
        "score": scores.scores, "chance": scores.chance, "mass": scores.mass, "query_mass": scores.query_mass,
        "contribution": scores.contribution,
        **{name: part.mean(axis=0) if len(part) else nothing for name, part in parts.items()},
    }


def _short(value: np.floating) -> float | None:
    """Four digits, more than the examples can tell apart; None for NaN."""
    return None if np.isnan(value) else float(f"{value:.4g}")
