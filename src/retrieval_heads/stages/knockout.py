"""Knock out the strongest retrieval heads of every run, and beside them controls: `head_sets.CONTROLS`.

Scored on held-out real examples of the training length, with teacher forcing: the answer is right when each of its
tokens, and its end, is the model's most likely one (`forced_exact_match`). If retrieval heads are necessary, a few of
them cost much and as many random ones of the same layers cost little (Wu et al. 2024, arXiv 2404.15574, section 4).

The area between the knock-out curves of a run is one number for how much more its retrieval heads carry than others.
Curves are of the share of right answers against the number of heads out, over log(1 + k), as the first heads matter
most. Draws of a control are averaged within the run: they were made for it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_heads.data.examples import plain_text
from retrieval_heads.heads.select import groups_filled
from retrieval_heads.keys import Options, RunKey
from retrieval_heads.models.layout import head_layout
from retrieval_heads.settings import REFERENCE, Profile
from retrieval_heads.stages import detect
from retrieval_heads.stages.common import EVERYTHING, dissected, held_out, load_run, runs_of
from retrieval_heads.stages.head_sets import CONTROLS, NONE, HeadSet, RunHeads, by_label, controls, run_heads
from retrieval_heads.stages.provide import Made, make_tables
from retrieval_heads.stages.sweeps import METRICS, PLACED, Resamples, Scores, as_cells, loss, mean_draws, per_example
from retrieval_heads.stats.areas import area_between
from retrieval_heads.stats.resample import NAN, Interval

if TYPE_CHECKING:
    from torch import nn

TABLES = ("knockout", "knockout_effects", "knockout_area", "text_loss")


def run(profile: Profile, options: Options = EVERYTHING) -> list[Path]:
    """Make the tables `knockout`, `knockout_effects`, `knockout_area` and `text_loss`; their paths."""
    detect.run(profile, options)
    wanted, grid = dissected(runs_of(profile, options)), dissected(runs_of(profile))
    return make_tables(profile, TABLES, knock_out_run, wanted, grid, description="knock-out")


def knock_out_run(profile: Profile, key: RunKey, device: str) -> Made:
    """Every set, mode and scope of one run."""
    from retrieval_heads.heads.ablate import mean_head_outputs
    from retrieval_heads.heads.sweeps import knockout_sweep

    heads, settings = run_heads(profile, key), profile.knockout
    # beside the profile's numbers, as many as the run has retrieval heads: all of them
    counts = sorted({k for k in (*settings.k, len(heads.retrieval)) if 0 < k <= heads.scores.size})
    model, tokenizer = load_run(profile, key, device)
    sets = knockout_sets(heads, counts, settings.draws, f"{key.name}|knockout", group_size(model))
    examples = held_out(profile, key.task, "test", profile.train_length)[: settings.n]
    resamples = Resamples(len(examples), profile.bootstrap)
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for scope in settings.scopes:
        probe = held_out(profile, key.task, "probe")
        means = mean_head_outputs(model, tokenizer, probe, scope) if "mean" in settings.modes else None
        found = knockout_sweep(model, tokenizer, examples, by_label([NONE, *sets]), settings.modes, scope, means,
                               sets_per_pass=sets_per_pass(device))
        for mode in settings.modes:
            scores = per_example(found, [NONE, *sets], mode)
            place = {**key.columns, "mode": mode, "scope": scope}
            if not rows["knockout"]:
                nowhere = {**key.columns, "mode": "none", "scope": "none"}
                rows["knockout"] += set_rows(nowhere, NONE, scores[NONE], heads, resamples)
            rows["knockout_area"] += area_rows(place, scores, heads.scores.size, resamples)
            for k in counts:
                of_size = {one: scores[one] for one in sets if len(one.heads) == k}
                rows["knockout"] += knockout_rows(place, of_size, heads, resamples)
                rows["knockout_effects"] += effect_rows(place, k, scores[NONE], of_size, resamples)
    if key.condition == REFERENCE:
        rows["text_loss"] = _text_rows(profile, key, model, tokenizer, [NONE, *sets])
    return Made(rows, used=len(examples))


def sets_per_pass(device: str) -> int:
    """Sets of heads in one pass of the suffix: many where the launches of a pass cost more than its rows."""
    return 128 if device.startswith("cuda") else 32


def group_size(model: nn.Module) -> int:
    """Query heads per key/value head."""
    layout = head_layout(model)
    return layout.n_heads // layout.n_kv_heads


def knockout_sets(
    heads: RunHeads, counts: Sequence[int], draws: int, where: str, group_size: int = 1,
    wanted: Sequence[str] = CONTROLS,
) -> list[HeadSet]:
    """For each count the strongest heads, and controls, none of which is a retrieval head.

    There is no control of a size for which too few heads are free. Seeds of the draws follow from `where`.
    """
    sets = []
    for k in counts:
        top = heads.top(k)
        sets.append(HeadSet("retrieval", tuple(sorted(top)), groups=groups_filled(top, group_size)))
        for name in wanted:
            sets += controls(name, top, heads, heads.retrieval, draws, where, group_size)
    return sets


def _text_rows(
    profile: Profile, key: RunKey, model: nn.Module, tokenizer: Any, sets: Sequence[HeadSet],
) -> list[dict[str, Any]]:
    """The loss on plain text without each set; the mean over the draws of a random control as draw 0."""
    from retrieval_heads.heads.ablate import text_losses

    ids = plain_text(tokenizer, n=profile.knockout.text_n, length=profile.base_length)
    losses = text_losses(model, ids, by_label(sets))
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for one in sets:
        found.setdefault((one.name, len(one.heads)), []).append(losses[one.label])
    return [
        {**key.columns, "set": name, "k": k, "loss": float(f"{np.mean(draws):.6g}"), "draws": len(draws), "n": len(ids)}
        for (name, k), draws in found.items()
    ]


def knockout_rows(
    place: dict[str, Any], scores: dict[HeadSet, Scores], heads: RunHeads, resamples: Resamples,
) -> list[dict[str, Any]]:
    """One row per set and metric, and one for the mean of the draws of each control (draw 0).

    Single draws are told of the share of right answers in mode `zero` only: all would be most of the table.
    """
    rows = []
    for one, found in scores.items():
        if one.draw and place["mode"] != "zero":
            continue
        shown = {METRICS["exact_match"]: found[METRICS["exact_match"]]} if one.draw else found
        rows += set_rows(place, one, shown, heads, resamples)
    for one, found in mean_draws(scores).items():
        rows += set_rows(place, one, found, heads, resamples)
    return rows


def set_rows(
    place: dict[str, Any], one: HeadSet, scores: Scores, heads: RunHeads, resamples: Resamples,
) -> list[dict[str, Any]]:
    """One row a metric."""
    return [
        {
            **place, "set": one.name, "draw": one.draw, "k": len(one.heads), "metric": metric,
            **as_cells(resamples.interval(values)), "n": resamples.n, "n_retrieval": len(heads.retrieval),
            **{name: float(getattr(one, name)) for name in PLACED},
        }
        for metric, values in scores.items()
    ]


def effect_rows(
    place: dict[str, Any], k: int, baseline: Scores, scores: dict[HeadSet, Scores], resamples: Resamples,
) -> list[dict[str, Any]]:
    """What each set costs against the model as it is, and how much more retrieval heads cost than each control."""
    [retrieval] = [found for one, found in scores.items() if one.name == "retrieval"]
    contrasts = {"retrieval": (baseline, retrieval)}
    for one, found in mean_draws(scores).items():
        contrasts |= {one.name: (baseline, found), f"retrieval_over_{one.name}": (found, retrieval)}
    return [
        {
            **place, "contrast": name, "k": k, "metric": metric,
            **as_cells(resamples.interval(loss(metric, before[metric], after[metric]))),
            "n": resamples.n, "draws": max(one.draw for one in scores),
        }
        for name, (before, after) in contrasts.items() for metric in METRICS.values()
    ]


def area_rows(
    place: dict[str, Any], scores: Mapping[HeadSet, Scores], n_heads: int, resamples: Resamples,
) -> list[dict[str, Any]]:
    """One row a control: the height of its curve above that of the retrieval heads, on average, with an interval.

    `scores` are of every set in one mode and scope, the model as it is among them, which has `n_heads`.
    """
    right = METRICS["exact_match"]
    start = scores[NONE][right][0]
    counts = sorted({len(one.heads) for one in scores if one.name == "retrieval"})

    def point(name: str, k: int) -> np.ndarray:
        """Mean over the draws, float64 `[n]`; NaN where there is no such set."""
        found = [values[right][0] for one, values in scores.items() if one.name == name and len(one.heads) == k]
        return np.mean(found, axis=0) if found else np.full(len(start), np.nan)

    curves = {name: np.array([start, *(point(name, k) for k in counts)]) for name in ("retrieval", *CONTROLS)}
    rows = []
    for reference in CONTROLS:
        found = area_between(curves[reference], curves["retrieval"], [0, *counts], n_heads=n_heads, axis="log",
                             n_resamples=resamples.n_resamples, seed=resamples.seed)
        rows.append({
            **place, "set": reference, **as_cells(Interval(found["area"], found["low"], found["high"])),
            "share": as_cells(Interval(found["share"], NAN, NAN))["value"], "start": float(start.mean()),
            "k_max": found["k_last"], "n": resamples.n,
        })
    return rows
