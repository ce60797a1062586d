"""The sets of heads that are knocked out and patched, from the head scores of the runs.

What counts is the kind of score that fits the task: the copy score where the answer is a piece of the needle, the
insight score where it is a document's number. Equal scores are common (most heads score 0), so the strongest heads are
ordered by the attention mass on the needles where their scores are equal. The weakest (`bottom`) are taken in the
layers of the heads that they are compared with, at random of equal scores: by a fixed order, that of mass too, the
weakest of a whole model are the heads of its first layers.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrieval_heads.data.example import task_of
from retrieval_heads.errors import ConfigError, HeadError
from retrieval_heads.heads import select
from retrieval_heads.keys import RunKey
from retrieval_heads.models.layout import Head
from retrieval_heads.settings import Profile
from retrieval_heads.store import Store


@dataclass(frozen=True)
class HeadSet:
    """One set of heads under a name (`retrieval`, `random`, `intersection`, ...).

    Attributes:
        draw: number of the random draw from 1; 0 for a set that is not drawn.
        moved: heads of a control that come from another layer than those they stand for; a mean over the draws where
            it stands for several.
        moved_group: the same of another key/value group.
        groups: key/value groups that the heads are in, likewise.
    """

    name: str
    heads: tuple[Head, ...]
    draw: int = 0
    moved: float = 0
    moved_group: float = 0
    groups: float = 0

    @property
    def label(self) -> str:
        """Unique among the sets of one run."""
        return f"{self.name}/{len(self.heads)}/{self.draw}"


NONE = HeadSet("none", ())
"""Stands for the model as it is."""


def by_label(sets: Iterable[HeadSet]) -> dict[str, tuple[Head, ...]]:
    """The heads of each set by its label, as sweeps take them."""
    return {one.label: one.heads for one in sets}


@dataclass(frozen=True, eq=False)
class RunHeads:
    """The heads of one run: scores and attention on the needles, float64 `[n_layers, n_heads]`, fractions.

    A head with a score above `threshold` is a retrieval head.
    """

    scores: np.ndarray
    mass: np.ndarray
    threshold: float

    @property
    def ranks(self) -> np.ndarray:
        """int `[n_layers, n_heads]`, 0 for the weakest head; equal scores are in order of mass, layer and head."""
        order = np.lexsort((np.arange(self.scores.size)[::-1], self.mass.ravel(), self.scores.ravel()))
        return order.argsort().reshape(self.scores.shape)

    @property
    def every(self) -> list[Head]:
        """All heads of the model."""
        return list(np.ndindex(self.scores.shape))

    @property
    def retrieval(self) -> list[Head]:
        """The retrieval heads in order of layer and head."""
        return sorted(select.select_heads(self.scores, self.threshold))

    def top(self, k: int) -> list[Head]:
        """The k strongest heads, whether or not they are above the threshold."""
        return select.top_heads(self.ranks, k)


def score_kind(profile: Profile, task: str) -> str:
    """The kind of score whose retrieval heads a task is about; `ConfigError` where the profile does not detect it."""
    kind = task_of(task).head_score
    if kind not in profile.detect.kinds:
        raise ConfigError(f"the task {task} needs the {kind} score", where=f"profile {profile.name}, detect.kinds",
                          value=list(profile.detect.kinds), remedy=f"Add `{kind}`.")
    return kind


def score_mode(profile: Profile) -> str:
    """The reading of the answer by which heads are chosen: `forced` where the profile has it."""
    return "forced" if "forced" in profile.detect.modes else profile.detect.modes[0]


def fitting_kind(profile: Profile, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table by the kind of score that fits each task, read from the answer as the study does."""
    kind = rows.task.map({task: score_kind(profile, task) for task in profile.tasks})
    return rows[(rows.kind == kind) & (rows.score_mode == score_mode(profile))]


def score_matrix(rows: pd.DataFrame, column: str = "score") -> np.ndarray:
    """float64 `[n_layers, n_heads]` from the rows of `head_scores` of one run, kind and mode."""
    return rows.pivot(index="layer", columns="head", values=column).to_numpy(dtype=np.float64)


def run_heads(profile: Profile, key: RunKey) -> RunHeads:
    """The heads of a run that has been scored; `ResultError` otherwise."""
    rows = fitting_kind(profile, Store(profile).read_part("head_scores", key))
    return RunHeads(score_matrix(rows), score_matrix(rows, "mass"), profile.detect.threshold)


CONTROLS = ("random", "random_group", "bottom")
"""Sets that stand beside retrieval heads in a knock-out: of the same layers; of the same key/value groups; the weakest
of the same layers."""


def controls(
    name: str, heads: Sequence[Head], run: RunHeads, barred: Iterable[Head], draws: int, where: str,
    group_size: int = 1,
) -> list[HeadSet]:
    """Random sets beside `heads` of a run, disjoint from them and from `barred`; their seeds follow from `where`.

    By its name a set is one of the `CONTROLS`; any other one is matched by layer like `random`. Where a layer has too
    few free heads, the nearest ones lend some, which `moved` counts. There is no set where `heads` is empty, or the
    model has too few free heads. `group_size` is the number of query heads per key/value head.
    """
    barred, shape, sets = list(barred), run.scores.shape, []
    for draw in range(1, draws + 1 if heads else 1):
        seed = zlib.crc32(f"{where}|{name}|{len(heads)}|{draw}".encode())
        try:
            if name == "random_group":
                drawn = select.group_heads(heads, shape, group_size, seed, barred)
            elif name == "bottom":
                drawn = select.weakest_heads(run.scores, heads, seed, barred)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # said by `moved`
                    drawn = select.random_heads(heads, shape, seed, barred, match="nearest")
        except HeadError:
            return []
        sets.append(HeadSet(
            name, tuple(drawn), draw, select.layer_mismatch(heads, drawn),
            select.group_mismatch(heads, drawn, group_size), select.groups_filled(drawn, group_size),
        ))
    return sets
