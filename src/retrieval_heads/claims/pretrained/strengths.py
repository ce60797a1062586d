"""Strengths of the heads of all runs by probe example, and how far runs agree, on opposite halves of the probe set.

The halves are the examples of even and of odd index. A run is compared with the `real` runs of other seeds, its half
with their other half, both ways round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.claims.head_arrays import need
from retrieval_heads.claims.pretrained.loading import CONTROLS, THETA_ALONE, in_order
from retrieval_heads.claims.strength_pairs import pair_mean
from retrieval_heads.errors import ResultError
from retrieval_heads.settings import REFERENCE

KEY = ["condition", "seed", "example", "layer", "head"]


@dataclass(frozen=True, eq=False)
class Probed:
    """The heads of one task by probe example.

    Attributes:
        conditions, seeds: labels of the axes; without theta alone.
        there: bool `[conditions, seeds]`, whether the run was scored.
        halves: two float32 `[conditions, seeds, examples of the half, layers, heads]`: score less chance level.
        alone: the same of theta alone, `[examples of the half, layers, heads]`; None where it was not scored.
    """

    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    there: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    alone: tuple[np.ndarray, np.ndarray] | None

    def of(self, names: list[str]) -> Probed:
        """The runs of these training sets only, in this order."""
        places = [self.conditions.index(name) for name in names]
        return Probed(tuple(names), self.seeds, self.there[places],
                      tuple(half[places] for half in self.halves), self.alone)  # type: ignore[arg-type]

    def strengths(self, weights: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """float64 `[2 halves, conditions, seeds, layers, heads]`: mean over the examples, not below 0; NaN without run.

        Args:
            weights: of the examples of each half, summing to 1; equal ones by default.
        """
        means = [_mean(half, None if weights is None else weights[i], 2) for i, half in enumerate(self.halves)]
        return np.where(self.there[..., None, None], np.maximum(means, 0.0), np.nan)

    def alone_strengths(self, weights: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """The same of theta alone, `[2 halves, layers, heads]`."""
        if self.alone is None:
            raise ResultError("theta alone was not scored", where="head_hits", value=THETA_ALONE,
                              remedy="Score the un-tuned model at the training length with the raised theta.")
        return np.maximum([_mean(half, None if weights is None else weights[i], 0)
                           for i, half in enumerate(self.alone)], 0.0)


def _mean(values: np.ndarray, weights: np.ndarray | None, axis: int) -> np.ndarray:
    if weights is None:
        return values.mean(axis=axis, dtype=np.float64)
    return np.moveaxis(values, axis, -1).astype(np.float64) @ weights


def probed(head_hits: pd.DataFrame, head_scores: pd.DataFrame, task: str, kind: str = "copy") -> Probed | None:
    """The heads of one task; None where no run was scored.

    Args:
        head_hits: the table of this name; heads and examples without a row score 0.
        head_scores: the table of this name, which says how many heads and probe examples there are.
        kind: of the score.

    Raises:
        ResultError: a column that is not there, a row that stands twice, runs with different probe examples or heads,
            or a run with rows in one of the two tables only.
    """
    need(head_hits, ["task", "kind", "score_mode", *KEY, "score", "chance"], "head_hits")
    need(head_scores, ["task", "condition", "seed", "kind", "score_mode", "layer", "head", "n_used"], "head_scores")
    hits, heads = (one[(one["task"] == task) & (one["kind"] == kind) & (one["score_mode"] == "forced")]
                   for one in (head_hits, head_scores))
    hits, heads = (one[one["condition"] != "base"] for one in (hits, heads))
    runs = heads[["condition", "seed"]].drop_duplicates()
    if not len(runs):
        return None
    _check(hits, heads, task)
    n, shape = int(heads["n_used"].iloc[0]), (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    conditions = [name for name in in_order(list(runs["condition"])) if name not in CONTROLS]
    seeds = sorted(runs.loc[~runs["condition"].isin(CONTROLS), "seed"].unique())
    cube = _cube(hits[hits["condition"].isin(conditions)], {"condition": conditions, "seed": seeds}, n, shape)
    there = np.zeros((len(conditions), len(seeds)), dtype=bool)
    for row in runs[runs["condition"].isin(conditions)].itertuples():
        there[conditions.index(row.condition), seeds.index(row.seed)] = True
    alone = None
    if (runs["condition"] == THETA_ALONE).any():
        own = _cube(hits[hits["condition"] == THETA_ALONE], {}, n, shape)
        alone = own[::2], own[1::2]
    return Probed(tuple(conditions), tuple(map(int, seeds)), there, (cube[:, :, ::2], cube[:, :, 1::2]), alone)


def _check(hits: pd.DataFrame, heads: pd.DataFrame, task: str) -> None:
    numbers = sorted(heads["n_used"].unique())
    runs, scored = (set(map(tuple, one[["condition", "seed"]].drop_duplicates().to_numpy().tolist()))
                    for one in (hits, heads))
    problem = None
    if len(numbers) > 1 or (len(hits) and hits["example"].max() >= numbers[0]):
        problem = "runs that were not scored on the same probe examples, or examples that were left out", numbers
    elif runs - scored:
        problem = "runs without rows in `head_scores`", sorted(runs - scored)
    elif hits.duplicated(KEY).any():
        problem = "a row that stands twice", hits[hits.duplicated(KEY)].iloc[0][KEY].to_dict()
    if problem:
        raise ResultError(problem[0], where=f"table head_hits, {task}", value=problem[1],
                          remedy="Make the detection again.")


def _cube(hits: pd.DataFrame, axes: Mapping[str, list], n: int, shape: tuple[int, int]) -> np.ndarray:
    """float32 `[*axes, examples, layers, heads]` of score less chance."""
    places = [pd.Categorical(hits[name], labels).codes.astype(np.intp) for name, labels in axes.items()]
    cube = np.zeros((*(len(labels) for labels in axes.values()), n, *shape), dtype=np.float32)
    index = (*places, *(hits[name].to_numpy(np.intp) for name in ("example", "layer", "head")))
    cube[index] = (hits["score"] - hits["chance"]).to_numpy(np.float32)
    return cube


def seeds_left_out(values: np.ndarray) -> Iterator[np.ndarray]:
    """`pair_mean` with each seed left out in turn, as run and as real run."""
    for out in range(values.shape[-1]):
        kept = np.delete(np.delete(values, out, axis=-1), out, axis=-2)
        yield pair_mean(kept)


def reference(probes: Probed) -> int | None:
    """The place of the real runs among the conditions; None where there are none."""
    return probes.conditions.index(REFERENCE) if REFERENCE in probes.conditions else None
