"""Which retrieval heads each set's runs have in common with the real run, and what heads are worth.

Recall and precision have an interval over seeds and probe examples, which are resampled together; the probe examples
are the same for all runs, and are drawn together. A resampled score is blurred twice, once by the probe examples at
hand and once by the draw from them, so heads near the threshold come and go more than they should: the interval is
rather wide, and lies rather low.

What is lost without a run's own heads, and gained by those of the real run, is reported twice: in right answers, and in
the loss of the gold answer (nats per token), which moves even if few answers are right. Means are over seeds, random
draws of a control, and test examples; all three are resampled together (the pigeonhole bootstrap, Owen 2007). With one
seed or draw there is nothing to draw along that axis, and the interval does not include it. A seed without retrieval
heads, or without a control, is left out of what needs them; `n_seeds` counts the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.keys import RunKey
from retrieval_heads.settings import REFERENCE, UNTUNED
from retrieval_heads.stages.head_sets import score_matrix
from retrieval_heads.stats.overlap import THRESHOLDS, overlap_curve, recall_precision
from retrieval_heads.stats.resample import crossed_means, draw, percentile_interval

Parts = Mapping[RunKey, Mapping[str, Any]]
"""What `work.Work` has made, by run."""

MEASURES = ("recall", "precision")

KINDS = {"right": ("", 1), "nll": ("nll_", -1)}
"""What is counted for each answer, with what its measures begin with, and 1 where more is better, -1 where less is."""

PATCHED = ("complement", "random_complement", "intersection", "random", "all")

ROUNDING = 1e-6
"""Kept scores have six digits: a mean that is no more than this above the threshold is at it."""


def _references(inputs: Inputs, key: RunKey) -> list[RunKey]:
    """Whose heads a run's are compared with: those of the untuned model and of the real run, but not its own.

    Real runs have no other real run of their seed to stand beside.
    """
    real = None if key.condition == REFERENCE else inputs.real_run(key)
    return [one for one in (inputs.runs(UNTUNED)[0], real) if one not in (None, key)]


def _matrix(part: Mapping[str, Any]) -> np.ndarray:
    return score_matrix(pd.DataFrame(part["heads"]))


def overlaps(inputs: Inputs, measured: Parts) -> pd.DataFrame:
    """The table `overlap`: each run beside its references, over thresholds; chance is for heads drawn in each layer."""
    matrices = {key: _matrix(part) for key, part in measured.items()}
    thresholds = sorted({*THRESHOLDS, inputs.request.threshold})
    return pd.DataFrame([
        {
            **key.columns, "reference": reference.condition, "reference_seed": reference.seed,
            "threshold": found["threshold"], "measure": measure, "value": found[measure],
            "chance": found[f"{measure}_layer_chance"], "chance_low": found[f"{measure}_layer_chance_low"],
            "chance_high": found[f"{measure}_layer_chance_high"], "p": found["overlap_layer_p"],
            "n_reference": int(found["n_real"]), "n_heads": int(found["n_synthetic"]),
            "n_common": int(found["n_common"]),
        }
        for key, scores in matrices.items() for reference in _references(inputs, key)
        for found in overlap_curve(matrices[reference], scores, thresholds, n_permutations=1).to_dict("records")
        for measure in MEASURES
    ])


def missed(inputs: Inputs, measured: Parts) -> pd.DataFrame:
    """The table `missed_heads`: the real run's retrieval heads that a set's run of some seed lacks.

    Scores are means over all seeds; `missed` counts the pairs of runs in which the real one has the head and the set's
    has not, of `n_seeds` pairs.
    """
    threshold, rows = inputs.request.threshold, []
    for condition in inputs.request.names if inputs.request.has_real else ():
        keys = inputs.runs(condition)
        real = np.stack([_matrix(measured[inputs.real_run(key)]) for key in keys])
        own = np.stack([_matrix(measured[key]) for key in keys])
        counts = ((real > threshold) & (own <= threshold)).sum(axis=0)
        rows += [
            {"condition": condition, "layer": int(layer), "head": int(head),
             "real_score": float(f"{real[:, layer, head].mean():.4g}"),
             "score": float(f"{own[:, layer, head].mean():.4g}"), "missed": int(counts[layer, head]),
             "n_seeds": len(keys)}
            for layer, head in sorted(zip(*counts.nonzero(), strict=True),
                                      key=lambda place: (-real[:, *place].mean(), place))
        ]
    return pd.DataFrame(rows)


def shares(inputs: Inputs, measured: Parts, overlap: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Recall and precision at the threshold: means over the seeds in which they are defined, beside chance."""
    if overlap.empty:
        return
    at = overlap[overlap["threshold"] == inputs.request.threshold]
    for (condition, reference, measure), own in at.groupby(["condition", "reference", "measure"], sort=False):
        known = own.dropna(subset=["value"])
        if known.empty:
            continue
        pairs = [[measured[other]["each"], measured[key]["each"]] for key in inputs.runs(condition)
                 for other in _references(inputs, key) if other.condition == reference]
        drawn, estimate = _resampled(inputs, pairs, measure), float(known["value"].mean())
        value = percentile_interval(estimate, drawn)
        size = known["n_reference" if measure == "recall" else "n_heads"].mean()
        yield {**inputs.row(condition, f"{measure}_of_{reference}", value, len(known)),
               "chance": float(known["chance"].mean()), "n": round(size)}


def _resampled(inputs: Inputs, pairs: list[list[Any]], measure: str) -> np.ndarray | None:
    """The mean over seeds in samples of seeds and probe examples; None where there is one of both.

    For each seed, `pairs` has per-example scores `[n_probe, n_layers, n_heads]` of the reference and of the run. A
    sample where the measure is not defined for any seed is left out.
    """
    n_seeds, n = len(pairs), len(pairs[0][0])
    if n_seeds * n == 1:
        return None
    n_resamples, rng = inputs.request.bootstrap, np.random.default_rng(0)
    examples, seeds = draw(rng, n, n_resamples) / n, draw(rng, n_seeds, n_resamples)
    total, count = np.zeros(n_resamples), np.zeros(n_resamples)
    for place, pair in enumerate(pairs):
        # not by BLAS, whose sums depend on the number of threads in the last digit
        reference, own = (
            np.einsum("be,eh->bh", examples, np.asarray(scores, dtype=np.float64).reshape(n, -1))
            > inputs.request.threshold + ROUNDING for scores in pair
        )
        share = recall_precision(reference, own)[MEASURES.index(measure)]
        weight = seeds[:, place] * ~np.isnan(share)
        total, count = total + weight * np.nan_to_num(share), count + weight
    return (total[count > 0] / count[count > 0]) if (count > 0).any() else None


def losses(inputs: Inputs, knocked_out: Parts) -> Iterator[dict[str, Any]]:
    """What is lost without all retrieval heads of a run, without as many random ones, and the difference."""
    for condition, begin, difference in _differences(inputs, inputs.conditions, knocked_out):
        for name, before, after in (("retrieval", "none", "retrieval"), ("random", "none", "random"),
                                    ("retrieval_over_random", "random", "retrieval")):
            if (lost := difference(before, after)) is not None:
                yield inputs.row(condition, f"{begin}loss_without_{name}", lost)


def gains(inputs: Inputs, patched: Parts) -> Iterator[dict[str, Any]]:
    """The gap to the real run, what each set of heads gains when patched, and the share of the gap that this closes.

    A share is told where there is a gap beyond its interval; samples without a gap say nothing of it.
    """
    for condition, begin, difference in _differences(inputs, inputs.request.names, patched):
        gap = difference("source", "none")
        if gap is None:
            continue
        whole = inputs.interval(gap)
        yield inputs.row(condition, f"{begin}gap", whole, len(gap))
        if (over := difference("complement", "random_complement")) is not None:
            yield inputs.row(condition, f"{begin}gain_complement_over_random", over)
        for name in PATCHED:
            gained = difference(name, "none")
            if gained is None:
                continue
            yield inputs.row(condition, f"{begin}gain_{name}", gained)
            if whole.low > 0 and len(gained) == len(gap):
                both = np.stack([gained.mean(axis=1), gap.mean(axis=1)])
                samples = crossed_means(both, kept=(0,), n_resamples=inputs.request.bootstrap)
                useful = samples[samples[:, 1] > 0]
                share = percentile_interval(float(both[0].mean()) / whole.estimate, useful[:, 0] / useful[:, 1])
                yield inputs.row(condition, f"{begin}closed_{name}", share, len(gained))


def _differences(
    inputs: Inputs, conditions: Iterable[str], parts: Parts,
) -> Iterator[tuple[str, str, Callable[[str, str], np.ndarray | None]]]:
    """By condition and `KINDS`: how much better answers are under a first set of heads than under a second one.

    That is float64 `[seeds, draws, n]`, of the seeds that have both sets; None without any.
    """
    for condition in conditions:
        for kind, (begin, sign) in KINDS.items():
            each = [{name: sign * np.array(values, dtype=np.float64) for name, values in parts[key][kind].items()}
                    for key in inputs.runs(condition) if key in parts]

            def difference(first: str, second: str, each: Any = each) -> np.ndarray | None:
                found = [one[first] - one[second] for one in each if {first, second} <= set(one)]
                return np.stack(found) if found else None

            yield condition, begin, difference
