"""What heads are worth: what is lost without a run's own, and gained by those of the real run.

Twice: in right answers, and in the loss of the gold answer (nats a token), which moves where hardly an answer is right.

Means are over seeds, random draws of a control, and test examples, and all three are resampled together (the pigeonhole
bootstrap, Owen 2007). With one seed or draw there is nothing to draw along that axis, and the interval says nothing of
it. A seed without retrieval heads, or without a control, is left out of what needs them; `n_seeds` counts the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from retrieval_heads.diagnose.inputs import Inputs
from retrieval_heads.diagnose.rows import interval, row
from retrieval_heads.keys import RunKey
from retrieval_heads.stats.resample import crossed_means, percentile_interval

Each = dict[str, np.ndarray]
"""By set of heads, a number for each answer: float64 `[draws, n]`, one row where the set is not drawn."""

KINDS = {"right": ("", 1), "nll": ("nll_", -1)}
"""What is counted for each answer, with what its measures begin with, and 1 where more is better, -1 where less is."""

PATCHED = ("complement", "random_complement", "intersection", "random", "all")


def losses(inputs: Inputs, knocked_out: Mapping[RunKey, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is lost without all retrieval heads of a run, without as many random ones, and the difference."""
    rows = []
    for condition in inputs.conditions:
        for kind, (begin, sign) in KINDS.items():
            found = _each(inputs, condition, knocked_out, kind)
            for name, before, after in (
                ("retrieval", "none", "retrieval"), ("random", "none", "random"),
                ("retrieval_over_random", "random", "retrieval"),
            ):
                own = _difference(found, before, after)
                if own is not None:
                    rows.append(row(inputs, condition, f"{begin}loss_without_{name}", interval(inputs, sign * own),
                                    len(own)))
    return rows


def gains(inputs: Inputs, patched: Mapping[RunKey, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gap to the real run, what each set of heads gains when patched, and the share of the gap that this closes.

    A share is told where there is a gap beyond its interval; samples without a gap say nothing of it.
    """
    return [one for condition in inputs.request.names for kind, (begin, sign) in KINDS.items()
            for one in _gains(inputs, condition, _each(inputs, condition, patched, kind), begin, sign)]


def _gains(inputs: Inputs, condition: str, found: list[Each], begin: str, sign: int) -> Iterator[dict[str, Any]]:
    gap = _difference(found, "source", "none")
    if gap is None:
        return
    gap = sign * gap
    whole = interval(inputs, gap)
    yield row(inputs, condition, f"{begin}gap", whole, len(gap))
    over = _difference(found, "complement", "random_complement")
    if over is not None:
        yield row(inputs, condition, f"{begin}gain_complement_over_random", interval(inputs, sign * over), len(over))
    for name in PATCHED:
        gained = _difference(found, name, "none")
        if gained is None:
            continue
        gained = sign * gained
        yield row(inputs, condition, f"{begin}gain_{name}", interval(inputs, gained), len(gained))
        if whole.low > 0 and len(gained) == len(gap):
            both = np.stack([gained.mean(axis=1), gap.mean(axis=1)])
            samples = crossed_means(both, kept=(0,), n_resamples=inputs.request.bootstrap)
            useful = samples[:, 1] > 0
            share = percentile_interval(float(both[0].mean()) / whole.estimate,
                                        samples[useful, 0] / samples[useful, 1])
            yield row(inputs, condition, f"{begin}closed_{name}", share, len(gained))


def _each(inputs: Inputs, condition: str, parts: Mapping[RunKey, Mapping[str, Any]], kind: str) -> list[Each]:
    """Of each seed that was measured."""
    return [{name: np.array(values, dtype=np.float64) for name, values in parts[key][kind].items()}
            for key in inputs.runs(condition) if key in parts]


def _difference(found: list[Each], first: str, second: str) -> np.ndarray | None:
    """`first` less `second`, `[seeds, draws, n]`, of the seeds that have both; None without any."""
    each = [one[first] - one[second] for one in found if {first, second} <= set(one)]
    return np.stack(each) if each else None
